"""Policies and the queue they decide on: who goes first, how large a batch is, who is refused, and counts that add up."""

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.errors import InputError
from jouleflow.policy.batch import (
    Aimd,
    Delay,
    Finished,
    Fixed,
    Latencies,
    Table,
    View,
    sustained_rows,
)  # fmt: skip
from jouleflow.policy.dispatch import Dispatcher
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.learned import LearnedLatencies
from jouleflow.policy.policies import PLAIN, POLICIES, make_policy
from jouleflow.policy.queue import ModelQueue
from jouleflow.sim.serving import SimModel, simulate_with

KNOWN = Latencies((1, 2, 4, 8), (0.010, 0.012, 0.016, 0.024))


def view(**changes: object) -> View:
    base = {
        "now_s": 0.0, "n_waiting": 4, "oldest_s": 0.0, "deadline_s": 1.0, "n_running": 0, "n_instances": 2, "max_batch": 8,
        "slo_s": 1.0, "latencies": KNOWN,
    }  # fmt: skip
    return View(**{**base, **changes})  # type: ignore[arg-type]


def job(
    now_s: float, deadline_s: float = inf, priority: int = 5, n_rows: int = 1, kind: str = "a"
) -> tuple[Job, list[Result]]:
    ends: list[Result] = []
    return Job(None, 10, n_rows, ((ord(kind),),), now_s, deadline_s, priority, ends.append), ends


def queue(policy: str = "table", max_jobs: int = 100, slo_s: float = 0.1) -> ModelQueue:
    made = ModelQueue(make_policy(policy), 8, 2, slo_s, max_jobs, 1000)
    for rows, seconds in zip(KNOWN.at_rows, KNOWN.seconds, strict=True):
        made.latencies.start_from(rows, seconds)
    return made


def test_latencies_between_and_beyond() -> None:
    assert KNOWN.of(3) == pytest.approx(0.014)
    assert KNOWN.of(16) == pytest.approx(0.040)
    assert Latencies((1,), (0.01,)).of(5) == pytest.approx(0.05)
    assert KNOWN.best_rows(8, inf) == 8
    assert KNOWN.best_rows(8, 0.017) == 4
    assert Latencies((1, 8), (0.01, 0.09)).best_rows(8, inf) == 1  # batches that cost more than they bring
    assert sustained_rows(KNOWN, 8, 0.034) == 4


def test_what_each_policy_starts() -> None:
    assert Delay().decide(view()).n_rows == 4
    assert Delay(max_delay_s=0.1).decide(view()).n_rows == 0
    assert Delay(max_delay_s=0.1).decide(view(now_s=0.1)).n_rows == 4
    for n_waiting, n_rows in ((1, 0), (2, 2), (3, 2), (5, 4), (8, 4)):  # the largest preferred one, as Triton does
        assert Delay(0.1, (2, 4)).decide(view(n_waiting=n_waiting)).n_rows == n_rows
    assert Delay(0.1, (2, 4)).decide(view(n_waiting=1, now_s=0.1)).n_rows == 1
    assert Delay(0.1, (64,)).decide(view(n_waiting=9)).n_rows == 8
    assert Fixed(4).decide(view()).n_rows == 4
    assert Fixed(8).decide(view()).n_rows == 0
    assert Fixed(8).decide(view(deadline_s=0.01)).n_rows == 4  # it cannot wait any longer
    assert Fixed(8).decide(view(deadline_s=inf, slo_s=0.0)).n_rows == 4  # more may never come
    assert Table().decide(view()).n_rows == 4
    assert Table().decide(view(deadline_s=0.0135)).n_rows == 2
    assert Table().decide(view(latencies=None)).n_rows == 4


def test_table_gives_up_a_late_first_row_when_others_wait_behind_it() -> None:
    assert Table().decide(view(n_waiting=40, deadline_s=0.012)).give_up_s > 0.02
    assert Table().decide(view(n_waiting=3, deadline_s=0.012)).n_rows == 1


def two_cores(known: Latencies, n_waiting: int) -> int:
    return Table().decide(view(n_waiting=n_waiting, latencies=known, box=Dispatcher(2), max_batch=32, slo_s=0.0)).n_rows


def test_table_leaves_the_other_core_its_share() -> None:
    flat = Latencies((1, 2, 4, 8, 16), (0.00070, 0.00114, 0.002, 0.0037, 0.0071))  # little is gained beyond a few rows
    assert two_cores(flat, 16) == 8
    assert two_cores(flat, 15) == 8
    assert two_cores(KNOWN, 8) == 8  # whatever is taken along is nearly free there
    assert two_cores(flat, 1) == 1


def test_a_share_gets_done_sooner_than_all_and_then_the_rest() -> None:
    known = Latencies(tuple(range(1, 33)), tuple(0.00028 + 0.00043 * n for n in range(1, 33)))
    times = np.cumsum(np.random.default_rng(0).exponential(1 / 3373, 30_000))
    model = {"a": SimModel(known, 0.0, 32, 2)}
    p99_s = {
        share_frac: np.percentile(
            simulate_with(model, {"a": times}, 2, {"a": Table(share_frac=share_frac)}).models["a"].latency_s, 99
        )
        for share_frac in (0.2, -1.0)  # with the last one, no share is ever good enough
    }
    assert p99_s[0.2] < 0.95 * p99_s[-1.0]


