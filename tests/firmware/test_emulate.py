"""Runs on harvested power: right answers, conserved energy, exact repetition, and the simulator beside the emulator."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import Infeasible, InputError
from jouleflow.firmware.emulate import execute
from jouleflow.flow import build, predict_run, prepare
from jouleflow.sim.simulate import simulate

DEMO = Path(str(files("jouleflow") / "demo"))
INPUTS = np.load(DEMO / "digits_test.npz")


def run(planner: str = "tile", capacitance_f: float = 100e-6, n: int = 8, **options: object):
    p = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", planner=planner, capacitance_f=capacitance_f, **options)
    return p, execute(build(p), INPUTS["inputs"][:n], p.scenario, p.profile)


def test_answers_are_right_through_power_failures() -> None:
    p, done = run(n=12)
    assert done.run.complete
    assert done.run.outputs_match_reference
    assert done.run.n_power_failures > 10
    assert (done.answers.argmax(1) == INPUTS["labels"][:12]).mean() >= 0.9
    assert done.run.energy_j.imbalance_frac < 1e-6
    assert done.run.time_s.total_s == pytest.approx(done.run.latency_s and sum(done.run.latency_s), rel=1e-3)
    assert done.run.peak_sram_bytes <= done.run.sram_budget_bytes
    assert p.plan.certificate.holds


def test_same_seed_same_run() -> None:
    first, second = run(n=4, seed=5)[1].run, run(n=4, seed=5)[1].run
    assert first.latency_s == second.latency_s
    assert first.energy_j == second.energy_j
    np.testing.assert_array_equal(first.events.time_s, second.events.time_s)


@pytest.mark.parametrize("capacitance_f", [80e-6, 150e-6])
def test_simulator_agrees_with_the_emulator(capacitance_f: float) -> None:
    """One commit more or less at the very end of a charge shifts all that follows, so single runs can differ by chance;
    these two stores have no such coincidence."""
    p, done = run(n=12, capacitance_f=capacitance_f)
    modelled = simulate(p.lowered, p.plan, p.profile, p.device, p.scenario, 12)
    assert modelled.n_inferences == 12
    assert modelled.n_power_failures == done.run.n_power_failures
    assert modelled.energy_j.imbalance_frac < 1e-6
    assert np.mean(modelled.latency_s) == pytest.approx(np.mean(done.run.latency_s), rel=0.001)
    assert modelled.energy_j.spent_j == pytest.approx(done.run.energy_j.spent_j, rel=0.001)
    assert predict_run(p, 12).n_power_failures == pytest.approx(done.run.n_power_failures / 12, abs=0.5)


def test_smallest_sram_budget_runs() -> None:
    with pytest.raises(Infeasible, match="--sram") as caught:
        run(sram_bytes=1200)
    least = int(caught.value.nearest.removeprefix("--sram ").removesuffix("B"))
    _, done = run(n=2, sram_bytes=least)
    assert done.run.outputs_match_reference
    assert done.run.peak_sram_bytes <= least


def test_restart_cannot_progress_on_a_small_store(tmp_path: Path) -> None:
    (tmp_path / "weak.csv").write_text("time_s,power_w\n0,4e-4\n1,4e-4\n")
    weak = str(tmp_path / "weak.csv")
    p = prepare(DEMO / "digits_int8.onnx", "riotee", weak, planner="restart", capacitance_f=100e-6)
    with pytest.raises(Infeasible, match="without a commit"):
        execute(build(p), INPUTS["inputs"][:1], p.scenario, p.profile)
    ours = prepare(DEMO / "digits_int8.onnx", "riotee", weak, capacitance_f=100e-6)
    assert execute(build(ours), INPUTS["inputs"][:1], ours.scenario, ours.profile).run.complete


def test_capacitor_too_small_for_any_tile() -> None:
    with pytest.raises(Infeasible, match="capacitor"):
        run(capacitance_f=1e-6)


def test_unknown_planner() -> None:
    with pytest.raises(InputError, match="did you mean tile"):
        run("tiel")


def test_interruption_leaves_a_readable_partial_result() -> None:
    p = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=100e-6)

    def stop(n: int, _failures: int, _world_s: float) -> None:
        if n >= 2:
            raise KeyboardInterrupt

    done = execute(build(p), INPUTS["inputs"][:8], p.scenario, p.profile, progress=stop)
    assert not done.run.complete
    assert 2 <= done.run.n_inferences < 8
    assert done.run.outputs_match_reference


def test_scenario_that_ends_first() -> None:
    p = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", duration_s=3.0)
    done = execute(build(p), INPUTS["inputs"][:50], p.scenario, p.profile)
    assert not done.run.complete
    assert done.run.time_s.total_s == pytest.approx(3.0, rel=0.2)


def test_continuous_power_costs_at_most_a_little_more_with_commits() -> None:
    p = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=470e-6)
    bare = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", planner="restart")
    with_commits = execute(build(p), INPUTS["inputs"][:3], None, p.profile).run
    without = execute(build(bare), INPUTS["inputs"][:3], None, bare.profile).run
    assert with_commits.n_power_failures == 0
    assert with_commits.instructions <= 1.03 * without.instructions
    assert replace(with_commits, seed=0).outputs_match_reference
