"""How much a time varies, kept as some equally likely values: what measuring leaves of many times, and the simulation draws from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

N_VALUES = 100
BLOCK = 4096  # draws that are made at once: one at a time costs more than what they are for


def spread_of(seconds: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
    """At most N_VALUES equally likely values in rising order: the quantiles in the middle of as many equal parts. None of none."""
    if not len(seconds):
        return ()
    n = min(len(seconds), N_VALUES)
    return tuple(float(s) for s in np.quantile(seconds, (np.arange(n) + 0.5) / n))


class Draws:
    """Draws from spreads, the same for the same generator."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._left: list[float] = []

    def of(self, spread: tuple[float, ...]) -> float:
        """One of the values; 0 of none."""
        if not spread:
            return 0.0
        if not self._left:
            self._left = self._random.random(BLOCK).tolist()
        return spread[int(self._left.pop() * len(spread))]
