"""DeepRT: what arrives within a window makes one batch, batches go in the order of their deadlines, and a request is let in only if a plan of
all that waits, in that order on the box's cores, has everybody in time.

So whoever is let in is answered in time, as long as batches take what they are known to take: the plan is made of the very rules by which
batches are started, and nothing else changes it than another request, which is then planned with. Only a model that is too
slow for its SLO even on an idle box is tried now and then, in case that is no longer so.

Source: Yang et al., arXiv 2105.01803: windows of half of the shortest relative deadline (DisBatcher), EDF without preemption, admission by
simulating it. Single requests instead of streams, several cores, windows that open with a request, a margin instead of
worst cases, and time that a batch did not need going to who comes next are our reconstruction.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from jouleflow.policy.batch import Decision, Finished, View
from jouleflow.policy.dispatch import Dispatcher
from jouleflow.policy.job import Job
from jouleflow.policy.queue import Key, ModelQueue, Outlook, Waiting
from jouleflow.profile.latencies import Latencies

ROUNDING_S = 1e-9  # a window that ends as late as it may leaves nothing over
Plan = Iterator[
    tuple[list[Job], float, float]
]  # of each batch its jobs, its end and how long it takes, in the order of their starts


@dataclass
class DeepRt:
    """A window opens with its first request and ends in the middle between that and the earliest deadline: what is left is as long. It
    ends sooner when its batch is full, or takes longer than what would be left. Without a deadline there is none. All models of
    a box must have this policy.

    safety_frac: of a predicted latency, and reserve_frac: of the time to a deadline, that a plan leaves over, for latencies that vary and
    the way to the client.
    """

    safety_frac: float = 0.1
    reserve_frac: float = 0.05

    def decide(self, view: View) -> Decision:
        most = min(view.n_waiting, view.max_batch)
        due_s = self.due_s(most, view.oldest_s, view.deadline_s, view.latencies)
        if most == view.max_batch or view.now_s >= due_s:
            return Decision(most, view.now_s, view.n_instances)
        return Decision(0, due_s, view.n_instances)

    def finished(self, batch: Finished) -> None:
        """Learns nothing: the server keeps the latencies."""

    def due_s(self, n_rows: int, oldest_s: float, deadline_s: float, known: Latencies | None) -> float:
        """When the window of n_rows ends."""
        if deadline_s == inf:
            return oldest_s
        takes_s = known.of(n_rows) * (1 + self.safety_frac) if known else 0.0
        return min((oldest_s + deadline_s) / 2, deadline_s - (deadline_s - oldest_s) * self.reserve_frac - takes_s)

    def outlook(self, job: Job, queue: ModelQueue, box: Dispatcher, now_s: float) -> Outlook:
        """What would become of a job, and of others, if it came in."""
        known = queue.latencies.now
        left_s = (job.deadline_s - now_s) * (1 - self.reserve_frac)
        too_slow = known is not None and known.of(job.n_rows) * (1 + self.safety_frac) > left_s
        own_s, late, leads = self._late_in(planned(self, box, now_s, queue, job), job, to_end=too_slow)
        if late:  # those that are late anyhow are no reason
            anyhow = self._late_in(planned(self, box, now_s))[1]
            late = {number: seconds for number, seconds in late.items() if number not in anyhow}
        if not late and not own_s:
            return Outlook()
        same_until_s = -inf
        if not leads and len(box.running) >= box.n_cores:
            # until a core is free, the plan with one that comes later is this one: it goes with the same others, who decide when
            same_until_s = min([start.ends_s for start in box.running])
            if not late:
                same_until_s = min(same_until_s, now_s + own_s)
        return Outlook(max(own_s, *late.values(), 0.0), too_slow and not late, same_until_s)

    def _late_in(self, plan: Plan, job: Job | None = None, to_end: bool = True) -> tuple[float, dict[int, float], bool]:
        """By how much a job is late in a plan; the others that are, by id; and whether it is the first of its batch. to_end: whether to
        look further when it is late itself."""
        own_s, late, leads = 0.0, dict[int, float](), False
        for batch, end_s, takes_s in plan:
            end_s += takes_s * self.safety_frac
            leads = leads or batch[0] is job
            for one in batch:
                late_s = end_s - one.deadline_s + (one.deadline_s - one.arrived_s) * self.reserve_frac
                if late_s > ROUNDING_S:  # never of one without a deadline, for which it is not a number
                    if one is not job:
                        late[id(one)] = late_s
                        continue
                    own_s = late_s
                    if not to_end:
                        return own_s, {}, leads
        return own_s, late, leads


class _Model:
    """A model in a plan. line: the kind of its jobs that goes next; key: of the first of them."""

    __slots__ = ("key", "line", "lines", "n_running", "queue", "skipped_s")

    def __init__(self, queue: ModelQueue, lines: list[Waiting]) -> None:
        self.queue, self.lines, self.n_running = queue, lines, queue.n_running
        self.skipped_s = -inf  # when its window was last found open
        self.turn()

    def turn(self) -> None:
        """After something of it went."""
        if not self.lines[0].jobs or len(self.lines) > 1:
            self.lines = [line for line in self.lines if line.jobs]
        if self.lines:
            self.line = min(self.lines, key=_first_key) if len(self.lines) > 1 else self.lines[0]
            self.key = _first_key(self.line)


def _first_key(line: Waiting) -> Key:
    return line.jobs[0].key


def planned(
    policy: DeepRt, box: Dispatcher, now_s: float, more_of: ModelQueue | None = None, job: Job | None = None
) -> Plan:
    """The batches that the dispatcher will start if nothing more comes than a job of a model: as `Dispatcher.next` chooses, and as
    `ModelQueue.take` fills them."""
    models = dict[int, _Model]()
    for queue in box.queues.values():
        lines = queue.waiting() if queue.ready and (queue.n_jobs or queue is more_of) else []
        if queue is more_of and queue.ready and job is not None:
            _join(lines, job)
        if lines:
            models[id(queue)] = _Model(queue, lines)
    running = [(max(start.ends_s, now_s), models.get(id(start.queue))) for start in box.running]
    while models:
        for end_s, ended in running:
            if end_s <= now_s and ended is not None:
                ended.n_running -= 1
        running = [one for one in running if one[0] > now_s]
        again_s = inf
        while len(running) < box.n_cores:
            best: _Model | None = None
            for model in models.values():
                if (
                    model.n_running < model.queue.n_instances
                    and model.skipped_s < now_s
                    and (best is None or model.key < best.key)
                ):
                    best = model
            if best is None:
                break
            queue, line = best.queue, best.line
            most, known = min(line.n_rows, queue.max_batch), queue.latencies.now
            due_s = policy.due_s(most, line.oldest_s, best.key[1], known)
            if most < queue.max_batch and now_s < due_s:
                best.skipped_s, again_s = now_s, min(again_s, due_s)
                continue
            jobs = line.take(most)
            takes_s = known.of(sum([j.n_rows for j in jobs])) if known else 0.0
            yield jobs, now_s + takes_s, takes_s
            best.n_running += 1
            running.append((now_s + takes_s, best))
            best.turn()
            if not best.lines:
                del models[id(queue)]
        now_s = min([again_s, *[end_s for end_s, _ in running]])
        if now_s == inf:
            return


def _join(lines: list[Waiting], job: Job) -> None:
    for line in lines:
        if line.jobs[0].kind == job.kind:
            insort(line.jobs, job)
            line.n_rows += job.n_rows
            line.oldest_s = min(line.oldest_s, job.arrived_s)
            return
    lines.append(Waiting([job], job.n_rows, job.arrived_s))
