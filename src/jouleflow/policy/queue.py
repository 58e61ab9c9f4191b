"""The queue of one model: who is let in, who goes next, and the counts that must add up. Knows no clock and no network."""

from __future__ import annotations

import logging
from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol, cast

from jouleflow.policy.admission import BACK_FRAC, Admission
from jouleflow.policy.batch import BatchPolicy, Box, Decision, Finished, Totals, View, sustained_rows
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.learned import LearnedLatencies
from jouleflow.policy.turns import Used

if TYPE_CHECKING:
    from jouleflow.policy.dispatch import Dispatcher

MAX_JOBS = 2048  # that wait, where nothing else is said
RATE_WEIGHT = 0.05  # of a new value in the drain rate's running mean
PROBE_S, RARE_PROBE_S = 0.5, 5.0  # between two tries of a model that seems too slow for its SLO
Kind = tuple[tuple[int, ...], ...]
Key = tuple[int, float, int]


class _Kind:
    """The waiting jobs of one kind."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Key, Job]] = []  # in the order in which they go: nearly always that in which they came
        self.n_rows = 0
        self.oldest_s = inf  # of those that ever waited here together


@dataclass(slots=True)
class Waiting:
    """What waits of one kind, as it will go: a copy, to plan with."""

    jobs: list[Job]
    n_rows: int
    oldest_s: float

    def take(self, n_rows: int) -> list[Job]:
        """As `ModelQueue.take` would, if nobody left before."""
        if self.n_rows <= n_rows:
            taken, self.jobs, self.n_rows = self.jobs, [], 0
            return taken
        rows, n = 0, 0
        for job in self.jobs:
            if n and rows + job.n_rows > n_rows:
                break
            rows, n = rows + job.n_rows, n + 1
            if job.arrived_s <= self.oldest_s and n < len(self.jobs):
                self.oldest_s = self.jobs[n].arrived_s
        taken, self.jobs = self.jobs[:n], self.jobs[n:]
        self.n_rows -= rows
        return taken


@dataclass(frozen=True, slots=True)
class Outlook:
    """What would become of everybody if a request came in. late_s: how much too late it would be, or make another; 0: it may come in.
    may_try: whether it may nevertheless, once in a while, to see whether its model is still so slow. same_until_s: until when the same
    would be said of one that looks like it, if no batch ends and nothing comes to or leaves any queue."""

    late_s: float = 0.0
    may_try: bool = False
    same_until_s: float = -inf


class Door(Protocol):
    """A policy that says itself who may come in, in place of `Admission`."""

    def outlook(self, job: Job, queue: ModelQueue, box: Dispatcher, now_s: float) -> Outlook: ...


class ModelQueue:
    """Jobs that wait for one model, earliest deadline first within a priority. Bounded in jobs and bytes."""

    def __init__(
        self, policy: BatchPolicy, max_batch: int, n_instances: int, slo_s: float, max_jobs: int, max_bytes: int
    ) -> None:
        self.policy, self.max_batch, self.n_instances, self.slo_s = policy, max_batch, n_instances, slo_s
        self.max_jobs, self.max_bytes = max_jobs, max_bytes
        self.latencies = LearnedLatencies()
        self.admission = Admission()
        self.door = cast(Door, policy) if hasattr(policy, "outlook") else None
        self.cheap_first = getattr(policy, "cheap_first", False)
        self.used = Used()
        self.drain_rows_per_s = 0.0  # while it is backlogged
        self.counts: Counter[str] = Counter()
        self.n_answered = self.n_in_time = 0
        self.latency_s = self.busy_s = 0.0  # sums over what was answered, and over batches
        self.ready = True  # whether batches may be started
        self.n_running = 0  # batches
        self.shared_s = -inf  # when more than one ran last
        self.n_jobs = self.n_rows = self.n_bytes = 0
        self._kinds: dict[Kind, _Kind] = {}
        self._order = 0
        self._last_key: Key | None = None  # no waiting job goes later than this
        self._last_end_s = 0.0
        self._tried_s = -inf
        self.asked_s = -inf  # when the last job came
        self.late_until_s = -inf  # what looks like the job refused last is too late until then, if nothing changes
        self.n_changes = 0  # jobs that came to wait, and that wait no more

    def offer(self, job: Job, now_s: float, n_cores: int, core_free_s: float, box: Dispatcher | None = None) -> bool:
        """Takes a job in, or ends it as rejected at once. core_free_s: until the next core of n_cores is free. box: for a policy that
        says itself who may come in."""
        self.counts["accepted"] += 1
        self.asked_s = now_s
        self._order += 1
        job.order = self._order
        if self.n_jobs >= self.max_jobs or (self.n_jobs and self.n_bytes + job.size_bytes > self.max_bytes):
            wait_s = self.n_rows / self.drain_rows_per_s if self.drain_rows_per_s else 1.0
            text = f"the queue is full ({self.n_jobs} requests)"
            self.late_until_s = -inf
            self.end(job, Result(End.REJECTED, message=text, status=429, retry_s=wait_s))
            return False
        key = job.key
        last = self._last_key is None or key > self._last_key
        if self.door is not None and box is not None:
            outlook = self.door.outlook(job, self, box, now_s)
            if outlook.late_s > 0 and not (outlook.may_try and self._tries(job, now_s)):
                self.late_until_s = outlook.same_until_s if last else -inf
                self.end(job, _too_late(outlook.late_s))
                return False
        elif job.deadline_s < inf:
            late_s = self.admission.late_s(job, self._expected_s(job, n_cores, core_free_s), now_s)
            if late_s > 0 and not self._tries(job, now_s):
                # of one that would not go last, how many go before it depends on when it comes
                self.late_until_s = now_s + late_s / (1 + BACK_FRAC) if last else -inf
                self.end(job, _too_late(late_s))
                return False
        kind = self._kinds.get(job.kind)
        if kind is None:
            kind = self._kinds[job.kind] = _Kind()
        if last:
            kind.jobs.append((key, job))
            self._last_key = key
        else:
            insort(kind.jobs, (key, job))
        self.n_changes += 1
        kind.n_rows += job.n_rows
        kind.oldest_s = min(kind.oldest_s, job.arrived_s)
        self.n_jobs += 1
        self.n_rows += job.n_rows
        self.n_bytes += job.size_bytes
        return True

    def refuse(self, late_s: float, now_s: float) -> Result:
        """Counts a request that is refused without a look at the queue, as it is known to be so much too late."""
        self.counts["accepted"] += 1
        self.counts[End.REJECTED.value] += 1
        self.asked_s = now_s
        return _too_late(late_s)

    def _tries(self, job: Job, now_s: float) -> bool:
        """Whether to take a job that is expected to be late, as nothing else runs or waits: after a slow spell that refuses
        everything, nothing would ever be learned. One each PROBE_S if it would be in time at best; what was best may have been
        seen in a slow spell too, so that one each RARE_PROBE_S is tried that has all of the SLO."""
        left_s, since_s = job.deadline_s - now_s, now_s - self._tried_s
        if self.n_jobs or self.n_running or since_s < PROBE_S:
            return False
        in_time_at_best = self.latencies.best_s(job.n_rows) <= left_s * self.admission.frac
        if not in_time_at_best and (
            since_s < RARE_PROBE_S or left_s < self.slo_s * self.admission.frac or not self.slo_s
        ):
            return False
        self._tried_s = now_s
        return True

    def _expected_s(self, job: Job, n_cores: int, core_free_s: float) -> float:
        """Until a job that came now would be answered, when the next core is free in core_free_s."""
        known = self.latencies.now
        if known is None:
            return 0.0
        if self._last_key is None or job.key > self._last_key:
            ahead = self.n_rows
        else:
            key, ahead = job.key, 0
            for kind in self._kinds.values():
                for other_key, other in kind.jobs:
                    if other_key > key:
                        break
                    ahead += other.n_rows
        full = sustained_rows(known, self.max_batch, self.slo_s)
        n_before, beside = divmod(ahead, full)
        at_once = max(min(self.n_instances, n_cores), 1)
        rate = at_once * full / known.of(full)
        if self.drain_rows_per_s:
            rate = min(rate, self.drain_rows_per_s)  # others may take the cores
        return core_free_s + n_before * full / rate + known.of(min(beside + job.n_rows, self.max_batch))

    def waiting(self) -> list[Waiting]:
        """What waits, by kind."""
        return [Waiting([job for _, job in kind.jobs], kind.n_rows, kind.oldest_s) for kind in self._kinds.values()]

    def head(self, now_s: float) -> Job | None:
        """The job that goes next; those that can no longer go are ended on the way."""
        best: tuple[Key, Job] | None = None
        for name, kind in list(self._kinds.items()):
            n_gone = 0
            for _, job in kind.jobs:
                if not (job.cancelled or job.deadline_s <= now_s):
                    break
                n_gone += 1
            if n_gone:
                for job in self._first(name, n_gone):
                    self._drop(job, now_s)
            if kind.jobs and (best is None or kind.jobs[0][0] < best[0]):
                best = kind.jobs[0]
        return None if best is None else best[1]

    def decide(self, head: Job, now_s: float, name: str = "", box: Box | None = None) -> Decision:
        """What the policy says while `head` is the next to go."""
        kind = self._kinds[head.kind]
        return self.policy.decide(
            View(
                now_s, kind.n_rows, kind.oldest_s, head.deadline_s, self.n_running, self.n_instances, self.max_batch,
                self.slo_s, self.latencies.now, name, box,
            )
        )  # fmt: skip

    def take(self, head: Job, n_rows: int, now_s: float) -> list[Job]:
        """Jobs of one kind for a batch of at most n_rows, the head among them whatever its size."""
        batch: list[Job] = []
        dropped: list[Job] = []
        rows = 0
        for _, job in self._kinds[head.kind].jobs:
            if job.cancelled or job.deadline_s <= now_s:
                dropped.append(job)
            elif batch and rows + job.n_rows > n_rows:
                break
            else:
                batch.append(job)
                rows += job.n_rows
        self._first(head.kind, len(batch) + len(dropped))
        for job in dropped:
            self._drop(job, now_s)
        return batch

    def _first(self, name: Kind, n: int) -> list[Job]:
        """Takes the first n jobs of a kind out. To end one may bring another in, so that they are out before."""
        kind = self._kinds[name]
        jobs, first = kind.jobs, []
        for k in range(n):
            job = jobs[k][1]
            first.append(job)
            if job.arrived_s <= kind.oldest_s and k + 1 < len(jobs):
                kind.oldest_s = jobs[k + 1][1].arrived_s
        del jobs[:n]
        self._left(name, first)
        return first

    def _left(self, name: Kind, gone: list[Job]) -> None:
        """Counts jobs of a kind that wait no more."""
        kind, n_rows = self._kinds[name], sum([job.n_rows for job in gone])
        kind.n_rows -= n_rows
        self.n_changes += len(gone)
        self.n_jobs -= len(gone)
        self.n_rows -= n_rows
        self.n_bytes -= sum([job.size_bytes for job in gone])
        if not kind.jobs:
            del self._kinds[name]
        if not self.n_jobs:
            self._last_key = None

    def _drop(self, job: Job, now_s: float) -> None:
        waited_s = now_s - job.arrived_s
        if job.cancelled:
            self.end(job, Result(End.CANCELLED, message="its sender went away", status=499, queue_s=waited_s))
        else:
            self.admission.ended(job, now_s)
            text = f"its deadline passed after {waited_s * 1e3:.0f} ms in the queue"
            self.end(job, Result(End.EXPIRED, message=text, status=504, queue_s=waited_s))

    def give_up(self, before_s: float, now_s: float) -> int:
        """Ends the jobs whose deadline is before a moment: they could be in time only at the cost of others. Returns how many."""
        n_gone = 0
        for name, kind in list(self._kinds.items()):
            gone = [job for _, job in kind.jobs if job.deadline_s < before_s]
            if not gone:
                continue
            kind.jobs = [entry for entry in kind.jobs if entry[1].deadline_s >= before_s]
            self._left(name, gone)
            n_gone += len(gone)
            for job in gone:
                text = "its deadline is too near for a batch"
                self.admission.ended(job, now_s, late=True)
                self.end(job, Result(End.EXPIRED, message=text, status=504, queue_s=now_s - job.arrived_s))
        return n_gone

    def end(self, job: Job, result: Result) -> None:
        """Ends a job."""
        self.counts[result.end.value] += 1
        try:
            job.done(result)
        except Exception:  # one answer that cannot be given must not keep the others of its batch back
            logging.exception("an answer could not be given")

    def batch_ended(self, batch: list[Job], n_rows: int, started_s: float, now_s: float) -> None:
        """Learns from a batch of n_rows, of which `batch` will be answered. What totals() says of answers is added up here, all at once:
        the next batch is decided on before each of them has ended."""
        self.latencies.saw(n_rows, now_s - started_s)
        if self.n_jobs:
            busy_s = now_s - max(self._last_end_s, started_s)
            if busy_s > 0:
                rate, known = n_rows / busy_s, self.drain_rows_per_s
                self.drain_rows_per_s = known + RATE_WEIGHT * (rate - known) if known else rate
        self._last_end_s = now_s
        n_late = sum([j.deadline_s < now_s for j in batch])
        for job in batch:
            if job.nearly_refused:
                self.admission.ended(job, now_s)
        self.n_answered += len(batch)
        self.n_in_time += len(batch) - n_late
        self.latency_s += sum([now_s - j.arrived_s for j in batch])
        self.busy_s += now_s - started_s
        if self.n_running > 1:
            self.shared_s = now_s
        self.policy.finished(Finished(n_rows, now_s - started_s, self.shared_s < started_s))

    def totals(self) -> Totals:
        """What became of everything since it was made."""
        c = self.counts
        ended = self.n_answered + c["rejected"] + c["expired"] + c["failed"]
        return Totals(
            c["accepted"], ended, self.n_answered, self.n_in_time, self.latency_s, self.busy_s, self.n_rows,
            self.latencies.best_row_s, self.slo_s,
        )  # fmt: skip

    def fail_all(self, make: Callable[[], Result]) -> None:
        """Ends every waiting job: the model is gone."""
        for name, kind in list(self._kinds.items()):
            for job in self._first(name, len(kind.jobs)):
                self.end(job, make())


def _too_late(late_s: float) -> Result:
    return Result(End.REJECTED, message=f"it would be {late_s * 1e3:.0f} ms too late", status=503, retry_s=late_s)
