"""Latencies as they are seen while serving: a running mean for each size of batch, kept from falling as batches grow."""

from __future__ import annotations

from jouleflow.policy.batch import Latencies

WEIGHT = 0.1  # of a new value in the running mean
REFRESH = 16  # batches between two looks at the means


class LearnedLatencies:
    """Starts from a profile, or from nothing."""

    def __init__(self, start: Latencies | None = None) -> None:
        self._means: dict[int, float] = dict(zip(start.at_rows, start.seconds, strict=True)) if start else {}
        self._now = start
        self._n = 0

    @property
    def now(self) -> Latencies | None:
        """What is known; None before the first batch."""
        return self._now

    def saw(self, n_rows: int, seconds: float) -> None:
        """Learns from one batch."""
        known = self._means.get(n_rows)
        self._means[n_rows] = seconds if known is None else known + WEIGHT * (seconds - known)
        self._n += 1
        if known is None or self._n % REFRESH == 0:
            sizes = sorted(self._means)
            rising, least = [], 0.0
            for size in sizes:
                least = max(least, self._means[size])
                rising.append(least)
            self._now = Latencies(tuple(sizes), tuple(rising))
