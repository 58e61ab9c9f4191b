"""The oracle against the policies it bounds, and its search against trying everything."""

import numpy as np
import pytest

from jouleflow.policy.bcedge import CHOICES
from jouleflow.profile.latencies import Latencies
from jouleflow.sim import oracle as module
from jouleflow.sim.oracle import choices_worth_trying, find_oracle, mean_utility, windowed_utility
from jouleflow.sim.serving import SimModel, simulate_serving
from jouleflow.trace.arrivals import make_arrivals

BATCHES = Latencies((1, 2, 4), (0.010, 0.012, 0.016))
MODELS = {"a": SimModel(BATCHES, 0.08, 4, 2), "b": SimModel(Latencies((1, 2), (0.03, 0.06)), 0.2, 2, 2)}


def times(load: float) -> dict[str, np.ndarray]:
    return {
        n: make_arrivals("poisson", load * hz, 4.0, np.random.default_rng(k))
        for k, (n, hz) in enumerate((("a", 100), ("b", 20)))
    }


@pytest.mark.parametrize("load", [0.5, 1.2])
def test_no_policy_of_fixed_choices_is_better(load: float) -> None:
    best = find_oracle(MODELS, times(load), 2)
    assert best.exhaustive
    for policy in ("table", "delay", "aimd", "bcedge"):
        got = mean_utility(simulate_serving(MODELS, times(load), 2, policy))
        assert best.value >= got - (0.15 if policy in ("aimd", "bcedge") else 1e-9)  # those two change their minds


def test_one_after_the_other_comes_close_to_trying_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    best = find_oracle(MODELS, times(1.0), 2)
    monkeypatch.setattr(module, "MAX_TRIED", 1)
    turns = find_oracle(MODELS, times(1.0), 2)
    assert not turns.exhaustive
    assert best.value * 0.97 <= turns.value <= best.value


def test_choices_that_are_the_same_are_tried_once() -> None:
    tried = [CHOICES[k] for k in choices_worth_trying(SimModel(BATCHES, 0.1, 4, 1), 2)]
    assert len(tried) == 1 + 3 + 2  # the table; 1, 2 or 4 rows; and held for 2 or 4


def test_windows_count_what_came_in_them() -> None:
    arrival_s, latency_s = np.array([0.1, 0.2, 1.5]), np.array([0.01, 0.01, 0.5])
    assert windowed_utility(arrival_s, latency_s, 0.1, 2.0) == pytest.approx(np.log(2 / 0.1) / 2)
