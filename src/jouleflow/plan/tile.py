"""One step cut into tiles: the shapes that are possible, and what each costs in SRAM and in energy.

A step is cut because its operands do not fit the SRAM, and because a power failure costs the tile that it falls into. AID's
scheduler in our reconstruction: the paper's body was not available to us; see docs/decisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jouleflow.device.device import Device
from jouleflow.plan.cost import Measured, step_cycles
from jouleflow.plan.lowering import Lowered, Op, tiles_of
from jouleflow.plan.memory import OVERREAD_BYTES, align, input_tile_bytes, scratch_bytes, unit_bytes, with_checks
from jouleflow.plan.plan import Step, Tile
from jouleflow.profile.profile import costs_at_store

MAX_TILES_PER_STEP = 65536


@dataclass(frozen=True, slots=True)
class Place:
    """One step while its tile is sought: where its operands are. units: per staged buffer, bytes between checks."""

    lowered: Lowered
    k: int
    resident: frozenset[int]
    units: Mapping[int, int]

    @property
    def op(self) -> Op:
        return self.lowered.ops[self.k]


def staged_bytes(at: Place, step: Step) -> tuple[list[int], int, int]:
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


def _charge_j(device: Device) -> float:
    """What one charge leaves for work, boot paid."""
    return max(device.store.usable_j - costs_at_store(device).boot_j, 1e-12)


def step_energy_j(at: Place, step: Step, device: Device, measured: Measured) -> float:
    """Energy of one pass over the step: computing, staging, and what a power failure within a tile loses of it on average
    when all energy comes in charges."""
    costs, op, resident = costs_at_store(device), at.op, at.resident
    tile, out = step.tile, op.output
    n_rows, n_cols, n_channels = tiles_of(op, tile.rows, tile.cols, tile.channels)
    n = n_rows * n_cols * n_channels
    joules = step_cycles(op, step, measured) / device.points[0].clock_hz("cpu") * costs.active_w
    for k, operand in enumerate(op.inputs):
        if operand.buffer not in resident:
            tile_bytes = input_tile_bytes(op, k, tile, at.units.get(operand.buffer, 0))
            full_rows = op.window.cols(0, min(tile.cols, out.cols), operand.cols)[1] >= operand.cols
            transfers = 1 if full_rows else op.window.rows(0, tile.rows, operand.rows)[1]
            again = n_channels if tile.channels_outer and n_rows * n_cols > 1 else 1  # innermost channels reuse it
            joules += n_rows * n_cols * again * (tile_bytes * costs.read_j_per_byte + transfers * costs.setup_j)
    if out.buffer not in resident:
        pieces = tile.rows if tile.cols < out.cols else 1
        if tile.channels < out.channels:
            pieces = tile.rows * tile.cols
        joules += n * pieces * costs.setup_j + out.size_bytes * costs.write_j_per_byte
    if op.kind == "capture_input":  # captured at once or not at all, whatever its tiles
        return joules
    return joules * (1 + joules / n / (2 * _charge_j(device)))


def keeping_j(work_j: float, held_bytes: int, n_held: int, device: Device) -> float:
    """Energy to save and bring back what is held in SRAM, once in every charge that so much work takes."""
    costs = costs_at_store(device)
    once_j = held_bytes * (costs.read_j_per_byte + costs.write_j_per_byte) + 2 * n_held * costs.setup_j
    return work_j / _charge_j(device) * once_j


def fits_charge(at: Place, step: Step, device: Device, measured: Measured) -> bool:
    """Whether one tile is at most a quarter of a charge, so that several fit with boot and recovery."""
    op = at.op
    n_rows, n_cols, n_channels = tiles_of(op, step.tile.rows, step.tile.cols, step.tile.channels)
    n = n_rows * n_cols * n_channels
    if op.kind == "capture_input":
        return True
    return n <= MAX_TILES_PER_STEP and step_energy_j(at, step, device, measured) / n <= _charge_j(device) / 4


def possible_steps(at: Place) -> Iterator[Step]:
    """All ways to run a step."""
    for variant in _variants(at.op):
        for tile in _candidates(at.op, at.op.output.buffer not in at.resident):
            yield Step(tile, variant)
