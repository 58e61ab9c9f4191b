"""Spreads: what measuring keeps of many times, and what is drawn from that."""

import numpy as np
import pytest

from jouleflow.profile.spread import N_VALUES, Draws, spread_of


def test_a_spread_has_the_quantiles_of_what_was_seen() -> None:
    seen = np.random.default_rng(0).exponential(1.0, 100_000)
    spread = spread_of(seen)
    assert len(spread) == N_VALUES
    assert list(spread) == sorted(spread)
    for level in (0.105, 0.505, 0.905):  # in the middle of a part: 1 - exp(-x) = level
        assert spread[int(level * N_VALUES)] == pytest.approx(-np.log(1 - level), rel=0.03)
    assert spread_of([3.0, 1.0]) == (1.5, 2.5)  # the middles of two halves, on a line from 1 to 3
    assert spread_of([]) == ()


def test_draws_are_of_the_spread_and_the_same_for_the_same_seed() -> None:
    spread = tuple(float(k) for k in range(N_VALUES))
    first, again = (Draws(np.random.default_rng(3)) for _ in range(2))
    drawn = [first.of(spread) for _ in range(20_000)]
    assert drawn == [again.of(spread) for _ in range(20_000)]
    assert set(drawn) == set(spread)
    assert np.mean(drawn) == pytest.approx(np.mean(spread), rel=0.02)
    assert first.of(()) == 0.0
