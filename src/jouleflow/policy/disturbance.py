"""How much longer batches of a model take beside each other than alone, as seen lately.

This is what a table of latencies does not know and a net is told. Where it is little there is nothing that a net could know better, so
that the table decides; and so it does now and then where it is much, as what was seen is forgotten: else who lets one batch run
at a time, for what was seen in one slow minute, would never see otherwise. Our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

MUCH = 1.3  # times longer than alone, from which on a net may know better
WEIGHT = 0.05  # of a batch in a running mean, once there are many
FORGET_S = 10.0  # time constant, after which what was seen is forgotten


@dataclass(slots=True)
class Disturbance:
    """alone: how many times longer than was known at first batches take that run alone; 0 while there was none. On a server with little to do
    that is up to four times. together: how many times longer than those the others take."""

    alone: float = 0.0
    together: float = 1.0
    _n_together: int = 0
    _as_of_s: float = 0.0

    def now(self, now_s: float) -> float:
        """What is left of `together`: 1 when nothing was seen for long."""
        return 1.0 + (self.together - 1.0) * exp((self._as_of_s - now_s) / FORGET_S)

    def saw(self, longer: float, alone: bool, now_s: float) -> None:
        """A batch that took so many times what was known at first; now_s: no earlier than before."""
        if alone:
            self.alone = mean_with(self.alone, longer)
            return
        beside = longer / (self.alone or 1.0)
        self.together = self.now(now_s)
        self._as_of_s = now_s
        self._n_together += 1
        self.together += max(1.0 / (1 + self._n_together), WEIGHT) * (beside - self.together)


def mean_with(mean: float, value: float) -> float:
    """A running mean with one more value; 0 is none yet."""
    return mean + WEIGHT * (value - mean) if mean else value
