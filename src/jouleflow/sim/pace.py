"""The pace of a machine that others use too: for a while everything takes as long as it should, and then for a while half as long again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

HOLD_S = 0.5  # that a pace lasts, in the mean


@dataclass(frozen=True, slots=True)
class Pace:
    """How many times longer than on a calm machine batches take. spread: equally likely values; always 1 when there are none. seed: which
    course it takes."""

    spread: tuple[float, ...] = ()
    seed: int = 0

    def course(self) -> Callable[[float], float]:
        """The pace at a time, for times that rise: the same course for whoever asks, and however often."""
        if not self.spread:
            return lambda now_s: 1.0
        random = np.random.default_rng(self.seed)
        until_s, pace = 0.0, 1.0

        def at(now_s: float) -> float:
            nonlocal until_s, pace
            while now_s >= until_s:
                until_s += random.exponential(HOLD_S)
                pace = self.spread[int(random.random() * len(self.spread))]
            return pace

        return at
