"""Which of the models that wait gets the next core: by deadline, or who costs least first, as long as each gets what it is due."""

from collections.abc import Callable
from math import inf

import numpy as np
import pytest

from jouleflow.policy.batch import BatchPolicy, Decision, Finished, Table, View
from jouleflow.policy.dispatch import Dispatcher
from jouleflow.policy.policies import PLAIN, POLICIES, make_policy
from jouleflow.policy.queue import ModelQueue
from jouleflow.policy.turns import LATELY_S, Used, due_s
from jouleflow.profile.latencies import Latencies
from jouleflow.sim.serving import ModelOutcome, SimModel, simulate_with
from jouleflow.trace.arrivals import make_arrivals
from tests.policy.test_batch import job


def box(policy: str, n_cores: int = 1) -> Dispatcher:
    """Two models: a row of `cheap` takes 1 ms, one of `dear` 20."""
    made = Dispatcher(n_cores)
    for name, row_s in (("cheap", 0.001), ("dear", 0.020)):
        made.queues[name] = ModelQueue(make_policy(policy), 8, 2, 0.1, 100, 1 << 20)
        for n in (1, 2, 4, 8):
            made.queues[name].latencies.start_from(n, n * row_s)
    return made


def offer(made: Dispatcher, name: str, now_s: float = 0.0, given_s: float = 0.1, priority: int = 5) -> None:
    one, _ = job(now_s, now_s + given_s)
    one.priority = priority
    assert made.offer(made.queues[name], one, now_s)


def goes_first(made: Dispatcher, now_s: float = 0.0) -> str:
    found = made.next(now_s)
    assert found is not None
    return found.name


def test_which_policies_do_it() -> None:
    assert [p for p in POLICIES if getattr(make_policy(p), "cheap_first", False)] == ["table", "bcedge"]
    assert set(PLAIN) < set(POLICIES)


@pytest.mark.parametrize("policy", ["delay", "table"])
def test_what_costs_little_goes_before_an_earlier_deadline(policy: str) -> None:
    made = box(policy)
    offer(made, "dear", given_s=0.09)
    offer(made, "cheap")
    assert goes_first(made) == ("cheap" if policy == "table" else "dear")


def test_a_request_that_was_given_little_time_goes_first() -> None:
    made = box("table")
    offer(made, "dear", given_s=0.05)
    offer(made, "cheap", given_s=0.9)
    offer(made, "cheap", given_s=10.0)  # does not go next: whoever does stands for its model
    assert goes_first(made) == "cheap"
    made = box("table")
    offer(made, "dear", given_s=0.05)
    offer(made, "cheap", given_s=2.0)
    assert goes_first(made) == "dear"


def test_priority_comes_before_and_no_deadline_after_everything() -> None:
    made = box("table")
    offer(made, "dear", priority=1)
    offer(made, "cheap")
    assert goes_first(made) == "dear"
    made = box("table")
    offer(made, "cheap", given_s=inf)
    offer(made, "dear")
    assert goes_first(made) == "dear"


def test_who_waited_long_and_had_less_than_it_is_due_goes_first() -> None:
    made = box("table")
    offer(made, "dear")
    offer(made, "cheap", now_s=0.051)
    assert goes_first(made, 0.051) == "dear"


def test_who_had_what_it_is_due_does_not() -> None:
    made = box("table")
    made.queues["dear"].used.add(due_s(1, 2) * 1.1, 0.0)
    offer(made, "dear")
    offer(made, "cheap", now_s=0.051)
    assert goes_first(made, 0.051) == "cheap"


def test_who_has_time_left_does_not_go_before_a_busy_one_that_has_little() -> None:
    """As of a large model that is hardly asked, and a small one in a burst."""
    made = box("table")
    made.queues["cheap"].used.add(due_s(1, 2) * 1.9, 0.0)
    offer(made, "dear")
    offer(made, "cheap", now_s=0.049)
    assert goes_first(made, 0.049) == "cheap"


def test_a_model_that_nobody_asks_is_due_nothing() -> None:
    for n_models, first in ((2, "dear"), (3, "cheap")):
        made = box("table")
        if n_models == 3:
            made.queues["other"] = ModelQueue(make_policy("table"), 8, 2, 0.1, 100, 1 << 20)
            made.queues["other"].asked_s = 0.0
        made.queues["dear"].used.add(due_s(1, 2) * 0.9, 0.0)  # more than if three were asked
        offer(made, "dear")
        offer(made, "cheap", now_s=0.051)
        assert goes_first(made, 0.051) == first


def test_what_was_used_is_forgotten() -> None:
    used = Used()
    used.add(1.0, 10.0)
    used.add(0.5, 10.0)
    assert used.lately_s(10.0) == 1.5
    assert used.lately_s(10.0 + LATELY_S) == pytest.approx(1.5 / np.e)


def test_what_is_due_is_what_half_of_an_even_share_comes_to() -> None:
    used, step_s = Used(), 1e-3
    for k in range(10_000):
        used.add(step_s * 2 / 5 / 2, k * step_s)
    assert used.lately_s(10.0) == pytest.approx(due_s(2, 5), rel=2e-3)


class ByDeadline:
    """The table's batches, and the earliest deadline first among models."""

    def __init__(self) -> None:
        self.table = Table()

    def decide(self, view: View) -> Decision:
        return self.table.decide(view)

    def finished(self, batch: Finished) -> None:
        """Learns nothing."""


def served(policy: Callable[[], BatchPolicy], cheap_hz: float, dear_hz: float) -> tuple[ModelOutcome, ModelOutcome]:
    rows = (1, 2, 4, 8, 16)
    models = {
        name: SimModel(Latencies(rows, tuple(n * row_s for n in rows)), 0.1, 16, 2)
        for name, row_s in (("cheap", 0.001), ("dear", 0.010))
    }
    random = np.random.default_rng(0)
    times = {name: make_arrivals("poisson", hz, 10.0, random) for name, hz in (("cheap", cheap_hz), ("dear", dear_hz))}
    found = simulate_with(models, times, 2, {name: policy() for name in models}).models
    return found["cheap"], found["dear"]


def test_the_cheap_wait_less_on_a_full_box_and_nobody_pays_for_it() -> None:
    cheap, dear = served(Table, 200, 300)
    plain_cheap, plain_dear = served(ByDeadline, 200, 300)
    assert np.median(cheap.latency_s) < 0.3 * np.median(plain_cheap.latency_s)
    assert cheap.in_time_frac > 0.99
    assert dear.in_time_frac > plain_dear.in_time_frac - 0.01


def test_cheap_requests_without_end_leave_the_dear_what_they_are_due() -> None:
    cheap, dear = served(Table, 6000, 200)
    assert 0.45 < dear.in_time_frac * 200 * 0.010 < 0.6  # cores, of half of one that it is due
    assert cheap.in_time_frac * 6000 * 0.001 > 1.4
