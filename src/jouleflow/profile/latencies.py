"""How long a batch takes by its rows: the one curve that policies, the server and its simulation share."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

WORTH_FRAC = 0.02  # more rows a second for which a larger batch is taken
MAX_KEPT = 512  # answers: a server asks the same a hundred times before it learns more


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of a batch by its rows, alone on its core: at_rows (rising, from 1) and seconds, linear between and beyond."""

    at_rows: tuple[int, ...]
    seconds: tuple[float, ...]
    _of: dict[int, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    _best: dict[tuple[int, float], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of(self, n_rows: int) -> float:
        """Of a batch of n_rows."""
        known = self._of.get(n_rows)
        if known is None:
            _make_room(self._of)
            known = self._of[n_rows] = self._interpolated(n_rows)
        return known

    def _interpolated(self, n_rows: int) -> float:
        at, s = self.at_rows, self.seconds
        if n_rows <= at[0] or len(at) == 1:
            return s[0] * max(n_rows / at[0], 1.0) if len(at) == 1 else s[0]
        k = min(bisect_left(at, n_rows, 1), len(at) - 1)
        slope = (s[k] - s[k - 1]) / (at[k] - at[k - 1])
        return max(s[k - 1] + slope * (n_rows - at[k - 1]), s[0])

    def best_rows(self, most: int, within_s: float) -> int:
        """The rows of the batch that gets most done a second, of at most `most` rows and within_s; at least 1."""
        known = self._best.get((most, within_s))
        if known is None:
            _make_room(self._best)
            known = self._best[most, within_s] = self._searched(most, within_s)
        return known

    def _searched(self, most: int, within_s: float) -> int:
        best, best_rate = 1, 1 / self.of(1)
        for n in (*(k for k in self.at_rows if 1 < k < most), most):
            seconds = self.of(n)
            if seconds <= within_s and n / seconds > best_rate * (1 + WORTH_FRAC):
                best, best_rate = n, n / seconds
        return best


def _make_room(kept: dict[Any, Any]) -> None:
    if len(kept) >= MAX_KEPT:
        kept.clear()
