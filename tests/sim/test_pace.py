"""The pace of a machine that others use too."""

import numpy as np
import pytest

from jouleflow.profile.latencies import Latencies
from jouleflow.profile.serving import Cell, ServingProfile
from jouleflow.sim.pace import HOLD_S, Pace
from jouleflow.sim.serving import Front, SimModel, simulate_serving


def test_a_course_takes_every_pace_for_a_while() -> None:
    at = Pace((1.0, 2.0), seed=3).course()
    times = np.arange(0, 400, 0.01)
    paces = np.array([at(t) for t in times])
    assert set(paces) == {1.0, 2.0}
    assert paces.mean() == pytest.approx(1.5, abs=0.1)
    n_changes = np.count_nonzero(np.diff(paces))
    assert n_changes == pytest.approx(400 / HOLD_S / 2, rel=0.15)  # every second draw is the same again


def test_a_course_is_the_same_for_whoever_asks() -> None:
    often, seldom = Pace((1.0, 1.2, 1.5), 7).course(), Pace((1.0, 1.2, 1.5), 7).course()
    paces = {t: often(t) for t in np.arange(0, 50, 0.25)}
    assert all(seldom(t) == paces[t] for t in np.arange(0, 50, 5.0))
    other = Pace((1.0, 1.2, 1.5), 8).course()
    assert any(other(t) != pace for t, pace in paces.items())


def test_batches_take_as_much_longer() -> None:
    model, times = SimModel(Latencies((1,), (0.01,))), np.arange(0, 20, 0.1)
    took_s = simulate_serving({"m": model}, {"m": times}, 1, "delay", pace=Pace((1.0, 1.5))).models["m"].latency_s
    assert np.unique(took_s.round(6)).tolist() == [0.01, 0.015]


def test_so_does_what_a_request_costs_beside_them() -> None:
    model = SimModel(Latencies((1,), (0.01,)), front=Front(0.001, 0.002, 0.004))
    outcome = simulate_serving({"m": model}, {"m": np.array([0.0])}, 3, "delay", pace=Pace((1.5,)))
    assert outcome.models["m"].latency_s == pytest.approx([1.5 * 0.017])
    assert outcome.front_s == pytest.approx(1.5 * 0.003)


def test_a_profile_knows_the_pace_of_its_machine() -> None:
    def cell(model: str, seconds: float) -> Cell:
        return Cell(models=(model,), rows=(1,), alone_s=(seconds,), slowdown=(1.0,), core_s=0.0, energy_j=0.0)

    often = [cell("a", s) for s in (0.010, 0.010, 0.009, 0.011, 0.010, 0.020, 0.010, 0.010)]
    seldom = [cell("b", s) for s in (0.1, 0.5)]
    profile = ServingProfile(
        machine="made up", n_cores=1, energy="modelled", energy_source="5 W", models={}, cells=(*often, *seldom)
    )
    assert 1.5 < max(profile.pace_spread()) <= 2.0
    assert np.median(profile.pace_spread()) == min(profile.pace_spread()) == 1.0
    assert not profile.model_copy(update={"cells": tuple(seldom)}).pace_spread()
