"""Running a firmware on the emulated board through its world, and the `Run` that tells what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import Infeasible
from jouleflow.firmware.build import Firmware
from jouleflow.firmware.machine import (
    PHASES,
    STOP_DEAD,
    STOP_DONE,
    STOP_EVENTS_FULL,
    STOP_REST,
    Machine,
)
from jouleflow.firmware.machine_struct import EVENT
from jouleflow.graph.reference import run_reference
from jouleflow.plan.lowering import Lowered, tiles_of
from jouleflow.plan.memory import STACK_BYTES
from jouleflow.plan.plan import Plan
from jouleflow.profile.profile import Profile
from jouleflow.record.run import (
    EVENT_KINDS,
    EnergyLedger,
    Estimate,
    Events,
    LayerRow,
    Run,
    TimeLedger,
)
from jouleflow.trace.trace import Scenario

# The machine's phase number -> index in EVENT_KINDS.
KIND_OF_PHASE = np.array([EVENT_KINDS.index(p) for p in PHASES], np.uint8)
EVENT_CHUNK = 200_000
MAX_KEPT_EVENTS = 2_000_000
LIVELOCK_FAILURES = 200  # failures without a commit: the plan's promise is broken

Progress = Callable[[int, int, float], None]  # inferences done, failures so far, world seconds


@dataclass(frozen=True, slots=True)
class Execution:
    """A run and the raw answers, int8 [n, output bytes]."""

    run: Run
    answers: NDArray[np.int8]


def execute(
    firmware: Firmware,
    inputs: NDArray[np.int8],
    scenario: Scenario | None,
    profile: Profile,
    predicted: Estimate | None = None,
    *,
    check_reference: bool = True,
    deadline_s: float | None = None,
    progress: Progress | None = None,
    revision: str = "",
    answers_of: Callable[[NDArray[np.int8]], tuple[str, ...]] | None = None,
) -> Execution:
    """Runs the inferences one after another, through every power failure, until all are answered or the scenario ends.

    scenario None is continuous power. Ctrl-C ends the run early; what happened until then is returned, complete=False.
    Raises EmulationError when the firmware faults, Infeasible when it stops making progress.
    """
    seed = scenario.seed if scenario else 0
    machine = Machine(firmware, inputs, scenario, seed=seed, max_events=EVENT_CHUNK, checks=True)
    kept: list[NDArray[np.void]] = []
    peak_stack = 0
    state = _Watch()
    interrupted = False
    try:
        while not _done(machine):
            if not machine.powered:
                if not machine.power_on():
                    break
                painted = machine.sram.tobytes()
            machine.m.slice_end = machine.m.instructions + 50_000_000
            reason = machine.run() if machine.powered else STOP_EVENTS_FULL
            if reason in (STOP_DEAD, STOP_REST):
                peak_stack = max(peak_stack, machine.peak_stack_bytes(painted))
                machine.power_off()
                state.check(machine)
            if machine.m.n_events > EVENT_CHUNK - 4096:
                _drain_events(machine, kept)
            if progress is not None:
                progress(int(machine.m.n_answers), int(machine.m.n_failures), float(machine.m.supply.now_s))
            if reason == STOP_DONE:
                peak_stack = max(peak_stack, machine.peak_stack_bytes(painted))
                break
    except KeyboardInterrupt:
        interrupted = True
    if machine.powered:
        machine.library.machine_settle(machine.reference)
    _drain_events(machine, kept)
    n = int(machine.m.n_answers)
    matches = None
    if check_reference and n:
        expected = run_reference(firmware.lowered.model, inputs[:n]).reshape(n, -1)
        matches = bool(np.array_equal(expected, machine.answers[:n]))
    run = _run_of(machine, scenario, profile, predicted, np.concatenate(kept) if kept else np.zeros(0, EVENT))
    run = replace(
        run,
        complete=n == len(inputs) and not interrupted,
        outputs_match_reference=matches,
        peak_sram_bytes=firmware.sram_bytes - STACK_BYTES + peak_stack,
        deadline_s=deadline_s,
        revision=revision,
        answers=answers_of(machine.answers[:n]) if answers_of else (),
    )
    return Execution(run, machine.answers[:n])


def _done(machine: Machine) -> bool:
    return bool(machine.m.n_answers >= machine.m.n_inputs and not machine.powered)


class _Watch:
    """Notices when failures repeat without any commit between them."""

    def __init__(self) -> None:
        self.commits, self.failures = -1, 0

    def check(self, machine: Machine) -> None:
        m = machine.m
        self.failures = self.failures + 1 if m.n_commits == self.commits else 0
        self.commits = int(m.n_commits)
        if self.failures > LIVELOCK_FAILURES:
            raise Infeasible(
                f"{LIVELOCK_FAILURES} power failures without a commit at step {m.phase_op}: the firmware cannot progress on "
                f"{machine.device.name} with {machine.device.store.capacitance_f * 1e6:.4g} uF",
                "a larger --capacitor, or --planner tile",
            )


def _drain_events(machine: Machine, kept: list[NDArray[np.void]]) -> None:
    chunk = machine.events[: machine.m.n_events].copy()
    machine.m.n_events = 0
    if sum(len(k) for k in kept) < MAX_KEPT_EVENTS:
        kept.append(chunk)


def _run_of(
    machine: Machine, scenario: Scenario | None, profile: Profile, predicted: Estimate | None, raw: NDArray[np.void]
) -> Run:
    m, firmware = machine.m, machine.firmware
    device, plan, lowered = firmware.device, firmware.plan, firmware.lowered
    start_j = device.store.energy_j(device.store.off_v if scenario else device.store.on_v)
    n = int(m.n_answers)
    phase_s, phase_j = list(m.time_by_phase_s), list(m.energy_by_phase_j)
    commit, output = PHASES.index("commit"), PHASES.index("output")
    tile, idle, boot, recover = (PHASES.index(p) for p in ("tile", "idle", "boot", "recover"))
    energy = EnergyLedger(
        harvested_j=m.supply.harvested_j,
        compute_j=phase_j[tile] + m.unsafe_compute_j,
        commit_j=phase_j[commit] + phase_j[output],
        recovery_j=phase_j[recover],
        reexecution_j=m.lost_j,
        boot_j=phase_j[boot],
        idle_j=phase_j[idle],
        leaked_j=m.supply.leaked_j,
        converter_j=m.supply.converter_j,
        clipped_j=m.supply.clipped_j,
        stored_j=(m.supply.energy_j - start_j) if scenario else 0.0,
    )
    time = TimeLedger(
        compute_s=phase_s[tile] + m.unsafe_compute_s,
        commit_s=phase_s[commit] + phase_s[output],
        recovery_s=phase_s[recover],
        reexecution_s=m.lost_s,
        boot_s=phase_s[boot],
        charging_s=m.charging_s,
        idle_s=phase_s[idle],
    )
    layers = _layer_of_step(lowered)
    op = raw["op"].astype(np.int64)
    inside = (op >= 0) & (op < len(layers))
    events = Events(
        raw["time_s"].copy(),
        KIND_OF_PHASE[raw["kind"]],
        np.where(inside, layers[np.clip(op, 0, len(layers) - 1)], -1).astype(np.int32),
        raw["tile"].copy(),
        raw["duration_s"].copy(),
        raw["energy_j"].copy(),
        raw["voltage_v"].copy(),
    )
    voltage_time, voltage = _voltage(events, device.store.off_v)
    return Run(
        model=lowered.model.name,
        model_sha256=lowered.model.sha256,
        device=device.name,
        planner=plan.planner,
        harvest=scenario.harvest.name if scenario else "continuous power",
        harvest_synthetic=scenario.harvest.synthetic if scenario else False,
        capacitance_f=device.store.capacitance_f,
        on_v=device.store.on_v,
        off_v=device.store.off_v,
        max_v=device.store.max_v,
        seed=scenario.seed if scenario else 0,
        revision="",
        provenance="emulated",
        complete=False,
        n_inferences=n,
        n_power_failures=int(m.n_failures),
        n_rests=int(m.n_rests),
        latency_s=tuple(np.diff(machine.answer_time_s[:n], prepend=0.0).tolist()),
        energy_j=energy,
        time_s=time,
        predicted=predicted or plan.estimate,
        sram_budget_bytes=plan.sram_budget_bytes,
        nvm_bytes=plan.nvm_bytes,
        flash_bytes=firmware.flash_bytes,
        instructions=int(m.instructions),
        cycles=int(m.cycles),
        n_commits=int(m.n_commits),
        nvm_max_writes_per_byte=float(machine.wear.max()) / max(n, 1),
        nvm_endurance_writes=device.memory("nvm").endurance_writes,
        layers=layer_table(lowered, plan, profile, device.store.usable_j),
        events=events,
        voltage_time_s=voltage_time,
        voltage_v=voltage,
    )


def _voltage(events: Events, start_v: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voltage at the end of each event, decimated to at most 20,000 points with the turning points kept."""
    time, volts = events.time_s + events.duration_s, events.voltage_v
    if time.size > 20_000:
        turning = np.flatnonzero(np.isin(events.kind, [EVENT_KINDS.index("charge"), EVENT_KINDS.index("boot")]))
        keep = np.unique(
            np.concatenate([turning, np.maximum(turning - 1, 0), np.arange(0, time.size, time.size // 10_000)])
        )
        time, volts = time[keep], volts[keep]
    return np.concatenate([[0.0], time]), np.concatenate([[start_v], volts])


def _layer_of_step(lowered: Lowered) -> NDArray[np.int64]:
    """Step -> row of the layer table (one row per step)."""
    return np.arange(len(lowered.ops))


def layer_table(lowered: Lowered, plan: Plan, profile: Profile, charge_j: float) -> tuple[LayerRow, ...]:
    """One row per step: what it is, what it costs uninterrupted, how it is cut."""
    rows = []
    for k, (op, step, p) in enumerate(zip(lowered.ops, plan.steps, profile.steps, strict=True)):
        layer = lowered.model.layers[op.layer] if op.layer >= 0 else None
        n_tiles = int(np.prod(tiles_of(op, step.tile.rows, step.tile.cols, step.tile.channels)))
        buffers = {o.buffer for o in (*op.inputs, op.output)}
        resident = sum(lowered.buffer_bytes[b] for b in buffers if plan.placements[b].sram_offset is not None)
        staged = any(plan.placements[b].sram_offset is None for b in buffers)
        params = 0
        if layer is not None:
            params = sum(lowered.model.tensors[i].n_elements for i in lowered.model.constant_inputs(layer))
        rows.append(
            LayerRow(
                name=layer.name if layer else "input",
                op=op.kind,
                out_shape=(op.output.rows, op.output.cols, op.output.channels),
                params=params,
                macs=op.macs,
                instructions=int(p.instructions.sum()),
                cycles=int(p.cycles.sum()),
                energy_j=float(p.energy_j.sum()),
                sram_bytes=resident,
                nvm_read_bytes=int(p.nvm_read_bytes.sum()),
                nvm_write_bytes=int(p.nvm_write_bytes.sum()),
                n_tiles=n_tiles,
                n_commits=sum(1 for s, t in plan.commits if (s == k and t > 0) or (s == k + 1 and t == 0)),
                charges=float(p.energy_j.sum()) / charge_j,
                placement=f"{'staged' if staged else 'sram'} {step.tile.rows}x{step.tile.cols}x{step.tile.channels}",
            )
        )
    return tuple(rows)
