"""The learned policy: what it sees is bounded, what it chooses is done, and the table goes first where it would be late."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.errors import InputError
from jouleflow.policy.batch import Finished, Totals
from jouleflow.policy.bcedge import CHOICES, INSTANCES, N_SEEN, TABLE, TRIED_BATCHES, BcEdge, Choice, Slot, Watch
from jouleflow.policy.policies import make_policy, policy_maker
from jouleflow.policy.utility import shortfall_between, utility
from jouleflow.profile.latencies import Latencies
from jouleflow.sim.serving import SimModel, simulate_with
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


def seen_by(choice: Choice, **changes: object) -> tuple[BcEdge, object]:
    policy = BcEdge(lambda _: CHOICES.index(choice))
    return policy, policy.decide(view(name="m", box=OneModel(), **changes))


def test_a_net_is_not_asked_while_nothing_depends_on_it() -> None:
    asked: list[object] = []
    policy, box = BcEdge(lambda seen: asked.append(seen) or TABLE), OneModel()
    assert policy.decide(view(name="m", box=box, n_waiting=1)).n_rows == 1  # alone on an idle box
    assert not asked
    box.n_busy = 1
    policy.decide(view(name="m", box=box, n_waiting=1))
    assert len(asked) == 1
    policy.choice = Choice(8, 64, True)
    box.n_busy = 0
    policy.decide(view(name="m", box=box, n_waiting=1, now_s=0.6))
    assert len(asked) == 2  # it would wait


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


def test_the_table_is_taken_where_a_core_would_be_idle_while_much_waits() -> None:
    def decided(together: float = 1.0, others: int = 0, **changes: object) -> int:
        """Rows that start beside a batch that runs. together: how many times longer batches took when the table had them run at once."""
        box, policy = OneModel(), BcEdge(lambda _: CHOICES.index(Choice(8, 1, False)))
        box.n_busy = 1
        if together:
            for batch in (Finished(1, 0.010), *(Finished(1, 0.010 * together, alone=False) for _ in range(200))):
                policy._first = view().latencies
                policy.finished(batch)
        if others:
            box.totals = lambda: {"m": box.now, "other": replace(NOTHING, n_waiting=others)}  # type: ignore[method-assign]
        return policy.decide(view(name="m", box=box, n_running=1, **changes)).n_rows

    assert decided(n_waiting=200) == 8  # 600 ms of work for one core, and a quarter of an SLO is 250
    assert decided(n_waiting=40) == 0  # 120 ms
    assert decided(n_waiting=200, together=2.0) == 0  # two at once would get no more done than one after the other
    assert decided(n_waiting=200, together=0.0) == 8  # nobody knows yet
    assert decided(n_waiting=200, others=1) == 0  # the core is wanted


def test_how_batches_at_once_disturb_each_other_is_tried() -> None:
    box, policy = OneModel(), BcEdge(lambda _: CHOICES.index(Choice(8, 1, False)))
    box.n_busy = 1
    policy.decide(view(name="m", box=box, n_running=1, n_waiting=200))
    policy.finished(Finished(1, 0.010))
    for _ in range(TRIED_BATCHES):
        policy.finished(Finished(1, 0.025, alone=False))
    assert policy.disturbed == [1.0, 1.0, pytest.approx(1.0 + 1.5 * (1 - 0.95**TRIED_BATCHES))]
    later = {"now_s": 5.0, "deadline_s": 6.0}
    assert policy.decide(view(name="m", box=box, n_running=1, n_waiting=200, **later)).n_rows == 0
    policy.finished(Finished(1, 0.025, alone=False))  # it is the choice again that what batches take tells of
    assert policy.disturbed[0] == pytest.approx(1.0 + 1.5 * 0.05)


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


def test_a_slot_that_the_table_decided_is_told_as_the_tables() -> None:
    told: list[Slot] = []
    own = CHOICES.index(Choice(4, 64, False))
    box, policy = OneModel(), BcEdge(lambda _: own, record=lambda _, slot: told.append(slot))
    decided = []
    for k in range(60):  # one in ten is late, so that table and net are tried in turns
        box.now = replace(
            NOTHING, n_arrived=10 * k, n_ended=10 * k, n_completed=10 * k, n_in_time=9 * k, latency_s=0.1 * k
        )
        policy.decide(view(name="m", box=box, now_s=k * 0.6, deadline_s=k * 0.6 + 1))
        decided.append(TABLE if policy.second_opinion.table_decides else own)
    assert [slot.choice for slot in told] == decided[:-1]
    assert set(decided) == {TABLE, own}


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


def test_the_net_that_comes_with_it_beats_random_choices() -> None:
    latencies = Latencies((1, 2, 4, 8, 16), (0.010, 0.012, 0.016, 0.024, 0.040))
    models = {n: SimModel(latencies, 0.1, 16, 2) for n in "ab"}
    random = np.random.default_rng(0)
    times = {n: np.cumsum(random.exponential(1 / 80, 2000)) for n in models}
    makers = {"net": policy_maker("bcedge"), "random": lambda: BcEdge(lambda _: int(random.integers(len(CHOICES))))}
    mean_s = {}
    for name, make in makers.items():
        outcome = simulate_with(models, times, 2, {n: make() for n in models})
        mean_s[name] = np.concatenate([m.latency_s for m in outcome.models.values()]).mean()
        assert sum(m.counts["completed"] for m in outcome.models.values()) > 3800
    assert mean_s["net"] < mean_s["random"]


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

    policy = BcEdge(lambda _: CHOICES.index(Choice(64, 64, False)))
    assert policy.decide(view(name="m", box=Crowded(), n_waiting=8)).n_rows < 8  # they take 24 ms
    assert policy.n_fallbacks == 1
