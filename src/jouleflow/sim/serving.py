"""A server of many models without the server: the same queues, policies and dispatcher, on a clock that jumps from event to event.

A batch does the work that its profile says, at a speed that depends on what else runs meanwhile: batches beside it
(`Interference`), and the server's own loop and its clients when they share its cores (`Front`). When that changes, so does its
speed. Requests arrive at given times, whatever the server does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import exp, inf
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.policy.batch import AT_ONCE, BatchPolicy, Delay
from jouleflow.policy.dispatch import Dispatcher, Start
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.policies import policy_maker
from jouleflow.policy.queue import MAX_JOBS, ModelQueue
from jouleflow.profile.interference import Interference, NoInterference
from jouleflow.profile.latencies import Latencies
from jouleflow.profile.serving import Batch, Wakes, lost_frac
from jouleflow.profile.spread import Draws
from jouleflow.sim.pace import Pace

Float = NDArray[np.float64]
KIND = ((),)
COMPLETED = Result(End.COMPLETED)
LATELY_S = 0.1  # time constant of how busy a box has been
# Of what a batch takes more on a box that has little to do, what one that is busy all the time does without.
WARMED_FRAC = 0.75


@dataclass(frozen=True, slots=True)
class Front:
    """CPU seconds of one request beside its model's: request_s to read it and queue it, answer_s to answer it, refuse_s to refuse it (as
    much as to answer it when None); all in the server's one loop, among many others. wake_s: what reading and answering take more when the loop has
    rested for long (`lost_frac`). client_s: of its client, when that shares the cores. wakes: what it waits beside that."""

    request_s: float = 0.0
    answer_s: float = 0.0
    client_s: float = 0.0
    refuse_s: float | None = None
    wakes: Wakes = field(default_factory=Wakes)
    wake_s: float = 0.0

    @property
    def cores(self) -> float:
        """That are busy while the loop is, at a load where it loses half of wake_s before either part."""
        loop_s = self.request_s + self.answer_s + self.wake_s
        return 1.0 + self.client_s / loop_s if loop_s else 0.0


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model as its profile knows it. latencies: alone, by rows, again and again. idle_spread_s: what to draw from of what a batch takes more on
    a box that has not been busy lately; a quarter of it is left on one that is busy all the time. delay: what the policy `delay` does for it."""

    latencies: Latencies
    slo_s: float = 0.0
    max_batch: int = 32
    n_instances: int = 1
    priority: int = 5
    max_queue: int = MAX_JOBS
    front: Front = field(default_factory=Front)
    idle_spread_s: tuple[float, ...] = ()
    delay: Delay = AT_ONCE

    @property
    def idle_s(self) -> float:
        """What it takes more then: the median."""
        return median(self.idle_spread_s) if self.idle_spread_s else 0.0


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What became of the requests of one model. arrival_s and latency_s: of those that completed, in the order in which they did."""

    arrival_s: Float
    latency_s: Float
    n_requests: int
    counts: Mapping[str, int]
    batch_rows: NDArray[np.int64]  # of each batch
    slo_s: float

    @property
    def in_time_frac(self) -> float:
        """Of all requests, those that were answered within the SLO."""
        met = int((self.latency_s <= self.slo_s).sum()) if self.slo_s else len(self.latency_s)
        return met / self.n_requests if self.n_requests else 1.0


@dataclass(frozen=True, slots=True)
class ServingOutcome:
    """A simulated run. busy_s: CPU seconds spent on batches, without what they waited for a core; front_s: on requests beside them."""

    models: Mapping[str, ModelOutcome]
    duration_s: float
    busy_s: float
    front_s: float
    provenance: str = "modelled"


@dataclass(slots=True)
class _Running:
    """A batch that runs. left_s: of its work, if it ran alone. None of its answers is out before the loop has time."""

    start: Start
    left_s: float
    batch: Batch
    slowdown: float = 1.0  # by what runs beside it
    share: float = 1.0  # of a core
    speed: float = 1.0
    since_s: float = 0.0  # when left_s, share and speed were true


@dataclass(slots=True)
class _Sleeper:
    """A request whose client or server waits for a core."""

    then: Callable[[], Any]
    awake: bool = False

    def wake(self) -> None:
        """Goes on, the first time."""
        if not self.awake:
            self.awake = True
            self.then()


class Simulation:
    """A server that can be moved forward step by step. random: of what is drawn from measured spreads. pace: of the machine."""

    def __init__(
        self,
        models: Mapping[str, SimModel],
        n_cores: int,
        policies: Mapping[str, BatchPolicy],
        interference: Interference | None = None,
        random: np.random.Generator | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.models, self.interference = models, interference or NoInterference()
        self._pace_at = (pace or Pace()).course()
        self._draws = Draws(random or np.random.default_rng(0))
        self._sleepers: list[_Sleeper] = []  # that a free core would wake up
        self.dispatcher = Dispatcher(n_cores)
        self.now_s = self.busy_s = self.front_s = 0.0
        self.running: list[_Running] = []
        self.arrival_s: dict[str, list[float]] = {name: [] for name in models}
        self.latency_s: dict[str, list[float]] = {name: [] for name in models}
        self.batch_rows: dict[str, list[int]] = {name: [] for name in models}
        self.n_requests = dict.fromkeys(models, 0)
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = count()
        self._again_s = inf
        self._front_free_s = 0.0  # when the loop has done what waits for it now
        self._front_cores = 0.0  # that are busy until then
        self._now_counts = False  # whether something happened that may start a batch
        self._busy_frac = self._busy_until_s = 0.0  # of the cores, lately, as of when
        for name, model in models.items():
            queue = ModelQueue(
                policies[name], model.max_batch, model.n_instances, model.slo_s, model.max_queue, 1 << 62
            )
            for rows, seconds in zip(model.latencies.at_rows, model.latencies.seconds, strict=True):
                queue.latencies.start_from(rows, seconds)
            self.dispatcher.queues[name] = queue

    def feed(self, name: str, times_s: Sequence[float] | Float) -> None:
        """Requests to come, at rising times from now on."""
        times = iter(times_s)
        self.n_requests[name] += len(times_s)

        def arrive() -> None:
            arrived_s, front = self.now_s, self.models[name].front
            self._wake(front, lambda: self._chore(front.request_s, name, lambda: self._offer(name, arrived_s)))
            following = next(times, None)
            if following is not None:
                self._at(float(following), arrive)

        first = next(times, None)
        if first is not None:
            self._at(float(first), arrive)

    def advance(self, until_s: float = inf) -> bool:
        """Moves to a moment, or until nothing more happens; whether something still can."""
        while True:
            end_s, ending = self._next_end()
            event_s = self._events[0][0] if self._events else inf
            now_s = min(end_s, event_s, self._again_s)
            if now_s > until_s or now_s == inf:
                if until_s < inf:
                    self.now_s = max(until_s, self.now_s)
                return now_s < inf
            self.now_s = max(now_s, self.now_s)
            if ending is not None and end_s <= now_s:
                self._computed(ending)
            elif event_s <= now_s:
                heapq.heappop(self._events)[2]()
                if self._events and self._events[0][0] <= self.now_s:
                    continue  # what comes at once is seen together
            if self._now_counts or self._again_s <= self.now_s:
                self._pump()

    def outcome(self) -> ServingOutcome:
        """What became of everything so far."""
        queues = self.dispatcher.queues
        outcomes = {
            name: ModelOutcome(
                np.array(self.arrival_s[name]), np.array(self.latency_s[name]), self.n_requests[name], dict(queues[name].counts),
                np.array(self.batch_rows[name], np.int64), model.slo_s,
            )
            for name, model in self.models.items()
        }  # fmt: skip
        return ServingOutcome(outcomes, self.now_s, self.busy_s, self.front_s)

    def _at(self, time_s: float, event: Callable[[], Any]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), event))

    def _wake(self, front: Front, then: Callable[[], Any]) -> None:
        """Lets a request go on once everybody has woken up for it; if all cores are busy, at the latest when one becomes free."""
        n_busy = len(self.running)
        spread = front.wakes.spread(n_busy, self.now_s - self._front_free_s)
        if not spread:
            then()
            return
        sleeper = _Sleeper(then)
        if n_busy >= self.dispatcher.n_cores:
            self._sleepers.append(sleeper)
        self._at(self.now_s + self._draws.of(spread), sleeper.wake)

    def _chore(self, seconds: float, name: str, then: Callable[[], Any]) -> None:
        """Something for the server's loop, after what waits for it already."""
        if not seconds:
            then()
            return
        front = self.models[name].front
        if front.wake_s and self._front_free_s < self.now_s:
            seconds += front.wake_s * lost_frac(self.now_s - self._front_free_s)
        seconds *= self._pace_at(self.now_s)
        self.front_s += seconds
        cores = front.cores
        idle = self._front_free_s <= self.now_s
        self._front_free_s = max(self._front_free_s, self.now_s) + seconds
        if idle or cores > self._front_cores:
            self._front_cores = cores
            self._set_speeds()

        def done() -> None:
            then()
            if self._front_free_s <= self.now_s:
                self._front_cores = 0.0
                self._set_speeds()

        self._at(self._front_free_s, done)

    def _offer(self, name: str, arrived_s: float) -> None:
        model, now_s = self.models[name], self.now_s
        deadline_s = now_s + model.slo_s if model.slo_s else inf

        def done(result: Result) -> None:
            if result.end is End.COMPLETED:
                self.arrival_s[name].append(arrived_s)
                self.latency_s[name].append(self.now_s - arrived_s + model.front.client_s * self._pace_at(self.now_s))
            else:
                refuse_s = model.front.refuse_s
                self._chore(model.front.answer_s if refuse_s is None else refuse_s, name, _nothing)

        self._now_counts = True
        job = Job(None, 0, 1, KIND, now_s, deadline_s, model.priority, done)
        self.dispatcher.offer(self.dispatcher.queues[name], job, now_s)

    def _pump(self) -> None:
        """Starts what may start now."""
        started = self._now_counts = False
        while (start := self.dispatcher.next(self.now_s)) is not None:
            model = self.models[start.name]
            longer_s = self._draws.of(model.idle_spread_s) * (1 - WARMED_FRAC * self._busy_lately())
            work_s = (model.latencies.of(start.n_rows) + longer_s) * self._pace_at(self.now_s)
            self.running.append(_Running(start, work_s, Batch(start.name, start.n_rows), since_s=self.now_s))
            self.batch_rows[start.name].append(start.n_rows)
            started = True
        if started:
            self._regroup()
        again_s = self.dispatcher.again_s
        self._again_s = inf if again_s is None else max(again_s, self.now_s + 1e-9)

    def _busy_lately(self) -> float:
        """The share of the cores that have run batches lately. To be asked before that changes."""
        weight = 1.0 - exp((self._busy_until_s - self.now_s) / LATELY_S)
        self._busy_frac += weight * (len(self.running) / self.dispatcher.n_cores - self._busy_frac)
        self._busy_until_s = self.now_s
        return self._busy_frac

    def _regroup(self) -> None:
        """Other batches run now than before."""
        for one in self.running:
            beside = tuple(sorted([other.batch for other in self.running if other is not one]))
            one.slowdown = self.interference.slowdown(one.batch, beside) if beside else 1.0
        self._set_speeds()

    def _set_speeds(self) -> None:
        running, n_cores, now_s = self.running, self.dispatcher.n_cores, self.now_s
        share, front = 1.0, self._front_cores
        if (
            running and front and len(running) + front > n_cores
        ):  # a loop that wakes up goes first: it is the batches that wait
            share = max((n_cores - front) / len(running), 0.5 * n_cores / (len(running) + front))
        for one in running:
            speed = share / one.slowdown
            if speed != one.speed or share != one.share:
                one.left_s -= (now_s - one.since_s) * one.speed
                self.busy_s += (now_s - one.since_s) * one.share
                one.since_s, one.share, one.speed = now_s, share, speed

    def _next_end(self) -> tuple[float, _Running | None]:
        """When the first of the running batches ends, and which."""
        best_s, best = inf, None
        for one in self.running:
            end_s = one.since_s + one.left_s / one.speed
            if end_s < best_s:
                best_s, best = end_s, one
        return best_s, best

    def _computed(self, one: _Running) -> None:
        self._busy_lately()
        self.running.remove(one)
        self._regroup()
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            sleeper.wake()
        start = one.start
        self.busy_s += (self.now_s - one.since_s) * one.share
        if self._front_free_s > self.now_s:
            self._at(self._front_free_s, lambda: self._ended(start))
        else:
            self._ended(start)

    def _ended(self, start: Start) -> None:
        """The loop has heard of it: the next batch may start, and then its answers go out."""
        self._now_counts = True
        start.queue.batch_ended(start.batch, start.n_rows, start.started_s, self.now_s)
        self.dispatcher.ended(start)

        def answered() -> None:
            for job in start.batch:
                start.queue.end(job, COMPLETED)

        self._chore(self.models[start.name].front.answer_s * len(start.batch), start.name, answered)


