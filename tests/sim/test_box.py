"""From a profile to the load that a box holds."""

from dataclasses import replace

import numpy as np
import pytest

from jouleflow.errors import Infeasible, InputError
from jouleflow.policy.batch import Delay
from jouleflow.policy.queue import MAX_JOBS
from jouleflow.profile.interference import NoInterference, Pairwise
from jouleflow.profile.serving import Cell, ProfiledModel, ServingProfile, light_rate_hz
from jouleflow.sim.box import WITHIN_FRAC, ServedAs, energy_j, load_held, sim_models
from jouleflow.sim.pace import Pace
from jouleflow.sim.serving import simulate_serving
from jouleflow.trace.arrivals import make_arrivals


def made_up(slo_s: float = 0.1, front_s: float = 0.0) -> ServingProfile:
    """Two models: 5 and 20 ms a row, whatever the batch; a core takes 4 W."""
    models, cells = {}, []
    for name, row_s in (("quick", 0.005), ("slow", 0.020)):
        models[name] = ProfiledModel(
            sha256="0" * 64, threads=1, max_batch=4, n_instances=2, slo_s=slo_s, priority=5, memory_bytes=1, front_s=front_s,
        )  # fmt: skip
        for n in (1, 2, 4):
            cells.append(
                Cell(
                    models=(name,),
                    rows=(n,),
                    alone_s=(n * row_s,),
                    slowdown=(1.0,),
                    core_s=n * row_s,
                    energy_j=4 * n * row_s,
                )
            )
    return ServingProfile(
        machine="made up", n_cores=2, energy="modelled", energy_source="4 W", models=models, cells=tuple(cells)
    )


def test_the_load_that_is_held_is_held_and_a_fifth_more_is_not() -> None:
    profile = made_up()
    held = load_held(profile, NoInterference(), "table", {"quick": 4, "slow": 1})
    assert held.rate_hz["quick"] == pytest.approx(4 * held.rate_hz["slow"])
    assert min(held.in_time_frac.values()) >= 0.99
    limit_hz = 2 / (0.8 * 0.005 + 0.2 * 0.020)
    assert 0.5 * limit_hz < sum(held.rate_hz.values()) < limit_hz
    times = {n: make_arrivals("poisson", 1.2 * hz, 20.0, np.random.default_rng(0)) for n, hz in held.rate_hz.items()}
    more = simulate_serving(sim_models(profile), times, 2, "table", NoInterference())
    assert min(m.in_time_frac for m in more.models.values()) < 0.99
    assert held.power_w == pytest.approx(4 * 2 * held.busy_frac, rel=1e-6)


def test_neighbours_and_the_loop_take_from_it() -> None:
    free = sum(load_held(made_up(), NoInterference(), "table").rate_hz.values())
    beside = Pairwise({(a, b): 1.5 for a in ("quick", "slow") for b in ("quick", "slow")})
    assert sum(load_held(made_up(), beside, "table").rate_hz.values()) < 0.85 * free
    assert sum(load_held(made_up(front_s=0.005), NoInterference(), "table").rate_hz.values()) < 0.85 * free


def test_a_row_that_takes_longer_than_its_slo_is_no_load_that_is_held() -> None:
    """Whatever the policy, and however rare the model."""
    for policy, mix in (("table", None), ("delay", None), ("table", {"quick": 1e4, "slow": 1})):
        with pytest.raises(
            Infeasible, match=r"of slow are in time; a row of it takes 20 ms, and its SLO is 15 ms: raise"
        ):
            load_held(made_up(slo_s=0.015), NoInterference(), policy, mix)


def test_that_it_was_idle_counts_too() -> None:
    profile = made_up(slo_s=0.025)
    cold = {n: m.model_copy(update={"cold_spread_s": (0.005, 0.010, 0.090)}) for n, m in profile.models.items()}
    with pytest.raises(
        Infeasible, match="a row of it takes 20 ms and 1[0-9.]+ ms more on a box that was idle, and its SLO is 25 ms"
    ):
        load_held(profile.model_copy(update={"models": cold}), NoInterference(), "table")


