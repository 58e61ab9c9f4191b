"""A real `jouleflow serve` under test: the process, what it says of itself, and clients that account for every request they send."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from setting import OURS

ENDS = ("completed", "rejected", "expired", "cancelled", "failed")
FINAL = re.compile(r"(\S+) version (\S+): (\d+) accepted = " + ", ".join(rf"(\d+) {end}" for end in ENDS))
TOKEN = "chaos"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def children() -> dict[int, list[int]]:
    """The children of every process that has some, but for those that have ended."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found.setdefault(int(fields[1]), []).append(int(path.parent.name))
    return found


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    of, found = children(), [pid]
    for each in found:
        found += of.get(each, [])
    return found


class ServerProcess:
    """stderr: a descriptor, or None to read it; environment: added to ours."""

    def __init__(
        self, folder: Path, *options: str, stderr: int | None = None, grpc: bool = False, **environment: str
    ) -> None:
        self.port, self.admin_port, self.grpc_port = free_port(), free_port(), free_port() if grpc else 0
        command = [
            sys.executable, "-m", "jouleflow", "serve", str(folder), "--http", f"127.0.0.1:{self.port}", "--admin",
            f"127.0.0.1:{self.admin_port}", "--grpc", f"127.0.0.1:{self.grpc_port}" if grpc else "", *options,
        ]  # fmt: skip
        own = {"PYTHONPATH": OURS, "JOULEFLOW_ADMIN_TOKEN": TOKEN}
        self.lines: list[str] = []
        self.child = subprocess.Popen(  # in a session of its own: Ctrl-C is for the benchmark
            command,
            stderr=subprocess.PIPE if stderr is None else stderr,
            env={**os.environ, **own, **environment},
            start_new_session=True,
        )
        if stderr is None:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        self._wait()

    def _read(self) -> None:
        assert self.child.stderr is not None
        for raw in self.child.stderr:
            self.lines.append(raw.decode().rstrip())

    def _wait(self) -> None:
        for _ in range(600):
            try:
                self.get("/v2/health/live")
                return
            except OSError:
                if self.child.poll() is not None:
                    break
                time.sleep(0.1)
        raise RuntimeError(f"the server did not start: {self.lines}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def ready(self) -> bool:
        try:
            self.get("/v2/health/ready")
            return True
        except OSError:
            return False

    def load(self, model: str) -> int:
        """The status of loading a model again."""
        url = f"http://127.0.0.1:{self.admin_port}/v2/repository/models/{model}/load"
        asked = urllib.request.Request(url, b"", {"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def stats(self) -> dict[str, dict[str, Any]]:
        return {m["name"]: m["jouleflow"] for m in self.get("/v2/models/stats")["model_stats"]}

    def settled(self) -> dict[str, dict[str, Any]]:
        """The statistics once nothing waits or runs any more."""
        for _ in range(600):
            now = self.stats()
            if not any(m["waiting"] or m["running_batches"] for m in now.values()):
                return now
            time.sleep(0.1)
        raise RuntimeError(f"something waits for ever: {now}")

    def workers(self) -> list[int]:
        """The processes of the models."""
        return children().get(self.child.pid, [])

    def rss_bytes(self, pid: int = 0) -> int:
        return int(Path(f"/proc/{pid or self.child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def n_fds(self) -> int:
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def n_threads(self) -> int:
        return len(os.listdir(f"/proc/{self.child.pid}/task"))

    def terminate(self) -> tuple[int, dict[str, dict[str, int]]]:
        """Its exit status, and the last counts that it wrote."""
        self.child.send_signal(signal.SIGTERM)
        status = self.child.wait(60)
        if self.child.stderr is not None:
            self._reader.join(5)
        found = [match for line in self.lines if (match := FINAL.fullmatch(line))]
        return status, {
            m[1]: {"accepted": int(m[3]), **{end: int(m[4 + k]) for k, end in enumerate(ENDS)}} for m in found
        }

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


@dataclass
class Account:
    """What clients know: every request sent has one answer or lost its connection. latency_s: of the answers of 200."""

    sent: int = 0
    lost: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    latency_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0  # until any answer

    @property
    def adds_up(self) -> bool:
        return self.sent == self.lost + sum(self.statuses.values())

    def percentile(self, p: float) -> float | None:
        ordered = sorted(self.latency_s)
        return ordered[min(int(len(ordered) * p / 100), len(ordered) - 1)] if ordered else None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of an answer, and whether it is the last of its connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    await reader.readexactly(size)
    return int(head.split(b" ", 2)[1]), b"connection: close" in head


async def _client(port: int, request: bytes, until_s: float, pause_s: float, account: Account) -> None:
    writer: asyncio.StreamWriter | None = None
    while time.monotonic() < until_s:
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        start_s = time.monotonic()
        account.sent += 1
        try:
            writer.write(request)
            status, is_last = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            account.lost += 1
            writer.close()
            writer = None
            continue
        seconds = time.monotonic() - start_s
        account.statuses[status] += 1
        account.longest_s = max(account.longest_s, seconds)
        if status == 200:
            account.latency_s.append(seconds)
        if is_last:
            writer.close()
            writer = None
        await asyncio.sleep(pause_s)
    if writer is not None:
        writer.close()


async def load(port: int, request: bytes, n_clients: int, seconds: float, pause_s: float = 0.002) -> Account:
    """Clients that each ask, wait for the answer, pause, and ask again; a lost connection is opened anew."""
    account, until_s = Account(), time.monotonic() + seconds
    await asyncio.gather(*(_client(port, request, until_s, pause_s, account) for _ in range(n_clients)))
    return account
