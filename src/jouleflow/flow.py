"""The one flow, in one place: model + board + trace -> profile -> plan -> firmware. The command line is a thin face on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jouleflow.device.device import Device
from jouleflow.device.load import load_system
from jouleflow.errors import Infeasible, InputError
from jouleflow.firmware.build import Firmware, build_firmware
from jouleflow.firmware.profiling import profile_by_emulation
from jouleflow.graph.load import load_model
from jouleflow.plan.lowering import Lowered, lower
from jouleflow.plan.memory import STACK_BYTES
from jouleflow.plan.plan import Plan
from jouleflow.plan.planner import draft_plan, finish_plan, measured_cycles, misjudged
from jouleflow.profile.profile import Profile
from jouleflow.record.run import Estimate
from jouleflow.sim.simulate import predict
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that is known before a run."""

    lowered: Lowered
    device: Device
    scenario: Scenario
    profile: Profile
    plan: Plan


def prepare(
    model: str | Path,
    system: str,
    harvest: str,
    *,
    planner: str = "tile",
    sram_bytes: int | None = None,
    capacitance_f: float | None = None,
    duration_s: float = 7 * 86400.0,
    seed: int = 0,
    note: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Loads, profiles by emulation, and plans. `note` hears what is being done.

    Raises the errors of each stage: ModelError, DeviceError, TraceError, Infeasible.
    """
    if seed < 0:
        raise InputError(f"--seed {seed} must be >= 0")
    note("loading the model")
    lowered = lower(load_model(model))
    device = load_system(system).device
    if capacitance_f is not None:
        device = device.with_capacitance(capacitance_f)
    scenario = Scenario(load_trace(harvest), duration_s, 0.0, seed)
    try:
        profile, plan = _plan(lowered, device, scenario, planner, sram_bytes, note)
    except Infeasible as refused:
        profile, plan = _plan_with_less_in_sram(lowered, device, scenario, planner, sram_bytes, note, refused)
    return Prepared(lowered, device, scenario, profile, plan)


def predict_run(prepared: Prepared, n_inferences: int) -> Estimate:
    """What simulation says of so many inferences on the scenario's own trace."""
    p = prepared
    return predict(p.lowered, p.plan, p.profile, p.device, p.scenario, n_inferences)


def build(prepared: Prepared) -> Firmware:
    """The firmware of the plan, for the emulated board."""
    return build_firmware(prepared.lowered, prepared.plan, prepared.device)


def _plan(
    lowered: Lowered,
    device: Device,
    scenario: Scenario,
    planner: str,
    sram_bytes: int | None,
    note: Callable[[str], None],
) -> tuple[Profile, Plan]:
    note("cutting it into tiles")
    draft = draft_plan(lowered, device, sram_bytes, planner)
    note("profiling every tile on the emulated board")
    profile = profile_by_emulation(lowered, draft.plan, device)
    if misjudged(profile, device):
        note("cutting it finer, with what was measured")
        draft = draft_plan(lowered, device, sram_bytes, planner, measured_cycles(lowered, draft, profile))
        profile = profile_by_emulation(lowered, draft.plan, device)
    note("placing commits")
    return profile, finish_plan(lowered, draft, profile, device, scenario.harvest)


# Shares of the SRAM to try when what is kept there is more than one charge can bring back after a failure.
LESS_SRAM_FRACS = (0.5, 0.25, 0.125, 0.0625)


def _plan_with_less_in_sram(
    lowered: Lowered,
    device: Device,
    scenario: Scenario,
    planner: str,
    sram_bytes: int | None,
    note: Callable[[str], None],
    refused: Infeasible,
) -> tuple[Profile, Plan]:
    """The first plan that fits the store when less is kept in SRAM and more is staged.

    Raises `refused` when none does.
    """
    full = min(sram_bytes or device.memory("sram").size_bytes, STACK_BYTES + sum(lowered.buffer_bytes))
    for fraction in LESS_SRAM_FRACS:
        note(f"that fits no charge; trying with {fraction:.0%} of the SRAM")
        try:
            return _plan(lowered, device, scenario, planner, int(full * fraction), note)
        except Infeasible:
            continue
    raise refused
