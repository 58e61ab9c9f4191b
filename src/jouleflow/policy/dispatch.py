"""Which model's batch starts next: cores are given out, not fought for. The same object in the server and in its simulation."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from jouleflow.policy.batch import Totals
from jouleflow.policy.job import Job
from jouleflow.policy.queue import ModelQueue
from jouleflow.policy.turns import due_s, turn

ASKED_S = 1.0  # a model that had no request for so long is not kept a core for, nor is it due any of them
SHORT_S = 0.001  # batches that end sooner need no core of their own: on one with another they wait no longer than that
OWN_FRAC = 0.5  # of its SLO that a request may wait for a core


@dataclass(slots=True, eq=False)
class Start:
    """A batch to start now. core: of its own while it runs, by number; None when the system may choose, which sees best who is about to
    sleep."""

    name: str
    queue: ModelQueue
    batch: list[Job]
    n_rows: int
    started_s: float
    ends_s: float  # expected
    core: int | None = None


class Dispatcher:
    """Gives n_cores to the batches of all models: of those that may start, who goes first by `turns`."""

    def __init__(self, n_cores: int) -> None:
        self.n_cores = n_cores
        self.queues: dict[str, ModelQueue] = {}
        self.running: list[Start] = []
        self._free_cores = list(range(n_cores))
        self._ran = [""] * n_cores  # the model that each core ran last
        self.n_changes = 0  # batches that ended, and what else all refusals may depend on
        self.again_s: float | None = None  # when to ask again, if nothing happens before

    @property
    def n_busy(self) -> int:
        return len(self.running)

    def totals(self) -> dict[str, Totals]:
        """Of every model."""
        return {name: queue.totals() for name, queue in self.queues.items()}

    def may_take_s(self, name: str, now_s: float) -> float:
        """How long a batch of a model that started now might keep its core: no longer than another model's requests can wait, if no
        other core is free for them before."""
        wait_s = inf
        for other, queue in self.queues.items():
            if other != name and 0 < queue.slo_s * OWN_FRAC < wait_s and now_s - queue.asked_s < ASKED_S:
                wait_s = queue.slo_s * OWN_FRAC
        if wait_s == inf or len(self.running) + 1 < self.n_cores:
            return inf
        return inf if any(start.ends_s - now_s <= wait_s for start in self.running) else wait_s

    def first_end_s(self, name: str) -> float:
        """When the first of the running batches of a model is expected to end; inf when none runs."""
        return min([start.ends_s for start in self.running if start.name == name], default=inf)

    def next(self, now_s: float) -> Start | None:
        """The next batch to start; None when there is none, and then again_s says until when."""
        self.again_s = None
        skipped: set[str] = set()
        while len(self.running) < self.n_cores:
            first = self._first(skipped, now_s)
            if first is None:
                return None
            head, name, queue = first
            decision = queue.decide(head, now_s, name, self)
            if decision.n_rows > 0 and queue.n_running < decision.n_instances:
                start = self.start(name, queue, head, decision.n_rows, now_s)
                if start is not None:
                    return start
                continue
            if decision.give_up_s > now_s and queue.give_up(decision.give_up_s, now_s):
                continue  # else a head is left that is late by less than a rounding, and would be asked about for ever
            skipped.add(name)
            if decision.n_rows == 0:
                self.again_s = decision.again_s if self.again_s is None else min(self.again_s, decision.again_s)
        return None

    def _first(self, skipped: set[str], now_s: float) -> tuple[Job, str, ModelQueue] | None:
        """The model that goes next, and the job that does."""
        may: list[tuple[Job, str, ModelQueue]] = []
        for name, queue in self.queues.items():
            if queue.n_jobs and queue.ready and queue.n_running < queue.n_instances and name not in skipped:
                head = queue.head(now_s)
                if head is not None:
                    may.append((head, name, queue))
        if len(may) < 2:
            return may[0] if may else None
        n_asked = sum([now_s - queue.asked_s < ASKED_S for queue in self.queues.values()])
        due = due_s(self.n_cores, max(n_asked, 1))
        return min(may, key=lambda each: turn(each[2], each[0], now_s, due))

    def start(self, name: str, queue: ModelQueue, head: Job, n_rows: int, now_s: float) -> Start | None:
        """A batch with `head` in it; None when none of its jobs can go any more."""
        batch = queue.take(head, n_rows, now_s)
        if not batch:
            return None
        n_rows, known = sum([j.n_rows for j in batch]), queue.latencies.now
        start = Start(name, queue, batch, n_rows, now_s, now_s + (known.of(n_rows) if known else 0.0))
        self.running.append(start)
        queue.used.add(start.ends_s - now_s, now_s)
        if any(one.ends_s - one.started_s > SHORT_S for one in self.running):
            start.core = self._take_core(name)
        queue.n_running += 1
        if queue.n_running > 1:
            queue.shared_s = now_s
        return start

    def _take_core(self, name: str) -> int | None:
        """The free core that ran the model last, whose caches know it, or else the one that has been free for longest."""
        if not self._free_cores:
            return None
        core = self._free_cores[0]
        for free in self._free_cores:
            if self._ran[free] == name:
                core = free
        self._free_cores.remove(core)
        self._ran[core] = name
        return core

    def offer(self, queue: ModelQueue, job: Job, now_s: float) -> bool:
        """Takes a job in, or ends it as rejected at once."""
        free_s = 0.0
        if len(self.running) >= self.n_cores and job.deadline_s < inf:
            free_s = max(min([start.ends_s for start in self.running]) - now_s, 0.0)
        taken = queue.offer(job, now_s, self.n_cores, free_s, self)
        if taken and queue.door is not None:
            self.n_changes += 1  # its plans are of all models
        return taken

    def ended(self, start: Start) -> None:
        """A batch ended, well or not."""
        self.running.remove(start)
        self.n_changes += 1
        if start.core is not None:
            self._free_cores.append(start.core)
        start.queue.n_running -= 1
