"""What `bcedge` saw, chose and gained, slot by slot, in a file that `jouleflow train bcedge --log` learns from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import orjson

from jouleflow.errors import InputError
from jouleflow.policy.bcedge import Slot

MAX_BYTES = 256 << 20  # some 500,000 slots
FLUSH_SLOTS = 200
LINE, MAX_LINE_BYTES = b'{"model":', 1 << 16  # how a line begins, and how long none is


class SlotLog:
    """Appends a line of JSON a slot, up to MAX_BYTES, after the last whole line there. A full disk ends the log, not the server.

    Raises InputError when the file cannot be opened or is another.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] | None = path.open("a+b")
            _drop_torn_line(self._file)
        except OSError as error:
            raise InputError(f"cannot write the slot log {path}: {error.strerror or error}") from error
        self._lines: list[bytes] = []
        self._n_bytes = path.stat().st_size

    def __call__(self, model: str, slot: Slot) -> None:
        """Hears of a slot."""
        seen, then = slot.seen.tolist(), slot.seen_then.tolist()
        self._lines.append(
            orjson.dumps({"model": model, "seen": seen, "choice": slot.choice, "reward": slot.reward, "then": then})
        )
        if len(self._lines) >= FLUSH_SLOTS:
            self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        lines, self._lines = self._lines, []
        raw = b"".join(line + b"\n" for line in lines)
        self._n_bytes += len(raw)
        if self._file is None or not raw:
            return
        try:
            if self._n_bytes > MAX_BYTES:
                self._file.close()
                self._file = None
                return
            self._file.write(raw)
            self._file.flush()
        except OSError:
            self._file = None  # the disk is full: serving goes on

    def close(self) -> None:
        """Writes the rest."""
        self.flush()
        if self._file is not None:
            self._file.close()


def _drop_torn_line(file: IO[bytes]) -> None:
    """Cuts off what a server that was killed did not finish: the next line would be joined to it, and the log refused for ever.

    Raises InputError when it is not the beginning of a line of ours: it is another file, and stays as it is.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - MAX_LINE_BYTES, 0))
    tail = file.read()
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return
    if torn[: len(LINE)] != LINE[: len(torn)]:
        raise InputError(f"{file.name} is no slot log: give another file")
    file.truncate(size - len(torn))
