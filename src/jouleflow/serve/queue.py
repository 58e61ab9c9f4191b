"""The queue of one model: who is let in, who goes next, and the counts that must add up."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from math import inf

from jouleflow.policy.batch import BatchPolicy, Decision, View
from jouleflow.policy.learned import LearnedLatencies
from jouleflow.serve.job import End, Job, Result

RATE_WEIGHT = 0.05  # of a new value in the drain rate's running mean
ADMIT_MARGIN = 1.1  # an estimate may be wrong by so much before a request is refused


class ModelQueue:
    """Jobs that wait for one model, earliest deadline first within a priority. Bounded in jobs and bytes."""

    def __init__(
        self, policy: BatchPolicy, max_batch: int, n_instances: int, slo_s: float, max_jobs: int, max_bytes: int
    ) -> None:
        self.policy, self.max_batch, self.n_instances, self.slo_s = policy, max_batch, n_instances, slo_s
        self.max_jobs, self.max_bytes = max_jobs, max_bytes
        self.latencies = LearnedLatencies()
        self.drain_rows_per_s = 0.0  # while it is backlogged
        self.counts: Counter[str] = Counter()
        self.n_running = 0  # batches
        self._kinds: dict[tuple[tuple[int, ...], ...], list[Job]] = {}
        self.n_jobs = self.n_rows = self.n_bytes = 0
        self._order = 0

    def offer(self, job: Job, now_s: float, n_cores: int) -> bool:
        """Takes a job in, or ends it as rejected at once."""
        self.counts["accepted"] += 1
        size = job.ask.size_bytes
        if self.n_jobs >= self.max_jobs or (self.n_jobs and self.n_bytes + size > self.max_bytes):
            wait_s = self.n_rows / self.drain_rows_per_s if self.drain_rows_per_s else 1.0
            self._end(
                job,
                Result(End.REJECTED, message=f"the queue is full ({self.n_jobs} requests)", status=429, retry_s=wait_s),
            )
            return False
        late_s = self._expected_s(job, n_cores) * ADMIT_MARGIN - (job.deadline_s - now_s)
        if late_s > 0:
            text = f"it would be {late_s * 1e3:.0f} ms too late"
            self._end(job, Result(End.REJECTED, message=text, status=503, retry_s=late_s))
            return False
        self._order += 1
        job.order = self._order
        heapq.heappush(self._kinds.setdefault(job.kind, []), job)
        self.n_jobs, self.n_rows, self.n_bytes = self.n_jobs + 1, self.n_rows + job.n_rows, self.n_bytes + size
        return True

    def _expected_s(self, job: Job, n_cores: int) -> float:
        """Until a job that came now would be answered."""
        known = self.latencies.now
        if known is None or job.deadline_s == inf:
            return 0.0
        ahead = (
            self.n_rows
            if not self.n_jobs
            else sum(j.n_rows for jobs in self._kinds.values() for j in jobs if not job < j)
        )
        own_s = known.of(min(ahead + job.n_rows, self.max_batch))
        at_once = max(min(self.n_instances, n_cores), 1)
        rate = (
            max(self.drain_rows_per_s, 1e-9)
            if self.drain_rows_per_s
            else at_once * self.max_batch / known.of(self.max_batch)
        )
        batches_ahead_s = ahead / rate if ahead > self.max_batch else 0.0
        running_s = known.of(1) / 2 if self.n_running >= at_once else 0.0
        return batches_ahead_s + running_s + own_s

    def head(self, now_s: float) -> Job | None:
        """The job that goes next; those that can no longer go are ended on the way."""
        best: Job | None = None
        for kind in list(self._kinds):
            jobs = self._kinds[kind]
            while jobs and (jobs[0].cancelled or jobs[0].deadline_s <= now_s):
                self._drop(self._pop(kind), now_s)
            if not jobs:
                del self._kinds[kind]
            elif best is None or jobs[0] < best:
                best = jobs[0]
        return best

    def decide(self, head: Job, now_s: float) -> Decision:
        """What the policy says while `head` is the next to go."""
        jobs = self._kinds[head.kind]
        n_waiting = sum(j.n_rows for j in jobs)
        oldest_s = min(j.arrived_s for j in jobs)
        view = View(
            now_s,
            n_waiting,
            oldest_s,
            head.deadline_s,
            self.n_running,
            self.n_instances,
            self.max_batch,
            self.slo_s,
            self.latencies.now,
        )
        return self.policy.decide(view)

    def take(self, head: Job, n_rows: int, now_s: float) -> list[Job]:
        """Jobs of one kind for a batch of at most n_rows, the head among them whatever its size."""
        batch: list[Job] = []
        kind, rows = head.kind, 0
        while (jobs := self._kinds.get(kind)) and (not batch or rows + jobs[0].n_rows <= n_rows):
            job = self._pop(kind)
            if job.cancelled or job.deadline_s <= now_s:
                self._drop(job, now_s)
            else:
                batch.append(job)
                rows += job.n_rows
            if not jobs:
                del self._kinds[kind]
        return batch

    def _pop(self, kind: tuple[tuple[int, ...], ...]) -> Job:
        job = heapq.heappop(self._kinds[kind])
        size = job.ask.size_bytes
        self.n_jobs, self.n_rows, self.n_bytes = self.n_jobs - 1, self.n_rows - job.n_rows, self.n_bytes - size
        return job

    def _drop(self, job: Job, now_s: float) -> None:
        waited = now_s - job.arrived_s
        if job.cancelled:
            self._end(job, Result(End.CANCELLED, message="its sender went away", status=499, queue_s=waited))
        else:
            text = f"its deadline passed after {waited * 1e3:.0f} ms in the queue"
            self._end(job, Result(End.EXPIRED, message=text, status=504, queue_s=waited))

    def end(self, job: Job, result: Result) -> None:
        """Ends a job that was taken for a batch."""
        self._end(job, result)

    def _end(self, job: Job, result: Result) -> None:
        self.counts[result.end.value] += 1
        job.done(result)

    def drained(self, n_rows: int, seconds: float) -> None:
        """Rows that were answered within so many busy seconds."""
        if seconds > 0:
            rate = n_rows / seconds
            known = self.drain_rows_per_s
            self.drain_rows_per_s = known + RATE_WEIGHT * (rate - known) if known else rate

    def fail_all(self, make: Callable[[], Result]) -> None:
        """Ends every waiting job: the model is gone."""
        for kind in list(self._kinds):
            while self._kinds[kind]:
                self._end(self._pop(kind), make())
            del self._kinds[kind]
