"""What is taken for a batch: the first that can still go, as many as fit; the others are told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.queue import ModelQueue
from tests.policy.test_batch import job, queue

NOW_S = 1.0
jobs = st.lists(
    st.tuples(st.sampled_from([0.5, 1.0, 1.2, 1.5, 9.0]), st.integers(1, 3), st.integers(1, 4), st.booleans(), st.sampled_from("ab")),
    min_size=1, max_size=20,
)  # fmt: skip


def filled(wanted: list[tuple[float, int, int, bool, str]]) -> tuple[ModelQueue, list[Job], list[list[Result]]]:
    """With jobs of (deadline, priority, rows, whether its sender goes away, kind), of which some have expired by NOW_S."""
    made = queue(slo_s=0.0, max_jobs=1000)
    made.max_bytes = 1 << 20
    made.latencies = type(made.latencies)()  # nobody is refused
    given_jobs, ends = [], []
    for deadline_s, priority, n_rows, gone, kind in wanted:
        one, end = job(0.0, deadline_s, priority, n_rows, kind)
        assert made.offer(one, 0.0, 2, 0.0)
        one.cancelled = gone
        given_jobs.append(one)
        ends.append(end)
    return made, given_jobs, ends


@given(jobs, st.integers(1, 12))
def test_a_batch_is_the_first_that_can_still_go(wanted: list[tuple[float, int, int, bool, str]], most: int) -> None:
    made, given_jobs, ends = filled(wanted)
    left = sorted(j for j in given_jobs if not j.cancelled and j.deadline_s > NOW_S)
    while (head := made.head(NOW_S)) is not None:
        assert head is left[0]
        batch = made.take(head, most, NOW_S)
        alike = [j for j in left if j.kind == head.kind]
        assert batch == alike[: len(batch)]
        assert len(batch) == 1 or sum(j.n_rows for j in batch) <= most
        assert len(batch) == len(alike) or sum(j.n_rows for j in alike[: len(batch) + 1]) > most
        left = [j for j in left if j not in batch]
        waiting = [j for kind in made._kinds.values() for _, j in kind.jobs]
        assert made.n_jobs == len(waiting)
        assert (made.n_rows, made.n_bytes) == (sum(j.n_rows for j in waiting), sum(j.size_bytes for j in waiting))
    assert not left
    assert (made.n_jobs, made.n_rows, made.n_bytes) == (0, 0, 0)
    for one, end in zip(given_jobs, ends, strict=True):
        can_go = not one.cancelled and one.deadline_s > NOW_S
        assert [r.end for r in end] == ([] if can_go else [End.CANCELLED if one.cancelled else End.EXPIRED])


@given(jobs, st.lists(st.sampled_from([1.1, 2.0, 8.0]), max_size=20))
def test_an_end_that_brings_another_request_loses_none(
    wanted: list[tuple[float, int, int, bool, str]], coming: list[float]
) -> None:
    """An answer may let a connection go on to its next request, while the queue gives up many."""
    made, given_jobs, ends = filled(wanted)
    arrivals = iter(coming)

    def ended(result: Result) -> None:
        deadline_s = next(arrivals, None)
        if deadline_s is not None:
            more, end = job(NOW_S, deadline_s, 3, 1, "a")
            given_jobs.append(more)
            ends.append(end)
            assert made.offer(more, NOW_S, 2, 0.0)

    for one, end in zip(given_jobs, ends, strict=True):
        said = end.append
        one.done = lambda result, said=said: (said(result), ended(result))
    made.give_up(1.4, NOW_S)
    made.head(NOW_S)
    waiting = [j for kind in made._kinds.values() for _, j in kind.jobs]
    assert [j for j, end in zip(given_jobs, ends, strict=True) if not end] == sorted(waiting, key=given_jobs.index)
    assert all(len(end) <= 1 for end in ends)
    assert (made.n_jobs, made.n_rows) == (len(waiting), sum(j.n_rows for j in waiting))
