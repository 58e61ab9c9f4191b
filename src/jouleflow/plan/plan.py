"""`Plan`, `Step`, `Tile`: what to run, how it is cut into tiles, what stays in SRAM, and where progress is committed.

A plan is data: planners make it, the code generator and the simulator read it. Step 0 takes the input; step k + 1
runs `layers[k]` of the lowered network (`jouleflow.plan.lowering`).
"""

from __future__ import annotations

from dataclasses import dataclass

from jouleflow.record.run import Estimate


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows x columns x channels of output computed at a time. Loop order: channels innermost unless channels_outer."""

    rows: int
    cols: int
    channels: int
    channels_outer: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """How one operator runs. `variant` names the kernel: "fast" needs scratch memory, "small" needs none."""

    tile: Tile
    variant: str = "fast"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one buffer lives. Offsets in bytes; None where it has no place. Without sram it is staged tile by tile, and
    then a check byte follows every unit_bytes of its home (0: none)."""

    sram_offset: int | None
    nvm_offset: int | None
    unit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the planner promises: the dearest hyper-tile with boot and recovery, against one charge."""

    worst_hyper_tile_j: float
    charge_j: float

    @property
    def holds(self) -> bool:
        return self.worst_hyper_tile_j <= self.charge_j


@dataclass(frozen=True, slots=True)
class Preservation:
    """How commits are made, beside where. need_j: per commit, skip it while the store holds this much above the point of
    failure (empty: make every one). rest_below_j: after that commit, wait for a full store if there is less (empty: never).
    start_j: before an inference, wait for a full store if there is less. writes_all: a commit writes all live data, not
    only what is new. in_outputs: the outputs themselves tell how far it got, and no record is written (modelled only)."""

    need_j: tuple[float, ...] = ()
    rest_below_j: tuple[float, ...] = ()
    start_j: float = 0.0
    writes_all: bool = False
    in_outputs: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the code generator needs beyond the model.

    commits are positions (step, tile): progress is made safe before that tile of that step; the last is (n_steps, 0).
    placements[b] is for buffer b of the lowered network; stage and scratch offsets are in the SRAM arena.
    """

    planner: str
    device: str
    steps: tuple[Step, ...]
    commits: tuple[tuple[int, int], ...]
    placements: tuple[Placement, ...]
    stage_in: tuple[tuple[int, ...], ...]  # per step, per input
    stage_out: tuple[int, ...]
    scratch: tuple[int, ...]
    arena_bytes: int
    nvm_bytes: int
    sram_budget_bytes: int
    estimate: Estimate
    certificate: Certificate
    preservation: Preservation
