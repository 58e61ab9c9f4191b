"""A certificate: how late an answer can be, whatever the phase of the harvest trace.

Response R: from the request, with the store at the point of failure, to the answer. Two bounds meet: what the supply
delivers at least after any moment (the trace itself, every phase), and what the plan can demand at most.

Demand. A power cycle that begins at hyper-tile i gets at least as far as it would without any harvest. Beyond that it may end
anywhere, one hyper-tile is lost, and the next cycle boots and reloads. The dearest of all such histories is found
exactly, backwards.

Supply. Until the answer, what came in (less leakage) was spent or is in the store. Harvest beyond the load of a running board
would fill the store further, but a bound must not count on it: while the board runs, at most its load counts, so the
trace is cut off there. Where the core waits for memory it draws less than that, and the difference is added to
the demand. The other way round: every charge takes one full store, and while the board runs, no more can come in
than the trace's highest power. The smaller of the two is what must come in.

R <= D <= T makes the job schedulable: period T, deadline D. Our reconstruction of AID's schedulability analysis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible
from jouleflow.plan.lowering import Lowered
from jouleflow.plan.plan import Plan
from jouleflow.profile.profile import Profile, costs_at_store
from jouleflow.sim.simulate import Commits, hyper_tiles
from jouleflow.trace.trace import Trace

PROFILE_ERROR_FRAC = 0.01  # tiles may cost so much more than profiled: other inputs, other clamps
MAX_PERIODS = 64  # of the trace that a response may take
FINEST_FRAC = 1e-3  # of the trace: starts are tried at least this densely


@dataclass(frozen=True, slots=True)
class Demand:
    """The most that any history of one inference can take: energy while running, time running, power cycles."""

    energy_j: float
    active_s: float
    power_cycles: int


@dataclass(frozen=True, slots=True)
class Response:
    """The worst response time, the phase of the trace where it happens, and the demand behind it."""

    worst_s: float
    phase_s: float
    demand: Demand


def worst_demand(lowered: Lowered, plan: Plan, profile: Profile, device: Device) -> Demand:
    """Over all histories that power failures can make.

    Raises Infeasible when some hyper-tile does not fit a charge, or the plan reads the voltage and so has no fixed histories.
    """
    if plan.preservation.need_j or plan.preservation.rest_below_j:
        raise Infeasible(
            f"no certificate for planner {plan.planner}: its commits depend on the voltage", "--planner tile"
        )
    costs = costs_at_store(device)
    tiles = hyper_tiles(lowered, plan, profile, device)
    commits = Commits(tiles, plan, device)
    n = len(tiles) - 1
    waiting_w = max(costs.active_w - costs.wait_w, 0.0)
    boot_j = max(costs.boot_j, costs.active_w * costs.boot_s)  # a boot that draws less than the running board
    budget_j = device.store.usable_j - costs.boot_j
    real_j, counted_j, active_s = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        price = commits.price(i, i + 1)
        real_j[i] = (tiles[i].compute_j + price.j) * (1 + PROFILE_ERROR_FRAC)
        counted_j[i] = real_j[i] + waiting_w * (tiles[i].wait_s + price.s)
        active_s[i] = (tiles[i].compute_s + price.s) * (1 + PROFILE_ERROR_FRAC)
    done_j = np.concatenate([[0.0], np.cumsum(real_j)])
    dearest_j, longest_s, cycles = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1, np.int64)
    for i in range(n - 1, -1, -1):
        reload = tiles[i].reload
        reach = int(np.searchsorted(done_j, done_j[i] + budget_j - reload.j, side="right")) - 1
        if reach <= i:
            raise Infeasible(f"hyper-tile {i} does not fit one charge of {device.name}", "a larger --capacitor")
        ends = np.arange(min(reach, n), n + 1)
        dearest_j[i] = boot_j + reload.j + waiting_w * reload.s + _worst(counted_j, dearest_j, i, ends)
        longest_s[i] = costs.boot_s + reload.s + _worst(active_s, longest_s, i, ends)
        cycles[i] = 1 + cycles[ends].max()
    return Demand(float(dearest_j[0]), float(longest_s[0]), int(cycles[0]))


def _worst(each: NDArray[np.float64], rest: NDArray[np.float64], start: int, ends: NDArray[np.int64]) -> float:
    """The most that a cycle from `start` and all after it take: hyper-tiles done, one lost, and the rest from there."""
    done = np.concatenate([[0.0], np.cumsum(each)])
    lost = np.append(each, 0.0)
    return float((done[ends] - done[start] + lost[ends] + rest[ends]).max())


def worst_response(lowered: Lowered, plan: Plan, profile: Profile, device: Device, harvest: Trace) -> Response:
    """The certificate of a plan on a trace that repeats.

    Raises Infeasible when there is no bound: the harvest does not outweigh the leakage, or worst_demand refuses.
    """
    demand = worst_demand(lowered, plan, profile, device)
    costs, charge_j = costs_at_store(device), device.store.usable_j
    harvest_w = np.minimum(harvest.value * device.converter.input_eff_frac, costs.active_w)
    by_balance_j = demand.energy_j + charge_j
    by_charges_j = demand.power_cycles * charge_j + demand.active_s * float(harvest_w.max())
    usable_w = harvest_w - device.store.leak_w
    worst_s, phase_s = _longest_wait(harvest, usable_w, min(by_balance_j, by_charges_j))
    return Response(max(worst_s, demand.active_s), phase_s, demand)


def _longest_wait(harvest: Trace, usable_w: NDArray[np.float64], needed_j: float) -> tuple[float, float]:
    """The longest time, over all starts, until needed_j have come in; and its start. Between two neighbouring starts the wait
    is at most the later end less the earlier start, so the answer is an upper bound."""
    edges = np.append(harvest.time_s, harvest.duration_s)
    gained = np.concatenate([[0.0], np.cumsum(np.diff(edges) * usable_w)])
    if gained[-1] <= 0:
        raise Infeasible(
            f"trace {harvest.name} brings less than the leakage of the store over its length: no response time can be promised",
            "a stronger source, or a store that leaks less",
        )
    periods = int(np.ceil(needed_j / gained[-1])) + 2
    if periods > MAX_PERIODS:
        raise Infeasible(
            f"one inference takes up to {periods} lengths of trace {harvest.name} ({harvest.duration_s:g} s each), more than the "
            f"{MAX_PERIODS} that are looked at",
            "a stronger source or a smaller model",
        )
    starts = np.union1d(edges, np.linspace(0.0, harvest.duration_s, round(1 / FINEST_FRAC) + 1))
    time_s = np.concatenate([edges[:-1] + k * harvest.duration_s for k in range(periods + 1)])
    level_j = np.concatenate([gained[:-1] + k * gained[-1] for k in range(periods + 1)])
    # the last time that the level is below a goal is when the goal is surely reached: later minima count, not first passage
    floor_j = np.minimum.accumulate(level_j[::-1])[::-1]
    goals = np.interp(starts, time_s, level_j) + needed_j
    after = np.searchsorted(floor_j, goals, side="left")
    if after.max() >= len(floor_j):
        raise Infeasible(f"trace {harvest.name} is too weak for a bound within {periods} of its lengths")
    before = np.maximum(after - 1, 0)
    rise = np.maximum(level_j[after] - level_j[before], 1e-30)
    share = np.clip((goals - level_j[before]) / rise, 0.0, 1.0)
    ends = time_s[before] + share * (time_s[after] - time_s[before])
    waits = np.maximum(ends[1:], ends[:-1]) - starts[:-1]
    worst = int(waits.argmax())
    return float(waits[worst]), float(starts[worst])
