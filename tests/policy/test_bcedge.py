"""The learned policy: what it sees is bounded, what it chooses is done, and the table goes first where it would be late."""

from collections.abc import Callable
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.errors import InputError
from jouleflow.policy.batch import Finished, Totals
from jouleflow.policy.bcedge import CHOICES, INSTANCES, N_SEEN, TABLE, BcEdge, Choice, Slot, Watch
from jouleflow.policy.disturbance import FORGET_S, MUCH, Disturbance
from jouleflow.policy.policies import make_policy, policy_maker
from jouleflow.policy.utility import shortfall_between, utility
from jouleflow.profile.interference import Pairwise
from jouleflow.profile.latencies import Latencies
from jouleflow.sim.serving import Front, SimModel, simulate_with
from tests.policy.test_batch import view

NOTHING = Totals(0, 0, 0, 0, 0.0, 0.0, 0, 0.010, 1.0)


class OneModel:
    """A box of one model."""

    n_cores, n_busy = 2, 0

    def __init__(self, totals: Totals = NOTHING) -> None:
        self.now = totals

    def may_take_s(self, name: str, now_s: float) -> float:
        return inf

    def first_end_s(self, name: str) -> float:
        return inf

    def totals(self) -> dict[str, Totals]:
        return {"m": self.now}


def asked(choose: Callable[[object], int]) -> BcEdge:
    """A policy whose net always decides."""
    return BcEdge(choose, ask_from=0.0)


def seen_by(choice: Choice, **changes: object) -> tuple[BcEdge, object]:
    policy = asked(lambda _: CHOICES.index(choice))
    return policy, policy.decide(view(name="m", box=OneModel(), **changes))


def test_a_net_is_not_asked_while_nothing_depends_on_it() -> None:
    seen: list[object] = []
    policy, box = asked(lambda now: seen.append(now) or TABLE), OneModel()
    assert policy.decide(view(name="m", box=box, n_waiting=1)).n_rows == 1  # alone on an idle box
    assert not seen
    box.n_busy = 1
    policy.decide(view(name="m", box=box, n_waiting=1))
    assert len(seen) == 1
    policy.choice = Choice(8, 64, True)
    box.n_busy = 0
    policy.decide(view(name="m", box=box, n_waiting=1, now_s=0.6))
    assert len(seen) == 2  # it would wait


@pytest.mark.parametrize(("n_rows", "wanted"), [(1, 1), (2, 2), (64, 4)])
def test_a_batch_is_of_the_rows_that_were_chosen(n_rows: int, wanted: int) -> None:
    assert seen_by(Choice(n_rows, 64, False))[1].n_rows == wanted


def test_it_holds_until_the_batch_is_full_or_must_go() -> None:
    policy, decision = seen_by(Choice(8, 64, True))
    assert decision.n_rows == 0
    assert decision.again_s == pytest.approx(1.0 - 0.016 * 1.2)  # the deadline less what four rows take, and some more
    assert policy.decide(view(name="m", box=OneModel(), now_s=decision.again_s)).n_rows == 4
    assert policy.decide(view(name="m", box=OneModel(), n_waiting=9)).n_rows == 8


def test_no_more_batches_at_once_than_were_chosen() -> None:
    assert seen_by(Choice(64, 1, False), n_running=1)[1].n_rows == 0
    assert seen_by(Choice(64, 2, False), n_running=1)[1].n_rows == 4


def test_the_table_is_taken_where_the_choice_would_be_too_late() -> None:
    policy, decision = seen_by(Choice(64, 64, False), n_waiting=8, deadline_s=0.014, slo_s=0.02)
    assert decision.n_rows == 1  # eight take 24 ms, one takes 10
    assert (policy.n_decisions, policy.n_fallbacks) == (1, 1)
    assert seen_by(Choice(0, 64, False))[1] == make_policy("table").decide(view())


def test_the_table_is_taken_where_small_batches_would_fall_behind() -> None:
    few = seen_by(Choice(1, 64, False), n_waiting=8)[1]
    assert few.n_rows == 1  # 8 rows take 40 ms on two cores
    policy, many = seen_by(Choice(1, 64, False), n_waiting=200)
    assert many.n_rows == 8
    assert policy.n_fallbacks == 1


