"""Ways to preserve progress: all give right answers on one engine, simulation and emulation agree, ours is safe whatever
the voltage sensor says."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import Infeasible, InputError
from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.crash import CrashBench, cut_everywhere, cut_nested
from jouleflow.firmware.emulate import execute
from jouleflow.flow import Prepared, build, prepare
from jouleflow.plan.planner import RUNNABLE
from jouleflow.plan.preserve import NEVER_J
from jouleflow.record.run import Run
from jouleflow.sim.simulate import simulate

DEMO = Path(str(files("jouleflow") / "demo"))
INPUTS = np.load(DEMO / "digits_test.npz")["inputs"]


def prepared(planner: str, capacitance_f: float = 120e-6) -> Prepared:
    return prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", planner=planner, capacitance_f=capacitance_f)


def emulated(p: Prepared, n: int = 6) -> Run:
    return execute(build(p), INPUTS[:n], p.scenario, p.profile).run


@pytest.mark.parametrize("planner", RUNNABLE)
def test_simulated_as_emulated(planner: str) -> None:
    p = prepared(planner)
    run = emulated(p)
    assert run.complete
    assert run.outputs_match_reference
    assert run.n_power_failures + run.n_rests > 3
    model = simulate(p.lowered, p.plan, p.profile, p.device, p.scenario, 6)
    # one rest more or less near a threshold shifts what follows
    assert np.mean(model.latency_s) == pytest.approx(np.mean(run.latency_s), rel=0.1)
    assert model.energy_j.spent_j == pytest.approx(run.energy_j.spent_j, rel=0.05)


def test_adaptive_loses_no_work_and_rests_in_time() -> None:
    run = emulated(prepared("adaptive"))
    assert run.n_power_failures == 0
    assert run.n_rests > 3
    assert run.energy_j.reexecution_j == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_adaptive_beats_every_other_way() -> None:
    latency_s = {name: float(np.mean(emulated(prepared(name)).latency_s)) for name in RUNNABLE}
    assert min(latency_s, key=lambda name: latency_s[name]) == "adaptive", latency_s


def test_stateful_is_modelled_and_never_built() -> None:
    p = prepared("stateful")
    run = simulate(p.lowered, p.plan, p.profile, p.device, p.scenario, 6)
    assert run.complete
    loop = prepared("loop")
    records = simulate(loop.lowered, loop.plan, loop.profile, loop.device, loop.scenario, 6)
    assert run.energy_j.commit_j / run.n_commits < records.energy_j.commit_j / records.n_commits  # it writes none
    with pytest.raises(InputError, match="only modelled"):
        build(p)


def test_adaptive_needs_a_sensor() -> None:
    p = prepared("tile")
    from dataclasses import replace

    from jouleflow.plan.planner import draft_plan, finish_plan

    blind = replace(p.device, sense_s=0.0)
    with pytest.raises(Infeasible, match="cannot read its store's voltage"):
        finish_plan(p.lowered, draft_plan(p.lowered, blind, None, "adaptive"), p.profile, blind, p.scenario.harvest)


@pytest.mark.slow
@pytest.mark.parametrize("planner", ["adaptive", "jit"])
def test_a_sensor_that_lies_does_no_harm(planner: str) -> None:
    p = prepared(planner)
    bench = CrashBench(build_firmware(p.lowered, p.plan, p.device), INPUTS[0])
    needs = [j for j in p.plan.preservation.need_j if j < NEVER_J]
    bench.machine.m.sensed_nj_limit = int(2e9 * max(needs))
    bench.golden = bench.record(bench.blank)  # now with commits wherever the sensor pleases
    bench.limit = 3 * bench.golden.instructions + 1_000_000
    assert bench.golden.n_commits() > 1
    for result in (cut_everywhere(bench, 300), cut_nested(bench, 60)):
        # which commits are made is left to chance, so their number says nothing about forgotten ones
        assert (result.n_wrong, result.n_stuck, result.n_faults) == (0, 0, 0), result
    assert bench.hazards == 0
