"""A server of many models without the server: the same queues, policies and dispatcher, on a clock that jumps from event to event.

A batch does the work that its profile says, at a speed that depends on what else runs meanwhile (`slowdown`); when that
changes, so does its speed. Requests arrive at given times, whatever the server does.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.policy.batch import Latencies, make_policy
from jouleflow.policy.dispatch import Dispatcher, Start
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.queue import ModelQueue

Float = NDArray[np.float64]
KIND = ((),)


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model as its profile knows it. latencies: alone, by rows. slowdown: by the name of a model that runs beside it, how
    many times longer it takes (1 when not named); several multiply."""

    latencies: Latencies
    slo_s: float = 0.0
    max_batch: int = 32
    n_instances: int = 1
    priority: int = 5
    max_queue: int = 512
    slowdown: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What became of the requests of one model. latency_s: of those that completed, in the order in which they did."""

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
    """A simulated run. busy_s: core seconds spent on batches."""

    models: Mapping[str, ModelOutcome]
    duration_s: float
    busy_s: float
    provenance: str = "modelled"


@dataclass(slots=True)
class _Running:
    """A batch on a core. left_s: of its work, if it ran alone."""

    start: Start
    left_s: float
    speed: float
    since_s: float  # when left_s and speed were true


class _Simulation:
    def __init__(self, models: Mapping[str, SimModel], n_cores: int, policy: str) -> None:
        self.models = models
        self.dispatcher = Dispatcher(n_cores)
        self.now_s = 0.0
        self.busy_s = 0.0
        self.running: list[_Running] = []
        self.latency_s: dict[str, list[float]] = {name: [] for name in models}
        self.batch_rows: dict[str, list[int]] = {name: [] for name in models}
        for name, model in models.items():
            queue = ModelQueue(
                make_policy(policy), model.max_batch, model.n_instances, model.slo_s, model.max_queue, 1 << 62
            )
            for rows, seconds in zip(model.latencies.at_rows, model.latencies.seconds, strict=True):
                queue.latencies.start_from(rows, seconds)
            self.dispatcher.queues[name] = queue

    def arrive(self, name: str) -> None:
        model, now_s = self.models[name], self.now_s
        deadline_s = now_s + model.slo_s if model.slo_s else inf

        def done(result: Result) -> None:
            if result.end is End.COMPLETED:
                self.latency_s[name].append(self.now_s - now_s)

        job = Job(None, 0, 1, KIND, now_s, deadline_s, model.priority, done)
        self.dispatcher.offer(self.dispatcher.queues[name], job, now_s)

    def pump(self) -> None:
        """Starts what may start now."""
        started = False
        while (start := self.dispatcher.next(self.now_s)) is not None:
            self._run(start)
            started = True
        if started:
            self._set_speeds()

    def _run(self, start: Start) -> None:
        work_s = self.models[start.name].latencies.of(start.n_rows)
        self.running.append(_Running(start, work_s, 1.0, self.now_s))
        self.batch_rows[start.name].append(start.n_rows)

    def _set_speeds(self) -> None:
        for one in self.running:
            one.left_s -= (self.now_s - one.since_s) * one.speed
            one.since_s = self.now_s
            slowdown = 1.0
            for other in self.running:
                if other is not one:
                    slowdown *= self.models[one.start.name].slowdown.get(other.start.name, 1.0)
            one.speed = 1.0 / slowdown

    def next_end(self) -> tuple[float, _Running | None]:
        """When the first of the running batches ends, and which."""
        best_s, best = inf, None
        for one in self.running:
            end_s = one.since_s + one.left_s / one.speed
            if end_s < best_s:
                best_s, best = end_s, one
        return best_s, best

    def finish(self, one: _Running) -> None:
        self.running.remove(one)
        self._set_speeds()
        start = one.start
        self.busy_s += self.now_s - start.started_s
        self.dispatcher.ended(start)
        for job in start.batch:
            start.queue.end(job, Result(End.COMPLETED))
        start.queue.batch_ended(start.batch, start.n_rows, start.started_s, self.now_s)


def simulate_serving(
    models: Mapping[str, SimModel], arrivals_s: Mapping[str, Float], n_cores: int, policy: str
) -> ServingOutcome:
    """What becomes of requests that arrive at those times (rising, in seconds, per model; one row each).

    Raises InputError for arrivals of a model that is not there, or without a core.
    """
    unknown = sorted(set(arrivals_s) - set(models))
    if unknown or n_cores < 1:
        raise InputError(f"arrivals for {unknown}, models are {sorted(models)}; n_cores={n_cores} must be at least 1")
    sim = _Simulation(models, n_cores, policy)
    coming = [(float(times[0]), name, 0) for name, times in sorted(arrivals_s.items()) if len(times)]
    heapq.heapify(coming)
    again_s = inf
    while True:
        end_s, ending = sim.next_end()
        arrival_s = coming[0][0] if coming else inf
        now_s = min(end_s, arrival_s, again_s)
        if now_s == inf:
            break
        sim.now_s = max(now_s, sim.now_s)
        if ending is not None and end_s <= now_s:
            sim.finish(ending)
        elif arrival_s <= now_s:
            _, name, k = coming[0]
            sim.arrive(name)
            times = arrivals_s[name]
            if k + 1 < len(times):
                heapq.heapreplace(coming, (float(times[k + 1]), name, k + 1))
            else:
                heapq.heappop(coming)
            if coming and coming[0][0] <= sim.now_s:
                continue  # all that come at once are seen together
        sim.pump()
        again = sim.dispatcher.again_s
        again_s = inf if again is None else max(again, sim.now_s + 1e-9)
    outcomes = {
        name: ModelOutcome(
            np.array(sim.latency_s[name]), len(arrivals_s.get(name, ())), dict(sim.dispatcher.queues[name].counts),
            np.array(sim.batch_rows[name], np.int64), model.slo_s,
        )
        for name, model in models.items()
    }  # fmt: skip
    return ServingOutcome(outcomes, sim.now_s, sim.busy_s)
