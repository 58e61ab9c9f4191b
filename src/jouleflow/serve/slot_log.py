"""What `bcedge` saw, chose and gained, slot by slot, in a file that `jouleflow train bcedge --log` learns from."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import orjson

from jouleflow.errors import InputError
from jouleflow.policy.bcedge import Slot

MAX_BYTES = 256 << 20  # some 500,000 slots
FLUSH_SLOTS = 200


class SlotLog:
    """Appends a line of JSON a slot, up to MAX_BYTES. A full disk ends the log, not the server.

    Raises InputError when the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] | None = path.open("ab")
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