def test_the_net_decides_while_batches_disturb_each_other() -> None:
    box, policy = OneModel(), BcEdge(lambda _: CHOICES.index(Choice(8, 1, False)))
    box.n_busy = 1

    def rows(now_s: float) -> int:
        at = view(name="m", box=box, n_running=1, n_waiting=8, now_s=now_s, oldest_s=now_s, deadline_s=now_s + 1)
        return policy.decide(at).n_rows

    assert rows(0.0) == 8  # nobody knows yet: the table's
    policy.finished(Finished(1, 0.010))
    policy.finished(Finished(1, 0.010 * (MUCH - 0.1), alone=False))
    assert rows(1.0) == 8
    policy.finished(Finished(1, 0.100, alone=False))
    assert rows(2.0) == 0  # one at a time
    assert policy.n_decisions == 1
    assert rows(2.0 + 4 * FORGET_S) == 8  # what was seen is forgotten, and seen again
    policy.finished(Finished(1, 0.025, alone=False))
    assert policy.disturbed[0] == 1.0
    assert policy.disturbed[-1] > 1.5


def test_a_net_that_leaves_a_core_idle_under_overload_is_not_asked() -> None:
    latencies = Latencies((1, 2, 4, 8, 16), tuple(n * 2.65e-3 for n in (1, 2, 4, 8, 16)))
    box = {"m": SimModel(latencies, 0.05, 16, 2, front=Front(15e-6, 15e-6, 20e-6, 10e-6))}
    times_s = {"m": np.cumsum(np.random.default_rng(0).exponential(1 / 1500, 12_000))}

    def in_time_frac(policy: object) -> float:
        return simulate_with(box, times_s, 2, {"m": policy}).models["m"].in_time_frac

    def small_and_alone(_: object) -> int:
        return CHOICES.index(Choice(2, 1, False))

    table = in_time_frac(make_policy("table"))
    assert in_time_frac(BcEdge(small_and_alone)) == table
    assert in_time_frac(asked(small_and_alone)) < 0.75 * table


def test_without_knowledge_it_is_the_table() -> None:
    for changes in ({"latencies": None}, {"slo_s": 0.0, "deadline_s": inf}):
        assert seen_by(Choice(1, 1, False), **changes)[1].n_rows == make_policy("table").decide(view(**changes)).n_rows


def test_a_slot_is_told_with_what_it_gained() -> None:
    told: list[tuple[str, Slot]] = []
    box, policy = OneModel(), BcEdge(lambda _: TABLE, record=lambda name, slot: told.append((name, slot)))
    policy.decide(view(name="m", box=box))
    box.now = Totals(10, 10, 10, 10, 10 * 0.020, 0.1, 0, 0.010, 1.0)  # ten answers that took twice what a row takes
    policy.decide(view(name="m", box=box, now_s=0.9, deadline_s=1.9))
    ((name, slot),) = told
    assert (name, slot.choice) == ("m", TABLE)
    assert slot.reward == pytest.approx(np.log(0.5))
    assert slot.seen.shape == slot.seen_then.shape == (N_SEEN,)


def test_a_slot_is_told_as_of_who_decided() -> None:
    told: list[Slot] = []
    own = CHOICES.index(Choice(4, 64, False))
    box, policy = OneModel(), BcEdge(lambda _: own, record=lambda _, slot: told.append(slot))
    box.n_busy = 1

    def slots(first: int, n: int) -> None:
        for k in range(first, first + n):
            policy.decide(view(name="m", box=box, now_s=k * 0.6, oldest_s=k * 0.6, deadline_s=k * 0.6 + 1))

    slots(0, 3)
    policy.finished(Finished(1, 1.0, alone=False))
    slots(3, 3)
    assert [slot.choice for slot in told] == [TABLE, TABLE, TABLE, own, own]
    policy.disturbance = Disturbance()
    slots(6, 3)  # the first of them ends one that the net began, and the table ended
    assert [slot.choice for slot in told[5:]] == [own, TABLE, TABLE]