def test_aimd_shrinks_when_a_batch_takes_longer_than_the_slo() -> None:
    policy = Aimd()
    for _ in range(5):
        assert policy.decide(view(n_waiting=64, slo_s=0.1)).n_rows == int(policy.limit)
        policy.finished(Finished(int(policy.limit), 0.1))  # however long its requests waited before
    assert policy.limit == 6
    policy.finished(Finished(6, 0.101))
    assert policy.limit == pytest.approx(5.4)
    policy.finished(Finished(3, 0.01))  # a batch that was not full tells nothing
    assert policy.limit == pytest.approx(5.4)
    policy.decide(view(slo_s=0.0))
    policy.finished(Finished(5, 9.0))
    assert policy.limit == 6


def test_priority_then_deadline_then_arrival() -> None:
    q = queue()
    given_jobs = [job(0, 9.0), job(0, 5.0), job(0, 9.0, priority=1), job(0, 5.0)]
    for each, _ in given_jobs:
        assert q.offer(each, 0.0, 2, 0.0)
    order = []
    while (head := q.head(0.0)) is not None:
        order += q.take(head, 1, 0.0)
    assert order == [given_jobs[k][0] for k in (2, 1, 3, 0)]


def test_only_jobs_of_one_kind_share_a_batch() -> None:
    q = queue()
    for k in range(6):
        q.offer(job(0, 5.0 + k, kind="ab"[k % 2])[0], 0.0, 2, 0.0)
    head = q.head(0.0)
    assert head is not None
    batch = q.take(head, 8, 0.0)
    assert len(batch) == 3
    assert len({j.kind for j in batch}) == 1


def test_refusals_say_why() -> None:
    q = queue(max_jobs=2)
    for _ in range(2):
        q.offer(job(0, 5.0)[0], 0.0, 2, 0.0)
    full, ends = job(0, 5.0)
    assert not q.offer(full, 0.0, 2, 0.0)
    assert (ends[0].end, ends[0].status) == (End.REJECTED, 429)
    late, ends = job(0, 0.005)
    assert not queue().offer(late, 0.0, 2, 0.0)
    assert (ends[0].end, ends[0].status) == (End.REJECTED, 503)
    assert ends[0].retry_s > 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0.001, 0.5), st.integers(1, 9), st.integers(1, 4), st.booleans()),
        max_size=60,
    ),
    st.sampled_from(sorted(POLICIES)),
)
def test_every_job_ends_exactly_once(given_jobs: list, policy: str) -> None:
    q, dispatcher = queue(policy, max_jobs=20), Dispatcher(2)
    dispatcher.queues["m"] = q
    ends: list[list[Result]] = []
    now_s = 0.0
    for wait_s, slack_s, priority, n_rows, cancel in given_jobs:
        now_s += wait_s * 0.02
        made, end = job(now_s, now_s + slack_s, priority, n_rows)
        ends.append(end)
        if dispatcher.offer(q, made, now_s):
            made.cancelled = cancel
        drain(dispatcher, now_s)
        assert q.n_jobs >= 0
        assert q.n_rows >= q.n_jobs
    for _ in range(200):
        now_s += 0.05
        drain(dispatcher, now_s)
    assert q.n_jobs == q.n_rows == q.n_bytes == 0
    assert all(len(e) == 1 for e in ends)
    assert q.counts["accepted"] == len(ends) == sum(q.counts[e.value] for e in End)


def drain(dispatcher: Dispatcher, now_s: float) -> None:
    while (start := dispatcher.next(now_s)) is not None:
        for each in start.batch:
            start.queue.end(each, Result(End.COMPLETED))
        start.queue.batch_ended(start.batch, start.n_rows, start.started_s, now_s + 0.001)
        dispatcher.ended(start)


def test_a_size_that_looked_slow_once_is_tried_again() -> None:
    learned = LearnedLatencies()
    learned.start_from(1, 0.010)
    learned.start_from(4, 0.020)
    for _ in range(50):
        learned.saw(4, 0.080)
    assert learned.now is not None
    slow = learned.now.of(4)
    for _ in range(3000):
        learned.saw(1, 0.010)
    assert learned.now.of(4) < slow / 2


def test_a_size_that_was_seen_once_in_a_slow_moment_is_tried_again() -> None:
    learned = LearnedLatencies()
    learned.start_from(1, 0.010)
    learned.start_from(4, 0.160)  # as often as it is seen, that was its best
    for _ in range(10_000):
        learned.saw(1, 0.010)
    assert learned.now is not None
    assert learned.now.of(4) < 0.05  # no more a row than one alone


@pytest.mark.parametrize("make", PLAIN.values())
def test_policies_always_decide_something_possible(make: Callable) -> None:
    policy = make()
    for n in (1, 3, 8, 50):
        for deadline_s in (0.001, 0.02, inf):
            decision = policy.decide(view(n_waiting=n, deadline_s=deadline_s))
            assert 0 <= decision.n_rows <= 8
            assert (
                decision.n_rows
                or decision.again_s > 0
                or decision.give_up_s > 0
                or policy.decide(view(n_waiting=n, deadline_s=deadline_s, now_s=decision.again_s)).n_rows
            )


def test_unknown_policy() -> None:
    with pytest.raises(InputError, match="table"):
        make_policy("tabel")
