"""A plan in its world without the emulator: hyper-tile by hyper-tile, on the same supply. Days of trace in seconds.

The same `Run` comes back as from emulation, marked modelled. Within a hyper-tile the load is taken as constant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible
from jouleflow.plan.commits import (
    ANSWER_CYCLES,
    RECORD_CYCLES,
    Price,
    flush_price,
    produced_bytes,
    reload_price,
    search_price,
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
    """Work between two commit places: its computing (of which the core waits wait_s for memory), and the reload when it
    must be started again. held_before: bytes of each buffer that a commit before it keeps."""

    step: int
    tile: int
    compute_s: float
    compute_j: float
    wait_s: float
    reload: Price
    held_before: dict[int, int]


def hyper_tiles(lowered: Lowered, plan: Plan, profile: Profile, device: Device) -> tuple[HyperTile, ...]:
    """The plan as a list of hyper-tiles, and at the end one without work, for what is held then."""
    resident = {b for b, p in enumerate(plan.placements) if p.sram_offset is not None}

    def held(step: int, tile: int) -> dict[int, int]:
        sizes = {}
        for b in lowered.live[step]:
            if b in resident:
                partial = step < len(lowered.ops) and lowered.ops[step].output.buffer == b
                sizes[b] = (
                    produced_bytes(lowered.ops[step], plan.steps[step], tile) if partial else lowered.buffer_bytes[b]
                )
        return sizes

    clock_hz = device.points[0].clock_hz("cpu")

    def work(start: tuple[int, int], end: tuple[int, int]) -> tuple[float, float, float]:
        seconds = joules = cycles = 0.0
        for k in range(start[0], min(end[0], len(profile.steps) - 1) + 1):
            low = start[1] if k == start[0] else 0
            high = end[1] if k == end[0] else None
            seconds += float(profile.steps[k].latency_s[low:high].sum())
            joules += float(profile.steps[k].energy_j[low:high].sum())
            cycles += float(profile.steps[k].cycles[low:high].sum())
        return seconds, joules, max(seconds - cycles / clock_hz, 0.0)

    search = search_price(device, sum(lowered.buffer_bytes))
    tiles = []
    start = (0, 0)
    for end in (*plan.commits, None):
        safe = held(*start)
        compute_s, compute_j, wait_s = work(start, end) if end else (0.0, 0.0, 0.0)
        if start == (0, 0):
            compute_s, compute_j = compute_s + profile.start_s, compute_j + profile.start_j
        reload = reload_price(device, profile, sum(safe.values()), sum(v > 0 for v in safe.values()))
        if plan.preservation.in_outputs:
            reload = Price(reload.s + search.s, reload.j + search.j)
        tiles.append(HyperTile(start[0], start[1], compute_s, compute_j, wait_s, reload, safe))
        start = end or start
    return tuple(tiles)


class Commits:
    """What a commit costs, from what was safe before and what is held now."""

    def __init__(self, tiles: tuple[HyperTile, ...], plan: Plan, device: Device) -> None:
        self.tiles, self.device = tiles, device
        self.how = plan.preservation
        clock_hz = device.points[0].clock_hz("cpu")
        answer_s = (ANSWER_CYCLES - RECORD_CYCLES) / clock_hz  # its own record is cheaper: it has just been checked
        record = flush_price(device, 0, 0)
        self.answer = Price(record.s + answer_s, record.j + answer_s * costs_at_store(device).active_w)
        self.known: dict[tuple[int, int], Price] = {}

    def price(self, safe: int, now: int) -> Price:
        """From the state before hyper-tile `safe` to that before `now`; the last one delivers the answer too."""
        if (safe, now) not in self.known:
            before = {} if self.how.writes_all else self.tiles[safe].held_before
            held = self.tiles[now].held_before
            new = [size - before.get(b, 0) for b, size in held.items() if size > before.get(b, 0)]
            price = flush_price(self.device, sum(new), len(new), self.how.in_outputs)
            if now == len(self.tiles) - 1:
                price = Price(price.s + self.answer.s, price.j + self.answer.j)
            self.known[safe, now] = price
        return self.known[safe, now]


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

    def lose(self, seconds: float, joules: float) -> None:
        """Computing that was booked as done and is lost with the power."""
        self.lost_s += seconds
        self.lost_j += joules
        self.time["tile"] -= seconds
        self.energy["tile"] -= joules

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
    costs, how = costs_at_store(device), plan.preservation
    tiles = hyper_tiles(lowered, plan, profile, device)
    commits = Commits(tiles, plan, device)
    supply = Supply(device, scenario)
    log = _Log(supply)
    answers: list[float] = []
    failures = rests = n_commits = repeated = 0
    at = safe = 0  # hyper-tile to run, and the one that the last commit stands before
    unsafe_s = unsafe_j = 0.0  # computed since that commit
    powered = recover = False
    last = len(tiles) - 1

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
            alive = spend("recover", tile.reload.s, tile.reload.j)
            recover = False
        if alive and at == 0 and how.start_j > 0:
            alive = spend("idle", device.sense_s, device.sense_s * costs.active_w)
            if alive and supply.left_j < how.start_j:
                powered = False
                rests += 1
                continue
        alive = alive and spend("tile", tile.compute_s, tile.compute_j, tile.step, tile.tile)
        skip = False
        if alive:
            unsafe_s, unsafe_j = unsafe_s + tile.compute_s, unsafe_j + tile.compute_j
            at += 1
            if how.need_j and at < last:
                alive = spend("tile", device.sense_s, device.sense_s * costs.active_w, tile.step, tile.tile)
                skip = supply.left_j >= how.need_j[at - 1]
        if alive and not skip:
            price = commits.price(safe, at)
            alive = spend("commit", price.s, price.j, tile.step, tile.tile)
            if alive:
                n_commits += 1
                safe, unsafe_s, unsafe_j, repeated = at, 0.0, 0.0, 0
                if at == last:
                    n_commits += 1  # the one after the answer
                    answers.append(supply.now_s)
                    at = safe = 0
                elif how.rest_below_j:
                    alive = spend("tile", device.sense_s, device.sense_s * costs.active_w, tile.step, tile.tile)
                    if alive and supply.left_j < how.rest_below_j[at - 1]:
                        powered = False
                        rests += 1
        if not alive:
            log.lose(unsafe_s, unsafe_j)
            at, unsafe_s, unsafe_j = safe, 0.0, 0.0
            powered = False
            failures += 1
            repeated += 1
            if repeated > LIVELOCK_FAILURES:
                raise Infeasible(
                    f"hyper-tile {at} failed {repeated} times in a row on {device.name}", "a larger --capacitor"
                )
    run = _run(lowered, plan, device, scenario, supply, log, answers, failures, n_inferences)
    return replace(run, n_commits=n_commits, n_rests=rests)


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
