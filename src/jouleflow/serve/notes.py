"""Lines for people on standard error, where a reader that has stopped, a closed end or a full disk must not stop the server."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading

MAX_LINES = 1000  # that wait to be written; beyond it they are dropped


class Notes:
    """Writes lines to a file descriptor from a thread of its own. Not through sys.stderr, whose lock a blocked thread would keep
    for ever. What cannot be printed is escaped: names in a line may come from a model's file."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._run, name="notes", daemon=True)
        self._thread.start()

    def __call__(self, text: str) -> None:
        """Takes a line; never waits, never raises."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(text)

    def close(self, wait_s: float = 0.5) -> None:
        """Waits until what was taken is written, but not long."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(wait_s)

    def _run(self) -> None:
        while (text := self._lines.get()) is not None:
            line = "".join(c if c.isprintable() else "\n  " if c == "\n" else repr(c)[1:-1] for c in text.rstrip())
            with contextlib.suppress(OSError):
                os.write(self._fd, line.encode(errors="backslashreplace") + b"\n")


class NotesHandler(logging.Handler):
    """Log records as notes."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self.notes(self.format(record))


def hold_standard_descriptors() -> None:
    """Puts /dev/null in place of standard descriptors that are closed, so that no socket gets their number and is written to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(fd)
