"""AID's scheduler, first version: tile shapes, what stays in SRAM, and (through `commits`) the hyper-tiles.

Buffers stay in SRAM as long as the budget allows; those that do not fit live in NVM and are staged tile by tile. Tiles of
a staged step are as large as fit, so that least is transferred; tiles of a resident step are only the grain at
which progress can be committed, so they are small against a charge. Our reconstruction: the paper's body was not
available to us; see docs/decisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible
from jouleflow.plan.cost import Measured, step_cycles
from jouleflow.plan.lowering import Lowered, Op, tiles_of
from jouleflow.plan.memory import (
    OVERREAD_BYTES,
    Block,
    align,
    input_tile_bytes,
    lay_out,
    scratch_bytes,
    unit_bytes,
    with_checks,
)
from jouleflow.plan.plan import Step, Tile

# A resident step is cut so that about this many tiles fit one charge: finer loses little work to a failure, coarser
# spends less on tiles. The cost of a tile is some 150 cycles, so the choice is not delicate.
TILES_PER_CHARGE = 64
MAX_TILES_PER_STEP = 4096
SMALLER_LIMITS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the arena: what else to try when not all fits


@dataclass(frozen=True, slots=True)
class Tiling:
    """Steps and SRAM layout before commits are chosen."""

    steps: tuple[Step, ...]
    resident: frozenset[int]
    units: tuple[int, ...]  # per buffer: Placement.unit_bytes
    sram_offset: tuple[int | None, ...]  # per buffer
    stage_in: tuple[tuple[int, ...], ...]
    stage_out: tuple[int, ...]
    scratch: tuple[int, ...]
    arena_bytes: int


@dataclass(frozen=True, slots=True)
class _Choice:
    """One step while its tile is sought: the operator, where its buffers are, and the units of those that are staged."""

    lowered: Lowered
    k: int
    resident: frozenset[int]
    units: Mapping[int, int]  # per staged buffer, of the steps before

    @property
    def op(self) -> Op:
        return self.lowered.ops[self.k]


def _staged_bytes(at: _Choice, step: Step) -> tuple[list[int], int, int]:
    """SRAM bytes of (each staged input, the staged output, scratch); 0 for what is resident."""
    op, tile = at.op, step.tile
    inputs = [
        0
        if o.buffer in at.resident
        else align(input_tile_bytes(op, k, tile, at.units.get(o.buffer, 0)) + OVERREAD_BYTES)
        for k, o in enumerate(op.inputs)
    ]
    size = with_checks(tile.rows * tile.cols * tile.channels, unit_bytes(at.lowered, at.k, tile))
    output = 0 if op.output.buffer in at.resident else align(size)
    return inputs, output, scratch_bytes(op, step)


def _variants(op: Op) -> tuple[str, ...]:
    """Kernels that can run it, best first: "fast" needs scratch memory, "small" little or none."""
    if op.kind == "depthwise_conv2d":
        three = op.window.kernel == (3, 3) and op.window.dilation == (1, 1) and op.window.stride[1] in (1, 2)
        return ("fast", "small") if three and op.output.channels == op.inputs[0].channels else ("small",)
    return ("fast", "small") if op.kind in ("conv2d", "dense") else ("fast",)


def _sizes(n: int, step: int = 1) -> list[int]:
    """Candidate tile sides for a side of n, largest first."""
    sizes = {n}
    parts = 2
    while n // parts >= step:
        sizes.add(align(-(-n // parts), step))
        parts = parts + 1 if parts < 16 else parts * 2
    sizes.add(min(step, n))
    return sorted((s for s in sizes if s <= n), reverse=True)


def _candidates(op: Op, staged_output: bool) -> Iterator[Tile]:
    """Tile shapes: a resident output must grow from the front, so it is cut along one side at a time, channels innermost."""
    o = op.output
    for rows in _sizes(o.rows):
        yield Tile(rows, o.cols, o.channels)
    for cols in _sizes(o.cols)[1:]:
        yield Tile(1, cols, o.channels)
    if op.kind in ("softmax", "capture_input", "mean"):
        return
    for channels in _sizes(o.channels, 4)[1:]:
        if o.rows == 1 and o.cols == 1 and not staged_output:
            yield Tile(1, 1, channels)
        elif staged_output and o.channels % channels == 0:  # equal parts: each is a unit with its check
            yield Tile(1, 1, channels)
            yield Tile(1, 1, channels, channels_outer=True)


def _transfer_cost_s(at: _Choice, step: Step, device: Device, measured: Measured) -> float:
    """Seconds of staging for one pass over the step, and its computing."""
    nvm, op, resident = device.memory("nvm"), at.op, at.resident
    tile, out = step.tile, op.output
    n_rows, n_cols, n_channels = tiles_of(op, tile.rows, tile.cols, tile.channels)
    seconds = step_cycles(op, step.variant, n_rows * n_cols * n_channels, measured) / device.points[0].clock_hz("cpu")
    for k, operand in enumerate(op.inputs):
        if operand.buffer not in resident:
            tile_bytes = input_tile_bytes(op, k, tile, at.units.get(operand.buffer, 0))
            full_rows = op.window.cols(0, min(tile.cols, out.cols), operand.cols)[1] >= operand.cols
            transfers = 1 if full_rows else op.window.rows(0, tile.rows, operand.rows)[1]
            again = n_channels if tile.channels_outer and n_rows * n_cols > 1 else 1  # innermost channels reuse it
            seconds += n_rows * n_cols * again * (tile_bytes * nvm.read_s_per_byte + transfers * nvm.setup_s)
    if out.buffer not in resident:
        pieces = tile.rows if tile.cols < out.cols else 1
        if tile.channels < out.channels:
            pieces = tile.rows * tile.cols
        seconds += n_rows * n_cols * n_channels * pieces * nvm.setup_s + out.size_bytes * nvm.write_s_per_byte
    return seconds


def _charge_s(device: Device) -> float:
    """Seconds of computing that one charge pays for, boot paid."""
    point, store = device.points[0], device.store
    boot_j = device.boot_j / device.converter.output_eff_frac
    return max(store.usable_j - boot_j, 0.0) * device.converter.output_eff_frac / point.active_w


def _fits_charge(at: _Choice, step: Step, device: Device, measured: Measured) -> bool:
    """Whether one tile is at most a quarter of a charge, so that several fit with boot and recovery."""
    op = at.op
    n_rows, n_cols, n_channels = tiles_of(op, step.tile.rows, step.tile.cols, step.tile.channels)
    n = n_rows * n_cols * n_channels
    if op.kind == "capture_input":
        return True
    seconds = _transfer_cost_s(replace(at, resident=frozenset()), step, device, measured) / n
    return n <= MAX_TILES_PER_STEP * 16 and seconds <= _charge_s(device) / 4


def _staged_step(at: _Choice, free: int, device: Device, measured: Measured) -> Step | None:
    """The cheapest step that fits `free` bytes of SRAM, for a step with a staged operand."""
    best: tuple[float, Step] | None = None
    for variant in _variants(at.op):
        for tile in _candidates(at.op, at.op.output.buffer not in at.resident):
            step = Step(tile, variant)
            inputs, output, scratch = _staged_bytes(at, step)
            if sum(inputs) + output + scratch > free or not _fits_charge(at, step, device, measured):
                continue
            cost = _transfer_cost_s(at, step, device, measured)
            if best is None or cost < best[0]:
                best = (cost, step)
    return None if best is None else best[1]


def _resident_step(op: Op, free: int, device: Device, measured: Measured) -> Step | None:
    """The step of an operator whose buffers are all in SRAM: tiles are the grain of progress."""
    for variant in _variants(op):
        step = Step(_grain(op, variant, device, measured), variant)
        if scratch_bytes(op, step) <= free:
            return step
    return None


def _grain(op: Op, variant: str, device: Device, measured: Measured) -> Tile:
    o = op.output
    cycles = step_cycles(op, variant, 1, measured)
    grain = max(_charge_s(device) * device.points[0].clock_hz("cpu") / TILES_PER_CHARGE, 2000.0)
    wanted = max(1, min(round(cycles / grain), MAX_TILES_PER_STEP))
    if wanted == 1 or op.kind == "capture_input":
        return Tile(o.rows, o.cols, o.channels)
    tiles = list(_candidates(op, False))
    n_tiles = [int(np.prod(tiles_of(op, t.rows, t.cols, t.channels))) for t in tiles]
    return tiles[min(range(len(tiles)), key=lambda i: abs(n_tiles[i] - wanted))]


def _choose_step(at: _Choice, free: int, device: Device, measured: Measured) -> Step | None:
    if all(o.buffer in at.resident for o in (*at.op.inputs, at.op.output)):
        return _resident_step(at.op, free, device, measured)
    return _staged_step(at, free, device, measured)


def make_tiling(lowered: Lowered, device: Device, arena_limit: int, measured: Measured) -> Tiling:
    """Tile shapes and SRAM layout within arena_limit bytes.

    Raises ArenaTooSmall with the least arena that works, or Infeasible when a single tile outlasts a charge.
    """
    found = _try_tiling(lowered, device, arena_limit, measured)
    if isinstance(found, Tiling):
        return _cheapest(lowered, device, found, measured)
    low, high = arena_limit, max(4 * sum(lowered.buffer_bytes) + 65536, arena_limit * 2)
    if not isinstance(_try_tiling(lowered, device, high, measured), Tiling):
        raise Infeasible(
            f"one tile of step {found} ({lowered.ops[found].kind}) costs more than a quarter of a charge of "
            f"{device.store.usable_j * 1e3:.3g} mJ on {device.name}: take a larger capacitor or a wider voltage range"
        )
    while high - low > 16:
        middle = (low + high) // 2
        if isinstance(_try_tiling(lowered, device, middle, measured), Tiling):
            high = middle
        else:
            low = middle
    raise ArenaTooSmall(f"step {found} ({lowered.ops[found].kind})", high)


def _cheapest(lowered: Lowered, device: Device, largest: Tiling, measured: Measured) -> Tiling:
    """The cheapest tiling that fits: what is kept in SRAM takes room from better tiles and kernels, so less may be more."""
    choices = [largest]
    if len(largest.resident) < len(lowered.buffer_bytes):
        limits = (int(largest.arena_bytes * f) for f in SMALLER_LIMITS)
        smaller = (_try_tiling(lowered, device, limit, measured) for limit in limits)
        choices += [t for t in smaller if isinstance(t, Tiling)]
    return min(choices, key=lambda tiling: _total_cost_s(lowered, tiling, device, measured))


def _total_cost_s(lowered: Lowered, tiling: Tiling, device: Device, measured: Measured) -> float:
    units = dict(enumerate(tiling.units))
    at = (_Choice(lowered, k, tiling.resident, units) for k in range(len(lowered.ops)))
    return sum(_transfer_cost_s(a, step, device, measured) for a, step in zip(at, tiling.steps, strict=True))


class ArenaTooSmall(Exception):
    """Nothing fits: carries the least arena that works, to which the caller adds statics and stack."""

    def __init__(self, where: str, least_arena: int) -> None:
        super().__init__(where)
        self.least_arena = least_arena


def _try_tiling(lowered: Lowered, device: Device, arena_limit: int, measured: Measured) -> Tiling | int:
    """A tiling, or the index of the step that cannot be made to fit."""
    resident = frozenset(range(len(lowered.buffer_bytes)))
    while True:
        steps: list[Step] = []
        units: dict[int, int] = {}
        stuck: int | None = None
        for k, op in enumerate(lowered.ops):
            held = sum(align(lowered.buffer_bytes[b] + OVERREAD_BYTES) for b in lowered.live[k] if b in resident)
            at = _Choice(lowered, k, resident, units)
            step = _choose_step(at, arena_limit - held, device, measured) if held <= arena_limit else None
            if step is None:
                stuck = k
                break
            steps.append(step)
            if op.output.buffer not in resident:
                units[op.output.buffer] = unit_bytes(lowered, k, step.tile)
        if stuck is None:
            tiling = _arrange(lowered, tuple(steps), resident, units)
            if tiling.arena_bytes <= arena_limit:
                return tiling
            peaks = [_peak(_Choice(lowered, k, resident, units), step) for k, step in enumerate(steps)]
            stuck = peaks.index(max(peaks))
        held_here = [b for b in lowered.live[stuck] if b in resident]
        if not held_here:
            return stuck
        idle = [
            b for b in held_here if b not in {o.buffer for o in (*lowered.ops[stuck].inputs, lowered.ops[stuck].output)}
        ]
        resident = resident - {max(idle or held_here, key=lambda b: lowered.buffer_bytes[b])}


def _peak(at: _Choice, step: Step) -> int:
    inputs, output, scratch = _staged_bytes(at, step)
    held = sum(align(at.lowered.buffer_bytes[b]) for b in at.lowered.live[at.k] if b in at.resident)
    # a step with nothing resident cannot be relieved further
    return held + sum(inputs) + output + scratch if held else -1


def _arrange(lowered: Lowered, steps: tuple[Step, ...], resident: frozenset[int], units: Mapping[int, int]) -> Tiling:
    blocks: list[Block] = []
    buffers = sorted(resident)
    for b in buffers:
        blocks.append(
            Block(lowered.buffer_bytes[b] + OVERREAD_BYTES, lowered.first[b], min(lowered.last[b], len(steps) - 1))
        )
    areas: list[tuple[list[int], int, int]] = []  # block indices per step
    for k, step in enumerate(steps):
        inputs, output, scratch = _staged_bytes(_Choice(lowered, k, resident, units), step)
        where: list[int] = []
        for size in (*inputs, output, scratch):
            where.append(len(blocks))
            blocks.append(Block(size, k, k))
        areas.append((where[: len(inputs)], where[-2], where[-1]))
    offsets, total = lay_out(blocks)
    sram: list[int | None] = [None] * len(lowered.buffer_bytes)
    for i, b in enumerate(buffers):
        sram[b] = offsets[i]
    return Tiling(
        steps,
        resident,
        tuple(units.get(b, 0) for b in range(len(lowered.buffer_bytes))),
        tuple(sram),
        tuple(tuple(offsets[i] for i in area[0]) for area in areas),
        tuple(offsets[area[1]] for area in areas),
        tuple(offsets[area[2]] for area in areas),
        total,
    )
