"""What each step needs in SRAM beside resident buffers, and how buffers are laid out in SRAM and in NVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jouleflow.plan.lowering import Lowered, Op
from jouleflow.plan.plan import Step, Tile

OVERREAD_BYTES = 3  # kernels may read so many bytes past a row (kernels.h)
PROGRESS_BYTES = 64  # two slots at the start of NVM (progress.h)
DEPTHWISE3_ROWS = 6  # kernels.h
STACK_BYTES = 736  # peak 656 on a Cortex-M0+, 532 on M4 and M33 (tests/contracts); the emulator reports the real one


def static_bytes(n_buffers: int) -> int:
    """SRAM of the engine's statics (engine.c: the job, what is staged, what is safe)."""
    return 336 + 8 * n_buffers


def align(size: int, to: int = 4) -> int:
    """The least multiple of `to` that is at least `size`."""
    return -(-size // to) * to


def depthwise3_bytes(op: Op, tile: Tile) -> int:
    """Scratch of depthwise3_s8: a row of sums, and four channels of the input that a few output rows read, int16."""
    rows, cols = (min(tile.rows, DEPTHWISE3_ROWS) - 1) * op.window.stride[0] + 3, align(tile.cols, 2)
    return 4 * cols + 2 * 4 * rows * (cols * op.window.stride[1] + 2)


def scratch_bytes(op: Op, step: Step) -> int:
    """Scratch memory of a step's kernel."""
    variant, tile = step.variant, step.tile
    if variant == "small" and op.kind != "depthwise_conv2d":
        return 0
    (kernel_h, kernel_w), dilation_w = op.window.kernel, op.window.dilation[1]
    if op.kind == "conv2d":
        depth = op.inputs[0].channels
        run, n_runs = (kernel_w * depth, kernel_h) if dilation_w == 1 else (depth, kernel_h * kernel_w)
        return 2 * 2 * align(run) * n_runs
    if op.kind == "dense":
        return 2 * align(op.inputs[0].size_bytes)
    if op.kind == "depthwise_conv2d":
        return depthwise3_bytes(op, tile) if variant == "fast" else 4 * align(kernel_h * kernel_w, 2)
    return 0


def unit_bytes(lowered: Lowered, k: int, tile: Tile) -> int:
    """Bytes between checks in the home of step k's output when it is staged; 0 where no unit suits all that read it.

    A unit is what a tile writes of a pixel. The answer is left plain, because the application reads it.
    """
    output = lowered.ops[k].output
    if output.buffer == lowered.output_buffer:
        return 0
    views = [o.channels for op in lowered.ops for o in op.inputs if o.buffer == output.buffer]
    return tile.channels if all(n % tile.channels == 0 for n in (output.channels, *views)) else 0


def with_checks(size: int, unit: int) -> int:
    """Bytes at home of `size` bytes with a check after every unit."""
    return size + size // unit if unit else size


def input_tile_bytes(op: Op, index: int, tile: Tile, unit: int = 0) -> int:
    """SRAM for the largest rectangle of input `index` that any tile of the step reads, and for the checks while it is read."""
    operand, out = op.inputs[index], op.output
    rows = max(
        b - a
        for r in range(0, out.rows, tile.rows)
        for a, b in [op.window.rows(r, min(r + tile.rows, out.rows), operand.rows)]
    )
    cols = max(
        b - a
        for c in range(0, out.cols, tile.cols)
        for a, b in [op.window.cols(c, min(c + tile.cols, out.cols), operand.cols)]
    )
    data = rows * cols * operand.channels
    return data + (operand.channels // unit * cols * (rows if cols == operand.cols else 1) if unit else 0)


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of memory that is needed from step `first` to step `last`."""

    size: int
    first: int
    last: int


def lay_out(blocks: Sequence[Block], to: int = 4) -> tuple[list[int], int]:
    """Offsets (multiples of `to`) such that blocks alive at once do not overlap, and the bytes in all. Largest first, lowest gap."""
    order = sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, blocks[i].first))
    offsets = [0] * len(blocks)
    placed: list[int] = []
    total = 0
    for i in order:
        block = blocks[i]
        taken = sorted(
            (offsets[j], offsets[j] + align(blocks[j].size, to))
            for j in placed
            if blocks[j].first <= block.last and block.first <= blocks[j].last
        )
        at = 0
        for start, end in taken:
            if at + block.size <= start:
                break
            at = max(at, end)
        offsets[i] = at
        placed.append(i)
        total = max(total, at + align(block.size, to))
    return offsets, total


def nvm_homes(
    lowered: Lowered,
    resident: frozenset[int],
    units: Sequence[int],
    commits: Sequence[tuple[int, int]],
    block: int = 4,
    optional: bool = False,
) -> tuple[list[int | None], int]:
    """Home of each buffer in NVM (None when it needs none), and the bytes of NVM in all.

    A home is free again only once a commit no longer needs it: until that commit is complete, a power failure
    falls back to the one before. That is what makes re-execution harmless. Homes begin at multiples of `block`, the
    least that the memory writes at once, so that no write of one touches another. Where commits are optional, any of them
    may turn out to be the last one made, and no home is used twice.
    """
    positions = sorted(commits)
    needs: list[int] = []
    blocks: list[Block] = []
    for b, size in enumerate(lowered.buffer_bytes):
        committed = any(
            lowered.first[b] <= k <= lowered.last[b] and (k > lowered.first[b] or tile > 0) for k, tile in positions
        )
        if b in resident and not committed:
            continue
        if optional:
            release = len(lowered.ops) + 1
        elif committed:  # an older commit may need it until the next one is complete
            after = (k if tile == 0 else k + 1 for k, tile in positions if k > lowered.last[b])
            release = next(after, len(lowered.ops) + 1)
        else:  # made and used up between two commits
            release = lowered.last[b] + 1
        needs.append(b)
        blocks.append(Block(with_checks(size, units[b]), lowered.first[b], release - 1))
    offsets, total = lay_out(blocks, max(block, 4))
    homes: list[int | None] = [None] * len(lowered.buffer_bytes)
    for b, offset in zip(needs, offsets, strict=True):
        homes[b] = PROGRESS_BYTES + offset
    return homes, PROGRESS_BYTES + total
