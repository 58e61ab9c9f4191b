"""What a version of a model has done since the server began: counts that add up, time spent, and the part of it that was for nothing.

A tally outlives the process that it counts: a model that is started again, or loaded again, goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from jouleflow.serve.latency import LatencyCounts

WASTES = ("late", "gone", "failed")  # answered after its deadline; nobody was there any more; no answer came of it
PROVENANCE = "modelled"  # of the joules: even a measured power is shared out by time


def _nothing() -> dict[str, float]:
    return dict.fromkeys(WASTES, 0.0)


@dataclass(slots=True)
class Tally:
    """counts: of requests by how they ended, and those accepted. batch_sizes[rows]: batches, seconds. queue_s and compute_s: of completed
    requests, the whole time of its batch for each. last_end_s: of a batch, since 1970. wasted_core_s and wasted_j:
    of work that was run for nothing, by why; what ends while it waits costs no run and is not in here."""

    counts: Counter[str] = field(default_factory=Counter)
    batch_sizes: dict[int, list[float]] = field(default_factory=dict)
    queue_s: float = 0.0
    compute_s: float = 0.0
    latencies: LatencyCounts = field(default_factory=lambda: LatencyCounts(0.0))
    last_end_s: float = 0.0
    wasted_core_s: dict[str, float] = field(default_factory=_nothing)
    wasted_j: dict[str, float] = field(default_factory=_nothing)
    _charged_core_s: dict[str, float] = field(default_factory=_nothing)

    def charge(self, core_w: float) -> None:
        """Turns the core seconds that were wasted since the last call into joules, at the power of a busy core."""
        for why, core_s in self.wasted_core_s.items():
            self.wasted_j[why] += core_w * (core_s - self._charged_core_s[why])
            self._charged_core_s[why] = core_s
