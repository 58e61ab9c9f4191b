"""DeepRT: windows, the plan that lets requests in, and its promise: whoever is let in is answered in time while latencies hold."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from jouleflow.policy.batch import Decision
from jouleflow.policy.deeprt import DeepRt
from jouleflow.policy.dispatch import Dispatcher
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.queue import ModelQueue
from jouleflow.profile.latencies import Latencies
from jouleflow.sim.serving import SimModel, simulate_with
from jouleflow.trace.arrivals import make_arrivals
from tests.policy.test_batch import view

EXACT = DeepRt(safety_frac=0.0, reserve_frac=0.0)
SIZES = (1, 2, 4, 8, 16, 32)


def box(n_cores: int, **rows_s: float) -> Dispatcher:
    """Models by how long each of their rows takes."""
    made = Dispatcher(n_cores)
    for name, row_s in rows_s.items():
        queue = made.queues[name] = ModelQueue(EXACT, 8, n_cores, 1.0, 100, 1 << 20)
        queue.latencies.start_from(1, row_s)
        queue.latencies.start_from(2, 2 * row_s)
    return made


def offered(made: Dispatcher, name: str, now_s: float, limit_s: float, priority: int = 5) -> bool:
    ends: list[Result] = []
    job = Job(None, 10, 1, ((ord("a"),),), now_s, now_s + limit_s, priority, ends.append)
    taken = made.offer(made.queues[name], job, now_s)
    assert taken or (ends[0].end, ends[0].status) == (End.REJECTED, 503)
    return taken


def test_a_window_ends_in_the_middle_when_it_is_full_or_when_its_batch_must_go() -> None:
    assert EXACT.decide(view(deadline_s=0.1)) == Decision(0, 0.05, 2)
    assert EXACT.decide(view(deadline_s=0.1, now_s=0.05)).n_rows == 4
    assert EXACT.decide(view(deadline_s=0.1, n_waiting=20)).n_rows == 8
    assert EXACT.decide(view(deadline_s=0.1, oldest_s=-0.02)) == Decision(0, 0.04, 2)
    waits = EXACT.decide(view(deadline_s=0.020))  # four rows take 16 ms
    assert (waits.n_rows, waits.again_s) == (0, pytest.approx(0.004))
    assert EXACT.decide(view(deadline_s=inf)).n_rows == 4
    assert EXACT.decide(view(deadline_s=0.1, latencies=None, now_s=0.05)).n_rows == 4


def test_a_request_comes_in_while_the_plan_holds() -> None:
    made = box(1, a=0.03)
    # one window of 0.05 s: 1, 2 and 3 rows fit into what is left of 0.1 s, or start sooner
    assert [offered(made, "a", 0.0, 0.1) for _ in range(5)] == [True] * 3 + [False] * 2
    start = made.next(0.0101)
    assert start is not None  # three rows take 0.09 s: they must go at 0.01
    assert len(start.batch) == 3
    assert not offered(made, "a", 0.02, 0.1)  # the core is free at 0.1, its batch done at 0.13
    assert offered(made, "a", 0.035, 0.1)


def test_a_request_that_would_make_another_late_is_refused() -> None:
    for at_s, comes_in in ((0.030, True), (0.045, False)):
        made = box(1, a=0.03, b=0.08)
        assert offered(made, "b", 0.0, 0.2)  # it goes at 0.1
        # it goes 0.05 s later and takes 0.03, and b has to be started at 0.12
        assert offered(made, "a", at_s, 0.1) is comes_in
    for at_s, comes_in in ((0.05, True), (0.095, False)):
        made = box(1, a=0.03, b=0.08)
        assert offered(made, "b", 0.0, 0.2)
        assert offered(made, "a", at_s, inf) is comes_in  # without a deadline it goes at once
    made = box(2, a=0.03, b=0.08)
    assert offered(made, "b", 0.0, 0.2)
    assert offered(made, "a", 0.045, 0.1)  # on a core of its own


def test_who_is_late_anyhow_is_no_reason_to_refuse_another() -> None:
    made = box(2, a=0.03, b=0.08)
    assert offered(made, "b", 0.0, 0.2)
    made.queues["b"].latencies.start_from(1, 0.5)
    assert offered(made, "a", 0.01, 0.1)


def test_a_model_that_seems_too_slow_is_tried_rarely_and_at_nobodys_cost() -> None:
    made = box(1, a=0.03, b=0.08)
    made.queues["a"].slo_s = 0.02
    assert offered(made, "b", 0.0, 0.2)
    assert not offered(made, "a", 0.095, 0.02)  # b would have to wait for it
    start = made.next(0.1)
    assert start is not None
    made.ended(start)
    tried = []
    for second in range(1, 13):
        if offered(made, "a", float(second), 0.02):
            tried.append(second)
            start = made.next(float(second))
            assert start is not None
            made.ended(start)
    assert tried == [1, 6, 11]


@pytest.mark.parametrize("policy", [DeepRt(), EXACT], ids=["margin", "exact"])
@pytest.mark.parametrize("seed", range(8))
def test_whoever_is_let_in_is_in_time(policy: DeepRt, seed: int) -> None:
    random = np.random.default_rng(seed)
    n_cores, load = int(random.integers(1, 4)), random.choice([0.2, 0.7, 1.5, 5.0])
    models, times = {}, {}
    for k in range(int(random.integers(1, 6))):
        row_s, fixed_frac = 10 ** random.uniform(-3.5, -1.5), random.uniform(0, 0.9)
        latencies = Latencies(SIZES, tuple(row_s * (fixed_frac + (1 - fixed_frac) * n) for n in SIZES))
        n_instances, max_batch = int(random.integers(1, n_cores + 1)), int(random.choice([1, 8, 32]))
        slo_s, priority = float(row_s * 10 ** random.uniform(0.15, 2)), int(random.integers(4, 6))
        models[f"m{k}"] = SimModel(latencies, slo_s, max_batch, n_instances, priority)
    for name, model in models.items():
        rate_hz = load * n_cores / len(models) / model.latencies.of(1)
        times[name] = make_arrivals(str(random.choice(["poisson", "bursty"])), rate_hz, 400 / rate_hz, random)
    outcome = simulate_with(models, times, n_cores, dict.fromkeys(models, policy))
    for m in outcome.models.values():
        assert m.counts["completed"] + m.counts.get("rejected", 0) == m.n_requests
        assert m.counts["completed"] > 0
        assert (m.latency_s <= m.slo_s + 1e-8).all()


def test_it_refuses_next_to_nobody_where_there_is_room() -> None:
    model = SimModel(Latencies((1, 8), (0.010, 0.030)), 0.1, 8, 2)
    times = make_arrivals("poisson", 150.0, 20.0, np.random.default_rng(0))
    outcome = simulate_with({"m": model}, {"m": times}, 2, {"m": DeepRt()}).models["m"]
    assert outcome.in_time_frac > 0.99
    assert outcome.batch_rows.mean() > 4


def test_so_are_requests_of_all_sizes_shapes_and_deadlines_and_refusals_are_remembered_rightly() -> None:
    assert sum(mixed(seed) for seed in range(8)) > 200


def mixed(seed: int) -> int:
    """How often a refusal was remembered and asked again."""
    random = np.random.default_rng(seed)
    made, now_s, n_late, n_ended, n_again, n_offered = Dispatcher(int(random.integers(1, 3))), 0.0, 0, 0, 0, 1200
    for name in "abc":
        queue = ModelQueue(EXACT, 8, int(random.integers(1, 4)), 0.1, 100, 1 << 20)
        for n in SIZES:
            queue.latencies.start_from(n, 0.002 + float(random.uniform(0.0005, 0.004)) * n)
        made.queues[name] = queue
    refused: dict[str, tuple[Job, int, float]] = {}
    arrivals: list[float] = np.cumsum(random.exponential(0.001, n_offered)).tolist()

    def answered(result: Result) -> None:
        nonlocal n_ended
        n_ended += 1
        assert result.end in (End.COMPLETED, End.REJECTED)

    while arrivals or made.running or any(q.n_jobs for q in made.queues.values()):
        again_s = inf if made.again_s is None else made.again_s
        before_s, now_s = now_s, min([again_s, *arrivals[:1], *[start.ends_s for start in made.running]])
        for name, (job, n_changes, until_s) in refused.items():  # what is remembered would be said again
            queue, at_s = made.queues[name], float(random.uniform(before_s, now_s))
            if at_s < until_s and made.n_changes + queue.n_changes == n_changes:
                n_again += 1
                again = replace(job, arrived_s=at_s, deadline_s=at_s + job.deadline_s - job.arrived_s, order=1 << 60)
                assert EXACT.outlook(again, queue, made, at_s).late_s > 0
        for start in [s for s in made.running if s.ends_s <= now_s]:
            made.ended(start)
            start.queue.batch_ended(start.batch, start.n_rows, start.started_s, now_s)
            n_late += sum(job.deadline_s < now_s - 1e-9 for job in start.batch)
            for job in start.batch:
                start.queue.end(job, Result(End.COMPLETED))
        if arrivals and arrivals[0] <= now_s:
            del arrivals[0]
            limit_s = float(random.choice([0.02, 0.05, 0.1, inf], p=[0.3, 0.3, 0.3, 0.1]))
            kind = ((int(random.integers(1, 3)),),)
            job = Job(
                None, 1, int(random.integers(1, 5)), kind, now_s, now_s + limit_s, int(random.integers(4, 6)), answered
            )
            name = str(random.choice(list(made.queues)))
            queue = made.queues[name]
            if not made.offer(queue, job, now_s):
                refused[name] = job, made.n_changes + queue.n_changes, queue.late_until_s
        while made.next(now_s) is not None:
            pass
    completed = sum(q.counts["completed"] for q in made.queues.values())
    assert (n_late, n_ended) == (0, n_offered)
    assert 100 < completed < n_offered
    return n_again
