"""A server of our own in a process of its own, for demos and measurements, while a block lasts."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jouleflow.errors import InputError

STOP_S = 60.0


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Where it is. pid: of the server itself; its models are its children."""

    host: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextmanager
def local_server(
    folder: Path, options: tuple[str, ...] = (), note: Callable[[str], None] = lambda _: None
) -> Iterator[LocalServer]:
    """`jouleflow serve` on a free port of this machine, stopped at the end. note: told what it says.

    Raises InputError when it does not start.
    """
    command = [sys.executable, "-m", "jouleflow", "serve", str(folder), "--http", "127.0.0.1:0", "--grpc", "", *options]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        port = _port(child.stderr, note)
        threading.Thread(target=_drain, args=(child.stderr, note), daemon=True).start()
        yield LocalServer("127.0.0.1", port, child.pid)
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _port(lines: IO[str], note: Callable[[str], None]) -> int:
    for line in lines:
        note(line.strip())
        if line.startswith("listening:"):
            return int(line.rsplit(" ", 1)[1])
    raise InputError("the server did not start; what it said is above")


def _drain(lines: IO[str], note: Callable[[str], None]) -> None:
    for line in lines:
        note(line.strip())
