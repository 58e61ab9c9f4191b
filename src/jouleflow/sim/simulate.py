"""A plan in its world without the emulator: hyper-tile by hyper-tile, on the same supply. Days of trace in seconds.

The same `Run` comes back as from emulation, marked modelled. Within a hyper-tile the load is taken as constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible
from jouleflow.plan.commits import (
    ANSWER_CYCLES,
    RECORD_CYCLES,
    flush_price,
    produced_bytes,
    reload_price,
)
from jouleflow.plan.lowering import Lowered
from jouleflow.plan.plan import Plan
from jouleflow.profile.profile import Profile, costs_at_store
from jouleflow.record.run import EVENT_KINDS, EnergyLedger, Estimate, Events, Run, TimeLedger
from jouleflow.supply.supply import Supply
from jouleflow.trace.trace import Scenario

MAX_EVENTS = 200_000
LIVELOCK_FAILURES = 200


@dataclass(frozen=True, slots=True)
class HyperTile:
    """Work between two commits: its computing, its commit, and the reload when it must be started again."""

    step: int
    tile: int
    compute_s: float
    compute_j: float
    commit_s: float
    commit_j: float
    reload_s: float
    reload_j: float


def hyper_tiles(lowered: Lowered, plan: Plan, profile: Profile, device: Device) -> tuple[HyperTile, ...]:
    """The plan as a list of hyper-tiles; the last holds the delivery of the answer too."""
    costs = costs_at_store(device)
    resident = {b for b, p in enumerate(plan.placements) if p.sram_offset is not None}
    clock_hz = device.points[0].clock_hz("cpu")
    answer_s = (ANSWER_CYCLES - RECORD_CYCLES) / clock_hz  # its own record is cheaper: it has just been checked
    record = flush_price(device, 0, 0)

    def held(step: int, tile: int) -> dict[int, int]:
        sizes = {}
        for b in lowered.live[step]:
            if b in resident:
                partial = step < len(lowered.ops) and lowered.ops[step].output.buffer == b
                sizes[b] = (
                    produced_bytes(lowered.ops[step], plan.steps[step], tile) if partial else lowered.buffer_bytes[b]
                )
        return sizes

    def work(start: tuple[int, int], end: tuple[int, int]) -> tuple[float, float]:
        seconds = joules = 0.0
        for k in range(start[0], min(end[0], len(profile.steps) - 1) + 1):
            low = start[1] if k == start[0] else 0
            high = end[1] if k == end[0] else None
            seconds += float(profile.steps[k].latency_s[low:high].sum())
            joules += float(profile.steps[k].energy_j[low:high].sum())
        return seconds, joules

    tiles = []
    start, safe = (0, 0), held(0, 0)
    for end in plan.commits:
        compute_s, compute_j = work(start, end)
        if start == (0, 0):
            compute_s, compute_j = compute_s + profile.start_s, compute_j + profile.start_j
        now = held(*end)
        news = [size - safe.get(b, 0) for b, size in now.items() if size > safe.get(b, 0)]
        commit = flush_price(device, sum(news), len(news))
        commit_s, commit_j = commit.s, commit.j
        if end == plan.commits[-1]:
            commit_s += record.s + answer_s
            commit_j += record.j + answer_s * costs.active_w
        reload = reload_price(device, profile, sum(safe.values()), sum(v > 0 for v in safe.values()))
        tiles.append(HyperTile(start[0], start[1], compute_s, compute_j, commit_s, commit_j, reload.s, reload.j))
        start, safe = end, now
    return tuple(tiles)


class _Log:
    """Event columns while they grow, and the totals by kind."""

    def __init__(self, supply: Supply) -> None:
        self.supply = supply
        self.rows: list[tuple[float, int, int, int, float, float, float]] = []
        self.time = dict.fromkeys(EVENT_KINDS, 0.0)
        self.energy = dict.fromkeys(EVENT_KINDS, 0.0)
        self.lost_s = self.lost_j = 0.0

    def add(
        self, kind: str, start_s: float, energy_j: float, step: int = -1, tile: int = -1, lost: bool = False
    ) -> None:
        duration = self.supply.now_s - start_s
        if lost:
            self.lost_s += duration
            self.lost_j += energy_j
        else:
            self.time[kind] += duration
            self.energy[kind] += energy_j
        if len(self.rows) < MAX_EVENTS:
            self.rows.append((start_s, EVENT_KINDS.index(kind), step, tile, duration, energy_j, self.supply.voltage_v))

    def events(self) -> Events:
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * 7
        kinds = (np.float64, np.uint8, np.int32, np.int32, np.float64, np.float64, np.float64)
        return Events(*(np.array(c, t) for c, t in zip(columns, kinds, strict=True)))


def simulate(
    lowered: Lowered, plan: Plan, profile: Profile, device: Device, scenario: Scenario, n_inferences: int
) -> Run:
    """What happens when the plan runs n_inferences one after another, until the scenario ends.

    Raises Infeasible when a hyper-tile fails again and again.
    """
    costs = costs_at_store(device)
    tiles = hyper_tiles(lowered, plan, profile, device)
    supply = Supply(device, scenario)
    log = _Log(supply)
    answers: list[float] = []
    failures = at = repeated = 0
    powered = False
    recover = False

    def spend(kind: str, seconds: float, joules: float, step: int = -1, tile: int = -1) -> bool:
        """Whether the store survived; the time and energy are booked as lost work if not."""
        start = supply.now_s
        load = joules / seconds if seconds > 0 else 0.0
        lived = supply.drain(load, seconds)
        died = lived < seconds
        log.add(kind, start, lived * load, step, tile, lost=died and kind in ("tile", "commit"))
        return not died

    while len(answers) < n_inferences and supply.now_s < scenario.duration_s:
        if not powered:
            start = supply.now_s
            on = supply.charge(scenario.duration_s - start)
            log.add("charge", start, 0.0)
            if not on:
                break
            powered = recover = True
            if not spend("boot", costs.boot_s, costs.boot_j):
                powered = False
                failures += 1
                continue
        tile = tiles[at]
        alive = True
        if recover:
            alive = spend("recover", tile.reload_s, tile.reload_j)
            recover = False
        alive = alive and spend("tile", tile.compute_s, tile.compute_j, tile.step, tile.tile)
        if alive and not spend("commit", tile.commit_s, tile.commit_j, tile.step, tile.tile):
            alive = False
            log.lost_s += tile.compute_s  # its computing is lost with the commit
            log.lost_j += tile.compute_j
            log.time["tile"] -= tile.compute_s
            log.energy["tile"] -= tile.compute_j
        if alive:
            at, repeated = at + 1, 0
            if at == len(tiles):
                answers.append(supply.now_s)
                at = 0
        else:
            powered = False
            failures += 1
            repeated += 1
            if repeated > LIVELOCK_FAILURES:
                raise Infeasible(
                    f"hyper-tile {at} failed {repeated} times in a row on {device.name}", "a larger --capacitor"
                )
    return _run(lowered, plan, device, scenario, supply, log, answers, failures, n_inferences)


def _run(
    lowered: Lowered,
    plan: Plan,
    device: Device,
    scenario: Scenario,
    supply: Supply,
    log: _Log,
    answers: list[float],
    failures: int,
    n_wanted: int,
) -> Run:
    s, t, e = supply.struct, log.time, log.energy
    events = log.events()
    return Run(
        model=lowered.model.name,
        model_sha256=lowered.model.sha256,
        device=device.name,
        planner=plan.planner,
        harvest=scenario.harvest.name,
        harvest_synthetic=scenario.harvest.synthetic,
        capacitance_f=device.store.capacitance_f,
        on_v=device.store.on_v,
        off_v=device.store.off_v,
        max_v=device.store.max_v,
        seed=scenario.seed,
        revision="",
        provenance="modelled",
        complete=len(answers) == n_wanted,
        n_inferences=len(answers),
        n_power_failures=failures,
        latency_s=tuple(np.diff(answers, prepend=0.0).tolist()),
        energy_j=EnergyLedger(
            s.harvested_j, e["tile"], e["commit"], e["recover"], log.lost_j, e["boot"], 0.0, s.leaked_j, s.converter_j,
            s.clipped_j, s.energy_j - supply.start_j,
        ),
        time_s=TimeLedger(t["tile"], t["commit"], t["recover"], log.lost_s, t["boot"], t["charge"], 0.0),
        predicted=plan.estimate,
        sram_budget_bytes=plan.sram_budget_bytes,
        nvm_bytes=plan.nvm_bytes,
        nvm_endurance_writes=device.memory("nvm").endurance_writes,
        events=events,
        voltage_time_s=np.concatenate([[0.0], events.time_s + events.duration_s]),
        voltage_v=np.concatenate([[device.store.off_v], events.voltage_v]),
    )  # fmt: skip


def predict(
    lowered: Lowered, plan: Plan, profile: Profile, device: Device, scenario: Scenario, n_inferences: int
) -> Estimate:
    """Mean latency and energy per inference by simulation on the scenario's own trace."""
    run = simulate(lowered, plan, profile, device, scenario, n_inferences)
    n = max(run.n_inferences, 1)
    return Estimate(
        float(np.mean(run.latency_s)) if run.latency_s else run.time_s.total_s,
        run.energy_j.spent_j / n,
        run.n_power_failures / n,
        "modelled",
    )