def _nothing() -> None:
    pass


def simulate_serving(
    models: Mapping[str, SimModel],
    arrivals_s: Mapping[str, Float],
    n_cores: int,
    policy: str,
    interference: Interference | None = None,
    pace: Pace | None = None,
) -> ServingOutcome:
    """What becomes of requests that arrive at those times (rising, in seconds, per model; one row each).

    Raises InputError for arrivals of a model that is not there, an unknown policy, or without a core.
    """
    make = policy_maker(policy)
    policies = {name: make(model.delay) for name, model in models.items()}
    return simulate_with(models, arrivals_s, n_cores, policies, interference, pace)


def simulate_with(
    models: Mapping[str, SimModel],
    arrivals_s: Mapping[str, Float],
    n_cores: int,
    policies: Mapping[str, BatchPolicy],
    interference: Interference | None = None,
    pace: Pace | None = None,
) -> ServingOutcome:
    """As `simulate_serving`, with a policy object for each model."""
    unknown = sorted(set(arrivals_s) - set(models))
    if unknown or n_cores < 1:
        raise InputError(f"arrivals for {unknown}, models are {sorted(models)}; n_cores={n_cores} must be at least 1")
    sim = Simulation(models, n_cores, policies, interference, pace=pace)
    for name, times_s in arrivals_s.items():
        sim.feed(name, times_s)
    sim.advance()
    return sim.outcome()