def test_a_row_takes_as_much_longer_as_on_a_server_with_little_to_do() -> None:
    """About so much in the mean, at the load at which that was measured, more on a box that is idle, and less on one that is busy."""
    told, longer_s = made_up(), 0.007
    quick = told.models["quick"].model_copy(update={"cold_spread_s": (0.001, 0.003), "longer_s": longer_s})
    told = told.model_copy(update={"models": {"quick": quick}, "cells": told.cells})
    models = {n: replace(m, max_batch=1, slo_s=0.0) for n, m in sim_models(told, with_clients=False).items()}
    row_s = told.latencies("quick").of(1)
    random = np.random.default_rng(0)

    def mean_longer_s(rate_hz: float) -> float:
        times = {"quick": make_arrivals("poisson", rate_hz, 100.0, random)}
        outcome = simulate_serving(models, times, told.n_cores, "delay")
        return outcome.busy_s / len(outcome.models["quick"].batch_rows) - row_s

    assert mean_longer_s(light_rate_hz({"quick": row_s}, told.n_cores)) == pytest.approx(longer_s, rel=0.25)
    assert mean_longer_s(2.0) > 1.1 * longer_s
    assert mean_longer_s(0.9 * told.n_cores / row_s) < 0.4 * longer_s


def test_models_are_simulated_as_they_are_served() -> None:
    as_told = ServedAs(Delay(0.004, (2, 3)), max_queue=7)
    models = sim_models(made_up(), served_as={"quick": as_told})
    assert (models["quick"].delay, models["quick"].max_queue) == (as_told.delay, 7)
    assert (models["slow"].delay, models["slow"].max_queue) == (Delay(), MAX_JOBS)


def test_energy_is_of_the_busy_time() -> None:
    outcome = simulate_serving(sim_models(made_up()), {"quick": np.array([0.0])}, 2, "delay")
    assert energy_j(made_up(), outcome) == pytest.approx(4 * 0.005)


def test_misuse() -> None:
    with pytest.raises(InputError, match="mix names"):
        load_held(made_up(), NoInterference(), "table", {"quik": 1})
    with pytest.raises(InputError, match="no SLO"):
        load_held(made_up(slo_s=0.0), NoInterference(), "table")


def test_what_the_loop_does_within_a_batch_is_not_counted_twice() -> None:
    """What a row takes longer is told by the server, and is more than the model's by what its loop does meanwhile."""
    told, longer_s, loop_s = made_up(), 0.007, 0.005
    quick = told.models["quick"].model_copy(update={"cold_spread_s": (0.001, 0.003), "longer_s": longer_s})

    def idle_s(warm_s: float) -> float:
        changed = quick.model_copy(update={"warm_s": warm_s})
        one = told.model_copy(update={"models": {"quick": changed}})
        return sum(sim_models(one, with_clients=False)["quick"].idle_spread_s)

    assert idle_s(loop_s) / idle_s(0.0) == pytest.approx(1 - WITHIN_FRAC * loop_s / longer_s)


def test_requests_cost_what_was_measured_at_the_pace_at_which_it_was() -> None:
    """A machine that is half again as slow for half of the time was so too when its requests were measured."""
    told, front_s = made_up(front_s=0.001), 0.001
    cells = tuple(
        c.model_copy(update={"alone_s": tuple(s * times for s in c.alone_s)})
        for times in (1, 1.5)
        for c in told.cells * 4
    )
    told = told.model_copy(update={"cells": cells})
    pace = Pace(told.pace_spread())
    times = {"quick": make_arrivals("poisson", 20.0, 500.0, np.random.default_rng(0))}
    outcome = simulate_serving(sim_models(told), times, told.n_cores, "delay", pace=pace)
    assert np.mean(told.pace_spread()) == pytest.approx(1.25, abs=0.01)
    assert outcome.front_s / len(times["quick"]) == pytest.approx(front_s, rel=0.03)
