"""What each step needs in SRAM beside resident buffers, and how buffers are laid out in SRAM and in NVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jouleflow.plan.lowering import Lowered, Op
from jouleflow.plan.plan import Tile

OVERREAD_BYTES = 3  # kernels may read so many bytes past a row (kernels.h)
PROGRESS_BYTES = 64  # two slots at the start of NVM (progress.h)
STACK_BYTES = 640  # measured peak is below 500 on every kernel; the emulator reports the real one


def static_bytes(n_buffers: int) -> int:
    """SRAM of the engine's statics (engine.c: the job, what is staged, the watermarks)."""
    return 336 + 4 * n_buffers


def align(size: int, to: int = 4) -> int:
    """The least multiple of `to` that is at least `size`."""
    return -(-size // to) * to


def scratch_bytes(op: Op, variant: str) -> int:
    """Scratch memory of a step's kernel."""
    if variant == "small":
        return 0
    (kernel_h, kernel_w), dilation_w = op.window.kernel, op.window.dilation[1]
    if op.kind == "conv2d":
        depth = op.inputs[0].channels
        run, n_runs = (kernel_w * depth, kernel_h) if dilation_w == 1 else (depth, kernel_h * kernel_w)
        return 2 * 2 * align(run) * n_runs
    if op.kind == "dense":
        return 2 * align(op.inputs[0].size_bytes)
    if op.kind == "depthwise_conv2d":
        return 4 * align(kernel_h * kernel_w, 2)
    return 0


def input_tile_bytes(op: Op, index: int, tile: Tile) -> int:
    """The largest rectangle of input `index` that any tile of the step reads."""
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
    return rows * cols * operand.channels


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of memory that is needed from step `first` to step `last`."""

    size: int
    first: int
    last: int


def lay_out(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """Offsets such that blocks alive at once do not overlap, and the bytes in all. Largest first, lowest gap."""
    order = sorted(range(len(blocks)), key=lambda i: (-blocks[i].size, blocks[i].first))
    offsets = [0] * len(blocks)
    placed: list[int] = []
    total = 0
    for i in order:
        block = blocks[i]
        taken = sorted(
            (offsets[j], offsets[j] + align(blocks[j].size))
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
        total = max(total, at + align(block.size))
    return offsets, total


def nvm_homes(
    lowered: Lowered, resident: frozenset[int], commits: Sequence[tuple[int, int]]
) -> tuple[list[int | None], int]:
    """Home of each buffer in NVM (None when it needs none), and the bytes of NVM in all.

    A home is free again only once a commit no longer needs it: until that commit is complete, a power failure
    falls back to the one before. That is what makes re-execution harmless.
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
        release = next(
            (k if tile == 0 else k + 1 for k, tile in positions if k > lowered.last[b]), len(lowered.ops) + 1
        )
        needs.append(b)
        blocks.append(Block(size, lowered.first[b], release - 1))
    offsets, total = lay_out(blocks)
    homes: list[int | None] = [None] * len(lowered.buffer_bytes)
    for b, offset in zip(needs, offsets, strict=True):
        homes[b] = PROGRESS_BYTES + offset
    return homes, PROGRESS_BYTES + total
