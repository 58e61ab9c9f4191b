"""How much of the time to its deadline a request's expected latency may use up to be let in: learned from those that were nearly refused.

Under overload a queue stands at this limit, whatever it is; so nearly everyone's latency is the limit plus the error of the estimate, and
a limit that leaves the errors no room lets in requests that come to nothing. It follows a quantile, as in stochastic approximation:
a request that is late lowers it, one in time raises it by less, so that it settles where LATE_FRAC are late. And a slow moment is
forgotten: the limit drifts back to the first one, so that it is not held against requests which come when there is room. Our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from jouleflow.policy.job import Job

FIRST_FRAC, LEAST_FRAC, MOST_FRAC = 0.8, 0.4, 0.9
NEAR_FRAC = 0.75  # of the limit, from which on a request tells something about it
LATE_FRAC = 0.02  # of those near the limit
STEP = 0.02
BACK_FRAC = 0.005  # that the limit drifts back, each time to a deadline
RESERVE_FRAC = 0.05  # of the time to the deadline, for the way to the client, which is not seen here


@dataclass(slots=True)
class Admission:
    """frac: of the time to a deadline that an expected latency may be."""

    frac: float = FIRST_FRAC
    _seen_s: float = inf  # the last job that came

    def late_s(self, job: Job, expected_s: float, now_s: float) -> float:
        """By how much it would miss the limit; not above 0 when it may come in."""
        left_s = job.deadline_s - now_s
        if self.frac < FIRST_FRAC and left_s > 0:
            self.frac = min(self.frac + BACK_FRAC * max(now_s - self._seen_s, 0.0) / left_s, FIRST_FRAC)
        self._seen_s = now_s
        limit_s = left_s * self.frac
        job.nearly_refused = expected_s > limit_s * NEAR_FRAC
        return expected_s - limit_s

    def ended(self, job: Job, now_s: float, late: bool = False) -> None:
        """Hears when a job that was let in was answered, or given up."""
        if not job.nearly_refused:
            return
        late = late or now_s > job.deadline_s - (job.deadline_s - job.arrived_s) * RESERVE_FRAC
        step = -STEP * (1 - LATE_FRAC) if late else STEP * LATE_FRAC
        self.frac = min(max(self.frac + step, LEAST_FRAC), MOST_FRAC)
