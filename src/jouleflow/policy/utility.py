"""What a server is worth to those who use it: BCEdge's utility, and how it is counted over a while.

Source: BCEdge, arXiv 2305.01519: log(throughput / (latency / SLO)) while the latency is within the SLO. What counts as throughput
(answers in time), over which span, and zero for a model that fails everybody, are our reconstruction.
"""

from __future__ import annotations

from math import log

from jouleflow.policy.batch import Totals


def utility(n_in_time: int, latency_s: float, span_s: float, slo_s: float) -> float:
    """Of n_in_time answers in span_s with a mean latency; 0 when there is none, or the mean is beyond the SLO."""
    if not n_in_time or latency_s > slo_s:
        return 0.0
    return max(log(n_in_time / span_s * slo_s / max(latency_s, 1e-9)), 0.0)


def shortfall_between(before: Totals, after: Totals, span_s: float, floor: float = 5.0) -> float | None:
    """How far a model was from the best it could have had: 0 when every request that ended took what a row takes alone, down to
    -floor when none was in time. None when nothing ended and nothing has waited too long.

    This is the utility less that of a box that has nothing else to do, so it is comparable between models: a sensible reward.
    """
    n_ended, n_done = after.n_ended - before.n_ended, after.n_completed - before.n_completed
    if n_ended <= 0:
        return -floor / 2 if after.n_waiting and after.row_s < span_s / 2 else None
    n_in_time = after.n_in_time - before.n_in_time
    if n_in_time <= 0 or n_done <= 0:  # below 0: it was loaded again meanwhile
        return -floor
    mean_s = (after.latency_s - before.latency_s) / n_done
    if mean_s > after.slo_s:
        return -floor
    return max(log(n_in_time / n_ended) + log(max(after.row_s, 1e-6) / max(mean_s, 1e-6)), -floor)
