"""How long a batch takes by its rows: the one curve that policies, the server and its simulation share."""

from __future__ import annotations

from dataclasses import dataclass

WORTH_FRAC = 0.02  # more rows a second for which a larger batch is taken


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of a batch by its rows, alone on its core: at_rows (rising, from 1) and seconds, linear between and beyond."""

    at_rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, n_rows: int) -> float:
        """Of a batch of n_rows."""
        at, s = self.at_rows, self.seconds
        if n_rows <= at[0] or len(at) == 1:
            return s[0] * max(n_rows / at[0], 1.0) if len(at) == 1 else s[0]
        k = 1
        while k < len(at) - 1 and at[k] < n_rows:
            k += 1
        slope = (s[k] - s[k - 1]) / (at[k] - at[k - 1])
        return max(s[k - 1] + slope * (n_rows - at[k - 1]), s[0])

    def best_rows(self, most: int, within_s: float) -> int:
        """The rows of the batch that gets most done a second, of at most `most` rows and within_s; at least 1."""
        best, best_rate = 1, 1 / self.of(1)
        for n in (*(k for k in self.at_rows if 1 < k < most), most):
            seconds = self.of(n)
            if seconds <= within_s and n / seconds > best_rate * (1 + WORTH_FRAC):
                best, best_rate = n, n / seconds
        return best
