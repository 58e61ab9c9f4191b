"""Which of the models that wait gets the next core.

The earliest deadline first is right while everybody can be in time. On a full box all then wait for nearly as long as they may, a row of 0.2 ms as long
as one of 10, as their deadlines say nothing of what they need. A policy that is `cheap_first` has them go by what a row costs, times the time it was
given: that keeps the mean of latency over SLO least (Smith's rule). And lest a dear model wait for ever beside cheap ones
that are asked without end, who has had less than half of an even share of the cores lately goes first once half of the time it was given is over.

Source: W. E. Smith, Naval Research Logistics Quarterly 3, 1956, for the order; what each is due is our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf
from typing import TYPE_CHECKING

from jouleflow.policy.job import Job

if TYPE_CHECKING:
    from jouleflow.policy.queue import ModelQueue

LATELY_S = 1.0  # time constant, after which core seconds are forgotten
LONG_FRAC = 0.5  # of the time it was given, after which a request has waited long
DUE_FRAC = 0.5  # of an even share, that a model gets before others that cost less
Turn = tuple[int, bool, bool, float, float]  # the least goes first


@dataclass(slots=True)
class Used:
    """Core seconds that a model has had lately: a sum that is forgotten."""

    _core_s: float = 0.0
    _as_of_s: float = 0.0

    def lately_s(self, now_s: float) -> float:
        """What is left of them."""
        return self._core_s * exp((self._as_of_s - now_s) / LATELY_S)

    def add(self, core_s: float, now_s: float) -> None:
        """More of them; now_s: no earlier than before."""
        self._core_s = self.lately_s(now_s) + core_s
        self._as_of_s = now_s


def due_s(n_cores: int, n_models: int) -> float:
    """What `Used` comes to of a model that always has what it is due."""
    return DUE_FRAC * LATELY_S * n_cores / n_models


def turn(queue: ModelQueue, head: Job, now_s: float, due_s: float) -> Turn:
    """Of a model whose next job is `head`. due_s: of `due_s`."""
    if not queue.cheap_first:
        return head.priority, False, False, head.deadline_s, head.arrived_s
    known, n_rows = queue.latencies.now, max(min(queue.n_rows, queue.max_batch), 1)
    row_s = known.of(n_rows) / n_rows if known else 0.0
    never_late = head.deadline_s == inf
    given_s = 1.0 if never_late else head.deadline_s - head.arrived_s
    owed = now_s - head.arrived_s > LONG_FRAC * given_s and queue.used.lately_s(now_s) < due_s
    return head.priority, never_late, not owed, row_s * given_s, head.arrived_s
