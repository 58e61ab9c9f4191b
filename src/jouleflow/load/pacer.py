"""Calls back at given moments, to some 0.2 ms: the timers of event loops are rounded to whole milliseconds, which would be most of the
latency of a small model. It is a timer of the system that the loop watches like a socket, so that nobody else need be woken.

Source: Linux, `timerfd_create`(2). Elsewhere the loop's own timers must do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
from collections.abc import Callable, Sequence
from time import monotonic

SPACING_S = (
    0.0005  # between two calls: more moments than that share one, as each waking costs as much as sending a request
)
_CLOCK_MONOTONIC, _ABSOLUTE = 1, 1
_TIMES = struct.Struct("@llll")  # interval and first moment, each as seconds and nanoseconds


class Pacer:
    """Calls `due(n)` with how many of the moments have come, until all have. Times on the clock of `time.monotonic`, rising. Made on the
    loop, ended by `stop`."""

    def __init__(self, moments_s: Sequence[float], due: Callable[[int], None]) -> None:
        self._moments_s, self._due, self._n = moments_s, due, 0
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._fd = self._opened()
        self._next()

    def _opened(self) -> int:
        if self._libc is None:
            return -1
        fd = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"no timer: {os.strerror(code)}")
        self._loop.add_reader(fd, self._told)
        return fd

    def _told(self) -> None:
        now_s, n, moments_s = monotonic(), self._n, self._moments_s
        while n < len(moments_s) and moments_s[n] <= now_s:
            n += 1
        if n > self._n:
            self._n = n
            self._due(n)
        self._next()

    def _next(self) -> None:
        if self._n >= len(self._moments_s):
            self.stop()
            return
        at_s = max(self._moments_s[self._n], monotonic() + SPACING_S if self._n else 0.0)
        if self._libc is None:
            self._loop.call_later(max(at_s - monotonic(), 0.0), self._told)
        elif self._fd >= 0:
            whole = int(at_s)
            self._libc.timerfd_settime(
                self._fd, _ABSOLUTE, _TIMES.pack(0, 0, whole, int((at_s - whole) * 1e9) + 1), None
            )

    def stop(self) -> None:
        """Calls no more."""
        self._n = len(self._moments_s)
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
