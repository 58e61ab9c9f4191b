"""What requests cost among others, from what they cost alone."""

import numpy as np
import pytest

from jouleflow.load.front import share_of
from jouleflow.profile.serving import lost_frac, mean_lost_frac


@pytest.mark.parametrize("rate_hz", [1.0, 300.0, 1e4])
def test_what_is_lost_in_the_mean_at_random_moments(rate_hz: float) -> None:
    rests_s = np.random.default_rng(0).exponential(1 / rate_hz, 100_000)
    assert mean_lost_frac(rate_hz) == pytest.approx(np.mean([lost_frac(s) for s in rests_s]), rel=0.02)


@pytest.mark.parametrize(
    ("together_s", "alone_s", "share"),
    [(2e-3, 4e-3, 0.5), (5e-3, 4e-3, 1.0), (0.0, 4e-3, 1.0), (1e-3, 0.0, 1.0), (0.0, 0.0, 1.0)],
)
def test_models_too_slow_to_be_measured_together_cost_what_they_do_alone(
    together_s: float, alone_s: float, share: float
) -> None:
    assert share_of(together_s, alone_s) == share