def test_batches_are_disturbed_that_take_longer_than_alone_on_this_server() -> None:
    def heard(alone_s: float, beside_s: float) -> float:
        policy, k = BcEdge(lambda _: TABLE), INSTANCES.index(CHOICES[TABLE].n_instances)
        policy.decide(view(name="m", box=OneModel()))  # a row took 10 ms in the warm-up
        for _ in range(200):
            policy.finished(Finished(1, alone_s, alone=True))
        for _ in range(200):
            policy.finished(Finished(1, beside_s, alone=False))
        return policy.disturbed[k]

    assert heard(0.010, 0.010) == pytest.approx(1.0)
    assert heard(0.040, 0.040) == pytest.approx(1.0)  # a server with little to do
    assert heard(0.040, 0.100) == pytest.approx(2.5, rel=0.01)
    policy = BcEdge(lambda _: TABLE)
    policy.decide(view(name="m", box=OneModel()))
    policy.finished(Finished(1, 0.025, alone=False))
    assert policy.disturbed[INSTANCES.index(64)] == pytest.approx(2.5)  # nothing ran alone: than in the warm-up
    assert policy.disturbed[INSTANCES.index(1)] == 1.0


def test_utility_as_published() -> None:
    assert utility(30, 0.02, 1.0, 0.1) == pytest.approx(np.log(30 / (0.02 / 0.1)))
    assert utility(30, 0.11, 1.0, 0.1) == 0.0
    assert utility(0, 0.0, 1.0, 0.1) == 0.0
    after = replace(NOTHING, n_arrived=4, n_ended=4, n_completed=4, n_in_time=4, latency_s=0.04)
    assert shortfall_between(NOTHING, after, 1.0) == 0.0
    assert shortfall_between(NOTHING, replace(after, n_in_time=0), 1.0) == -5.0
    assert shortfall_between(after, NOTHING, 1.0) is None
    assert shortfall_between(NOTHING, NOTHING, 1.0) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=4, max_size=4), st.floats(0, 1e6), st.floats(1e-6, 10), st.floats(1e-3, 10)
)  # fmt: skip
def test_what_is_seen_is_finite_and_bounded(counts: list[int], latency_s: float, row_s: float, slo_s: float) -> None:
    n = sorted(counts, reverse=True)
    after = Totals(n[0], n[1], n[2], n[3], latency_s, latency_s, n[0], row_s, slo_s)
    seen = Watch().look("m", view(name="m", box=OneModel(after), slo_s=slo_s), {}, {"m": after}, 0.0, 0.0)
    assert seen.shape == (N_SEEN,)
    assert np.isfinite(seen).all()
    assert np.abs(seen).max() <= 4.0


def test_the_net_that_comes_with_it_beats_the_table_where_batches_disturb_each_other() -> None:
    latencies = Latencies((1, 2, 4, 8, 16), (0.010, 0.012, 0.016, 0.024, 0.040))
    models = {n: SimModel(latencies, 0.1, 16, 2) for n in "ab"}
    random = np.random.default_rng(0)
    times = {n: np.cumsum(random.exponential(1 / 150, 2000)) for n in models}
    makers = {
        "net": policy_maker("bcedge"),
        "table": policy_maker("table"),
        "random": lambda: BcEdge(lambda _: int(random.integers(len(CHOICES)))),
    }

    def found(factor: float) -> dict[str, tuple[float, float]]:
        """Share in time and mean latency by who decides."""
        each = {}
        for name, make in makers.items():
            beside = Pairwise({(n, n): factor for n in models})
            outcome = simulate_with(models, times, 2, {n: make() for n in models}, beside).models.values()
            in_time_frac = float(np.mean([m.in_time_frac for m in outcome]))
            each[name] = in_time_frac, float(np.concatenate([m.latency_s for m in outcome]).mean())
        return each

    much = found(2.5)
    assert much["net"][0] > much["table"][0]
    assert much["net"][1] < min(much["table"][1], much["random"][1])
    little = found(1.0)
    assert little["net"] == little["table"]


def test_misuse(tmp_path: object) -> None:
    from pathlib import Path

    with pytest.raises(InputError, match="no net"):
        policy_maker("bcedge", Path("absent.onnx"))
    with pytest.raises(InputError, match="unknown policy"):
        policy_maker("bcegde")


def test_the_table_is_taken_where_a_large_batch_would_hold_up_others() -> None:
    class Crowded(OneModel):
        def may_take_s(self, name: str, now_s: float) -> float:
            return 0.015

    policy = asked(lambda _: CHOICES.index(Choice(64, 64, False)))
    assert policy.decide(view(name="m", box=Crowded(), n_waiting=8)).n_rows < 8  # they take 24 ms
    assert policy.n_fallbacks == 1
