"""The one flow, in one place: model + board + trace -> profile -> plan -> firmware. The command line is a thin face on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from jouleflow.plan.planner import Draft, check_planner, draft_plan, finish_plan, measured_cycles, misjudged
from jouleflow.profile.profile import Profile
from jouleflow.record.run import Estimate
from jouleflow.sim.simulate import predict
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario, Trace


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
    profile, plan = Sketches(lowered, device, sram_bytes, note).plan(scenario.harvest, check_planner(planner))
    return Prepared(lowered, device, scenario, profile, plan)


def predict_run(prepared: Prepared, n_inferences: int) -> Estimate:
    """What simulation says of so many inferences on the scenario's own trace."""
    p = prepared
    return predict(p.lowered, p.plan, p.profile, p.device, p.scenario, n_inferences)


def build(prepared: Prepared) -> Firmware:
    """The firmware of the plan, for the emulated board."""
    return build_firmware(prepared.lowered, prepared.plan, prepared.device)


@dataclass(frozen=True, slots=True)
class Sketch:
    """A network cut into tiles and profiled on a board: what does not depend on the harvest."""

    lowered: Lowered
    device: Device
    draft: Draft
    profile: Profile

    def plan(self, harvest: Trace, planner: str = "tile") -> Plan:
        """The plan for a harvest.

        Raises Infeasible when it does not fit the store.
        """
        named = replace(self.draft, plan=replace(self.draft.plan, planner=check_planner(planner)))
        return finish_plan(self.lowered, named, self.profile, self.device, harvest)


def sketch(
    lowered: Lowered, device: Device, sram_bytes: int | None = None, note: Callable[[str], None] = lambda _: None
) -> Sketch:
    """Tiles and their costs within an SRAM budget.

    Raises Infeasible when nothing fits it.
    """
    note("cutting it into tiles")
    draft = draft_plan(lowered, device, sram_bytes)
    note("profiling every tile on the emulated board")
    profile = profile_by_emulation(lowered, draft.plan, device)
    if misjudged(profile, device):
        note("cutting it finer, with what was measured")
        draft = draft_plan(lowered, device, sram_bytes, measured=measured_cycles(lowered, draft, profile))
        profile = profile_by_emulation(lowered, draft.plan, device)
    return Sketch(lowered, device, draft, profile)


# Shares of the SRAM to try when what is kept there is more than one charge can bring back after a failure.
LESS_SRAM_FRACS = (0.5, 0.25, 0.125, 0.0625)


class Sketches:
    """A network on a board, sketched with all the SRAM it may have and, where a store is too small for that, with less.
    Each sketch is made when it is first needed, once."""

    def __init__(
        self,
        lowered: Lowered,
        device: Device,
        sram_bytes: int | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        full = min(sram_bytes or device.memory("sram").size_bytes, STACK_BYTES + sum(lowered.buffer_bytes))
        self.budgets = (sram_bytes, *(int(full * fraction) for fraction in LESS_SRAM_FRACS))
        self.lowered, self.device, self.note = lowered, device, note
        self.made: dict[int, Sketch | Infeasible] = {}

    def at(self, k: int) -> Sketch:
        """The k-th; 0 has the most SRAM.

        Raises Infeasible when nothing fits its budget.
        """
        if k not in self.made:
            if k:
                self.note("that fits no charge; trying with less kept in SRAM")
            try:
                self.made[k] = sketch(self.lowered, self.device, self.budgets[k], self.note)
            except Infeasible as error:
                self.made[k] = error
        made = self.made[k]
        if isinstance(made, Infeasible):
            raise made
        return made

    def plan(self, harvest: Trace, planner: str = "tile") -> tuple[Profile, Plan]:
        """The plan with the most SRAM that fits the store, and the profile it stands on.

        Raises Infeasible, as with the most SRAM, when none does.
        """
        first = self.at(0)
        self.note("placing commits")
        try:
            return first.profile, first.plan(harvest, planner)
        except Infeasible as refused:
            for k in range(1, len(self.budgets)):
                try:
                    drawn = self.at(k)
                    return drawn.profile, drawn.plan(harvest, planner)
                except Infeasible:
                    continue
            raise refused from None
