"""Latencies as they are seen while serving: a running mean for each size of batch, kept from falling as batches grow.

What a size did long ago says little of what it would do now, and a size that once looked slow would never be tried again. So a
size that is not seen drifts back to what it was at best, and is tried again when that looks good.
"""

from __future__ import annotations

from math import inf

from jouleflow.profile.latencies import Latencies

WEIGHT = 0.1  # of a new value in the running mean
REFRESH = 16  # batches between two looks at the means
DRIFT = 0.01  # of the way back to its best, each refresh in which a size was not seen


class LearnedLatencies:
    """Starts from what a warm-up measured, or from nothing."""

    def __init__(self) -> None:
        self._best: dict[int, float] = {}
        self._means: dict[int, float] = {}
        self._seen: set[int] = set()
        self._now: Latencies | None = None
        self._n = 0

    @property
    def now(self) -> Latencies | None:
        """What is known; None before the first batch."""
        return self._now

    @property
    def best_row_s(self) -> float:
        """The least that a row was ever seen to take: alone, undisturbed; 0 while unknown."""
        return self._best.get(1) or min(self._best.values(), default=0.0)

    def best_s(self, n_rows: int) -> float:
        """The least that a batch of so many rows, or of the next size that is known, has ever taken; 0 when nothing is known."""
        sizes = [size for size in self._best if size >= n_rows] or list(self._best)
        return self._best[min(sizes, key=lambda size: abs(size - n_rows))] if sizes else 0.0

    def start_from(self, n_rows: int, seconds: float) -> None:
        """What a size takes at best, measured before serving."""
        self._best[n_rows] = self._means[n_rows] = seconds
        self._refresh()

    def saw(self, n_rows: int, seconds: float) -> None:
        """Learns from one batch."""
        known = self._means.get(n_rows)
        self._means[n_rows] = seconds if known is None else known + WEIGHT * (seconds - known)
        self._best[n_rows] = min(self._best.get(n_rows, seconds), seconds)
        self._seen.add(n_rows)
        self._n += 1
        if known is None or self._n % REFRESH == 0:
            self._drift()
            self._seen.clear()
            self._refresh()

    def _drift(self) -> None:
        """What was not seen goes towards what it may take when it is tried again: its best, or what a smaller size takes a row; what was seen
        once may have been a slow moment."""
        row_s = inf
        for size in sorted(self._means):
            if size not in self._seen:
                self._means[size] += DRIFT * (min(self._best[size], row_s * size) - self._means[size])
            row_s = min(row_s, self._means[size] / size)

    def _refresh(self) -> None:
        sizes = sorted(self._means)
        rising, least = [], 0.0
        for size in sizes:
            least = max(least, self._means[size])
            rising.append(least)
        self._now = Latencies(tuple(sizes), tuple(rising))
