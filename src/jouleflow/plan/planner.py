"""Plans by name. A planner first cuts the network into tiles (`draft`), and once a profile of those tiles is known, places
commits (`finish`). Rivals to come differ in these two functions only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible, InputError, near_matches
from jouleflow.plan.commits import CommitPlan, boundaries, place_commits
from jouleflow.plan.cost import Measured, cut_cycles
from jouleflow.plan.lowering import Lowered
from jouleflow.plan.memory import STACK_BYTES, nvm_homes, static_bytes
from jouleflow.plan.plan import Certificate, Placement, Plan, Preservation
from jouleflow.plan.preserve import POLICIES
from jouleflow.plan.residency import ArenaTooSmall, Tiling, make_tiling
from jouleflow.profile.profile import Profile, costs_at_store
from jouleflow.record.run import Estimate
from jouleflow.trace.trace import Trace

PLANNERS = ("tile", "restart", *POLICIES)
RUNNABLE = tuple(p for p in PLANNERS if p != "stateful")  # as firmware; the others are only modelled


@dataclass(frozen=True, slots=True)
class Draft:
    """A tiling with its plan for continuous power: one commit, at the end. This is what gets profiled."""

    tiling: Tiling
    plan: Plan


def check_planner(planner: str) -> str:
    """The name itself.

    Raises InputError listing the planners for an unknown one.
    """
    if planner not in PLANNERS:
        raise InputError(f"unknown planner {planner!r}: {near_matches(planner, PLANNERS)}")
    return planner


def draft_plan(
    lowered: Lowered,
    device: Device,
    sram_bytes: int | None = None,
    planner: str = "tile",
    measured: Measured | None = None,
) -> Draft:
    """Tiles and SRAM layout within the budget (the board's SRAM when None).

    Raises Infeasible naming the least SRAM that works, or the capacitor when one tile outlasts a charge.
    """
    check_planner(planner)
    limit = device.memory("sram").size_bytes
    budget = limit if sram_bytes is None else sram_bytes
    if budget > limit:
        raise InputError(f"--sram {budget}B exceeds the {limit} bytes of {device.name}: give at most {limit // 1024}kB")
    overhead = STACK_BYTES + static_bytes(len(lowered.buffer_bytes))
    try:
        tiling = make_tiling(lowered, device, budget - overhead, measured or {})
    except ArenaTooSmall as error:
        least = error.least_arena + overhead
        raise Infeasible(
            f"{lowered.model.name}: {error} does not fit {budget} bytes of SRAM with its stack and statics ({overhead} bytes)",
            f"--sram {least}B" if least <= limit else f"a board with {least} bytes of SRAM ({device.name} has {limit})",
        ) from error
    end = ((len(lowered.ops), 0),)
    return Draft(
        tiling,
        _assemble(
            planner, lowered, device, tiling, end, budget, Estimate(0.0, 0.0), Certificate(0.0, 0.0), Preservation()
        ),
    )


# A tile dearer than this share of a charge was misjudged by the cost model: the draft is made again with measured cycles.
TILE_TOO_DEAR_FRAC = 0.1


def misjudged(profile: Profile, device: Device) -> bool:
    """Whether some tile costs so much of a charge that the draft should be made again, from `measured_cycles`."""
    dearest = max(float(s.energy_j.max()) for s in profile.steps)
    return dearest > TILE_TOO_DEAR_FRAC * device.store.usable_j


def measured_cycles(lowered: Lowered, draft: Draft, profile: Profile) -> Measured:
    """Work cycles of each step as profiled, for another draft."""
    steps = zip(lowered.ops, draft.tiling.steps, profile.steps, strict=True)
    return {(op, step.variant): float(p.cycles.sum()) - cut_cycles(op, step) for op, step, p in steps}


def finish_plan(lowered: Lowered, draft: Draft, profile: Profile, device: Device, harvest: Trace) -> Plan:
    """The draft with commits placed for a store and a harvest.

    Raises Infeasible when a hyper-tile fits no charge, or the non-volatile memory is too small.
    """
    harvest_w = harvest.mean * device.converter.input_eff_frac
    tiling, planner = draft.tiling, draft.plan.planner
    if planner == "restart":
        only = ((len(lowered.ops), 0),)
        return replace(draft.plan, commits=only, estimate=_estimate(None, profile, device, harvest_w))
    how = Preservation()
    if planner in POLICIES:
        places = boundaries(lowered, tiling.steps, tiling.resident, profile, device)
        preserved = POLICIES[planner](places, device, harvest_w)
        placed, how = preserved.placed, preserved.preservation
    else:
        placed = place_commits(lowered, tiling.steps, tiling.resident, profile, device, harvest_w)
    estimate = _estimate(placed, profile, device, harvest_w)
    budget = draft.plan.sram_budget_bytes
    return _assemble(planner, lowered, device, tiling, placed.commits, budget, estimate, placed.certificate, how)


def _estimate(placed: CommitPlan | None, profile: Profile, device: Device, harvest_w: float) -> Estimate:
    """Mean latency and energy of one inference on a source of the trace's mean power; the simulator refines it."""
    energy_j = profile.energy_j if placed is None else placed.expected_j
    failures = 0.0 if placed is None else placed.expected_failures
    active_s = profile.latency_s + (placed.commit_s if placed else 0.0)
    active_s *= energy_j / max(profile.energy_j, 1e-30)
    net_w = harvest_w - device.store.leak_w
    latency_s = max(active_s + failures * costs_at_store(device).boot_s, energy_j / net_w if net_w > 0 else 0.0)
    return Estimate(latency_s, energy_j, failures)


def _assemble(
    planner: str,
    lowered: Lowered,
    device: Device,
    tiling: Tiling,
    commits: tuple[tuple[int, int], ...],
    sram_budget: int,
    estimate: Estimate,
    certificate: Certificate,
    how: Preservation,
) -> Plan:
    nvm = device.memory("nvm")
    homes, nvm_bytes = nvm_homes(
        lowered, tiling.resident, tiling.units, commits, nvm.write_block_bytes, bool(how.need_j)
    )
    available = nvm.size_bytes
    if nvm_bytes > available:
        raise Infeasible(
            f"the plan needs {nvm_bytes} bytes of non-volatile memory, {device.name} has {available}",
            f"a board with {nvm_bytes} bytes, or more SRAM so that less is staged",
        )
    return Plan(
        planner,
        device.name,
        tiling.steps,
        commits,
        tuple(Placement(*each) for each in zip(tiling.sram_offset, homes, tiling.units, strict=True)),
        tiling.stage_in,
        tiling.stage_out,
        tiling.scratch,
        tiling.arena_bytes,
        nvm_bytes,
        sram_budget,
        estimate,
        certificate,
        how,
    )
