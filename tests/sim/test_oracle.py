"""The oracle against the policies it bounds, and its search against trying everything."""

import numpy as np
import pytest

from jouleflow.policy.bcedge import CHOICES, TABLE
from jouleflow.profile.interference import Pairwise
from jouleflow.profile.latencies import Latencies
from jouleflow.sim import oracle as module
from jouleflow.sim.oracle import STARTS, choices_worth_trying, constant, find_oracle, mean_utility, windowed_utility
from jouleflow.sim.serving import SimModel, simulate_serving, simulate_with
from jouleflow.trace.arrivals import make_arrivals

BATCHES = Latencies((1, 2, 4), (0.010, 0.012, 0.016))
LOAD_S = 4.0
MODELS = {"a": SimModel(BATCHES, 0.08, 4, 2), "b": SimModel(Latencies((1, 2), (0.03, 0.06)), 0.2, 2, 2)}


def times(load: float) -> dict[str, np.ndarray]:
    return {
        n: make_arrivals("poisson", load * hz, LOAD_S, np.random.default_rng(k))
        for k, (n, hz) in enumerate((("a", 100), ("b", 20)))
    }


@pytest.mark.parametrize("load", [0.5, 1.2])
def test_no_policy_of_fixed_choices_is_better(load: float) -> None:
    best = find_oracle(MODELS, times(load), 2, LOAD_S)
    assert best.exhaustive
    assert "lower bound" not in best.claim
    for policy in ("table", "delay", "aimd", "bcedge"):
        got = mean_utility(simulate_serving(MODELS, times(load), 2, policy), LOAD_S)
        assert best.value >= got - (0.15 if policy in ("aimd", "bcedge") else 1e-9)  # those two change their minds


def test_one_after_the_other_comes_close_to_trying_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    best = find_oracle(MODELS, times(1.0), 2, LOAD_S)
    monkeypatch.setattr(module, "MAX_TRIED", 1)
    turns = find_oracle(MODELS, times(1.0), 2, LOAD_S)
    assert not turns.exhaustive
    assert "lower bound" in turns.claim
    assert best.value * 0.97 <= turns.value <= best.value


def test_the_search_goes_on_from_several_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where batches disturb each other, changing one model at a time gets stuck below what changing both gains."""
    models = {"a": SimModel(BATCHES, 0.08, 4, 2), "b": SimModel(Latencies((1, 2, 4), (0.02, 0.024, 0.032)), 0.08, 4, 2)}
    monkeypatch.setattr(module, "MAX_TRIED", 1)
    arrivals_s = {
        n: make_arrivals("poisson", hz, LOAD_S, np.random.default_rng(10 + k))
        for k, (n, hz) in enumerate((("a", 120), ("b", 60)))
    }
    gains = []
    for pairs in ({(a, b): 2.5 for a in models for b in models}, {(a, a): 2.5 for a in models}):
        found = find_oracle(models, arrivals_s, 2, LOAD_S, Pairwise(pairs)).value
        with monkeypatch.context() as once:
            once.setattr(module, "STARTS", (TABLE,))
            gains.append(found - find_oracle(models, arrivals_s, 2, LOAD_S, Pairwise(pairs)).value)
    assert min(gains) >= 0
    assert max(gains) > 0.02


def test_a_search_is_no_worse_than_its_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever each policy's nearest choice is worth, the search has seen it."""
    monkeypatch.setattr(module, "MAX_TRIED", 1)
    monkeypatch.setattr(module, "MAX_PASSES", 0)
    found = find_oracle(MODELS, times(1.0), 2, LOAD_S)
    each = [
        mean_utility(simulate_with(MODELS, times(1.0), 2, {n: constant(k) for n in MODELS}), LOAD_S) for k in STARTS
    ]
    assert found.value == max(each) > min(each)


def test_choices_that_are_the_same_are_tried_once() -> None:
    tried = [CHOICES[k] for k in choices_worth_trying(SimModel(BATCHES, 0.1, 4, 1), 2)]
    assert len(tried) == 1 + 3 + 2  # the table; 1, 2 or 4 rows; and held for 2 or 4


def test_windows_count_what_came_in_them() -> None:
    arrival_s, latency_s = np.array([0.1, 0.2, 1.5]), np.array([0.01, 0.01, 0.5])
    assert windowed_utility(arrival_s, latency_s, 0.1, 2.0) == pytest.approx(np.log(2 / 0.1) / 2)


def test_windows_are_of_the_load_not_of_the_run() -> None:
    """Five seconds of a request every 0.1 s: a last answer that comes before or after their end changes no window."""
    arrival_s = np.arange(0.0, 5.0, 0.1)
    for latency_s in (0.02, 0.2):  # the run ends at 4.92 or 5.1 s
        late = np.full(len(arrival_s), latency_s)
        assert windowed_utility(arrival_s, late, 0.4, 5.0) == pytest.approx(np.log(10 * 0.4 / latency_s))
        model = SimModel(Latencies((1,), (latency_s,)), 0.4, 1, 8)
        outcome = simulate_serving({"a": model}, {"a": arrival_s}, 8, "delay")
        assert (outcome.duration_s < 5.0) == (latency_s == 0.02)
        assert mean_utility(outcome, 5.0) == pytest.approx(np.log(10 * 0.4 / latency_s))


def test_what_is_left_after_the_last_whole_second_is_no_denser() -> None:
    arrival_s = np.arange(0.0, 2.5, 0.1)
    assert windowed_utility(arrival_s, np.full(25, 0.1), 0.2, 2.5) == pytest.approx(np.log(20))
    assert windowed_utility(arrival_s[:5], np.full(5, 0.1), 0.2, 0.5) == pytest.approx(np.log(20))
