"""The certificate: no response on any phase exceeds it, simulated or emulated; its bounds against small hand-made worlds."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import Infeasible
from jouleflow.firmware.emulate import execute
from jouleflow.flow import Prepared, build, prepare
from jouleflow.sim.response import _longest_wait, worst_demand, worst_response
from jouleflow.sim.simulate import simulate
from jouleflow.trace.trace import Scenario, Trace

DEMO = Path(str(files("jouleflow") / "demo"))
INPUTS = np.load(DEMO / "digits_test.npz")["inputs"]


@pytest.fixture(scope="module", params=["tile", "layer", "loop"])
def demo(request: pytest.FixtureRequest) -> Prepared:
    return prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", planner=request.param, capacitance_f=100e-6)


def phases(p: Prepared, n: int) -> list[float]:
    response = worst_response(p.lowered, p.plan, p.profile, p.device, p.scenario.harvest)
    random = np.random.default_rng(1).uniform(0, p.scenario.harvest.duration_s, n)
    return [response.phase_s, *random]


def test_no_simulated_response_is_later(demo: Prepared) -> None:
    bound_s = worst_response(demo.lowered, demo.plan, demo.profile, demo.device, demo.scenario.harvest).worst_s
    seen = []
    for phase_s in phases(demo, 150):
        scenario = Scenario(demo.scenario.harvest, 1e6, phase_s)
        seen.append(simulate(demo.lowered, demo.plan, demo.profile, demo.device, scenario, 1).latency_s[0])
    assert max(seen) <= bound_s
    assert bound_s <= 3 * max(seen)  # and it says something


def test_no_emulated_response_is_later(demo: Prepared) -> None:
    bound_s = worst_response(demo.lowered, demo.plan, demo.profile, demo.device, demo.scenario.harvest).worst_s
    firmware = build(demo)
    for phase_s in phases(demo, 8):
        run = execute(firmware, INPUTS[:1], Scenario(demo.scenario.harvest, 1e6, phase_s), demo.profile).run
        assert run.latency_s[0] <= bound_s


def test_demand_counts_at_least_one_quiet_history(demo: Prepared) -> None:
    demand = worst_demand(demo.lowered, demo.plan, demo.profile, demo.device)
    assert demand.energy_j >= demo.profile.energy_j
    assert demand.active_s >= demo.profile.latency_s
    assert demand.power_cycles >= demo.profile.energy_j / demo.device.store.usable_j


def test_longest_wait_by_hand() -> None:
    # 1 W for 1 s, then nothing for 9 s: the worst start is the end of the pulse
    trace = Trace("pulse", "W", np.array([0.0, 1.0]), np.array([1.0, 0.0]), 10.0)
    wait_s, start_s = _longest_wait(trace, trace.value, 0.5)
    assert wait_s == pytest.approx(9.5, abs=0.02)
    assert 0.49 <= start_s <= 1.01  # from 0.5 s on, all starts wait alike
    wait_s, _ = _longest_wait(trace, trace.value, 1.5)
    assert wait_s == pytest.approx(19.5, abs=0.02)


def test_leakage_that_eats_the_harvest_is_refused(demo: Prepared) -> None:
    leaky = replace(demo.device, store=replace(demo.device.store, leak_w=1.0))
    with pytest.raises(Infeasible, match="less than the leakage"):
        worst_response(demo.lowered, demo.plan, demo.profile, leaky, demo.scenario.harvest)


def test_plans_that_read_the_voltage_have_none() -> None:
    p = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", planner="adaptive", capacitance_f=100e-6)
    with pytest.raises(Infeasible, match="depend on the voltage"):
        worst_response(p.lowered, p.plan, p.profile, p.device, p.scenario.harvest)
