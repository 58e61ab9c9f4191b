"""Wakes an event loop at given moments, to some 0.1 ms: the timers of event loops are rounded to whole milliseconds, which would be most
of the latency of a small model."""

from __future__ import annotations

import asyncio
import threading
import time
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from jouleflow.runtime.time_slice import ask_for_short_slices


class Pacer:
    """Tells how many of the moments have come; times on the clock of `time.monotonic`, rising. Made on the loop, ended by `stop`."""

    def __init__(self, moments_s: NDArray[np.float64]) -> None:
        self.moments_s, self.n_due = moments_s, 0
        self._loop, self._woken, self._stopped = asyncio.get_running_loop(), asyncio.Event(), False
        threading.Thread(target=self._run, daemon=True).start()

    async def due(self, n_known: int) -> int:
        """How many have come, once it is more than n_known."""
        while self.n_due <= n_known:
            self._woken.clear()
            if self.n_due <= n_known:
                await self._woken.wait()
        return self.n_due

    def stop(self) -> None:
        """Ends the thread at its next moment."""
        self._stopped = True

    def _run(self) -> None:
        ask_for_short_slices()
        n, moments_s = 0, self.moments_s
        while n < len(moments_s) and not self._stopped:
            wait_s = moments_s[n] - monotonic()
            if wait_s > 0:
                time.sleep(min(wait_s, 1.0))
                if wait_s > 1.0:
                    continue
            n = int(np.searchsorted(moments_s, monotonic(), "right"))
            try:
                self._loop.call_soon_threadsafe(self._tell, n)
            except RuntimeError:  # the loop has ended
                return

    def _tell(self, n: int) -> None:
        self.n_due = max(n, self.n_due)
        self._woken.set()
