"""How long answered requests took. Each is appended to a list while serving, as that costs next to nothing, and they are counted in
bulk: when many have come, and whenever somebody asks.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MANY = 8192  # appended before they should be counted
MAX_CHUNKS = 8  # kept for whoever takes the newest; older ones are only counted


class LatencyCounts:
    """Of one model. Whoever appends to recent_s calls `count` once there are MANY. slo_s 0: whatever was answered was in time."""

    def __init__(self, slo_s: float) -> None:
        self.slo_s = slo_s
        self.recent_s: list[float] = []
        self.n_in_time = 0
        self.sum_s = 0.0
        self.n_by_bound = np.zeros(len(BOUNDS_S) + 1, np.int64)  # the last one: longer than all bounds
        self._newest: deque[NDArray[np.float64]] = deque(maxlen=MAX_CHUNKS)

    def count(self) -> None:
        """Counts what was appended."""
        if not self.recent_s:
            return
        taken_s = np.array(self.recent_s)
        self.recent_s.clear()
        places = np.searchsorted(BOUNDS_S, taken_s)
        self.n_by_bound += np.bincount(places, minlength=len(BOUNDS_S) + 1)
        self.sum_s += float(taken_s.sum())
        self.n_in_time += int((taken_s <= self.slo_s).sum()) if self.slo_s else len(taken_s)
        self._newest.append(taken_s)

    def take(self) -> NDArray[np.float64]:
        """The latencies since the last call, in seconds; the newest MANY * MAX_CHUNKS at most."""
        self.count()
        taken_s = np.concatenate(self._newest) if self._newest else np.empty(0)
        self._newest.clear()
        return taken_s
