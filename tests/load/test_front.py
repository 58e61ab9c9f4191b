"""What requests cost among others, from what they cost alone."""

import pytest

from jouleflow.load.front import share_of


@pytest.mark.parametrize(
    ("together_s", "alone_s", "share"),
    [(2e-3, 4e-3, 0.5), (5e-3, 4e-3, 1.0), (0.0, 4e-3, 1.0), (1e-3, 0.0, 1.0), (0.0, 0.0, 1.0)],
)
def test_models_too_slow_to_be_measured_together_cost_what_they_do_alone(
    together_s: float, alone_s: float, share: float
) -> None:
    assert share_of(together_s, alone_s) == share
