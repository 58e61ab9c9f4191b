"""First guess of a step's cycles, before any emulation: enough to choose tile shapes, refined by `Profile` afterwards.

A step costs its work, whatever its tiles, and what cutting it adds: a call a tile, a pixel left over by kernels that take two at
a time, rows that depthwise kernels load once more. The coefficients are cycles of our kernels on a Cortex-M4, fitted
to emulated runs of the MLPerf Tiny models (our measurement, zero wait states). `benchmarks/step_costs.py` compares: the
median error of the fast kernels is 1 %, the worst of a convolution 25 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jouleflow.plan.lowering import Op, tiles_of
from jouleflow.plan.memory import DEPTHWISE3_ROWS
from jouleflow.plan.plan import Step

PER_TILE_CYCLES = 330.0
CONV_PER_MAC, CONV_PER_OUTPUT = 1.466, 31.1
CONV_PER_WINDOW_ROW, CONV_PER_GATHERED = 171.0, 2.24  # of windows larger than a pixel: rows and elements copied
CONV_PER_LONE_MAC = 0.62  # of a pixel that is computed without a partner
DENSE_PER_MAC, DENSE_PER_OUTPUT = 1.986, 34.9
DEPTHWISE_PER_OUTPUT, DEPTHWISE_PER_ROW = 28.5, 138.0
DEPTHWISE_PER_STRIP, DEPTHWISE_PER_LOADED = 751.0, 25.6  # a strip: up to six rows of four channels
SMALL_PER_MAC, SMALL_PER_OUTPUT = 7.0, 14.0  # kernels without scratch memory
DEPTHWISE_SMALL_PER_MAC, DEPTHWISE_SMALL_PER_PIXEL = 8.2, 470.0
POOL_PER_OUTPUT, POOL_PER_ELEMENT = 110.0, 8.7
PER_OUTPUT = {"capture_input": 0.0, "add": 57.0, "mul": 65.0, "softmax": 36.0, "concat": 86.0}
OTHER_PER_OUTPUT = 30.0

# Work cycles of whole steps by kernel variant, where an emulated run of an earlier draft has told them.
Measured = Mapping[tuple[Op, str], float]


def step_cycles(op: Op, step: Step, measured: Measured) -> float:
    """Estimated cycles of one step, without memory transfers; `measured` goes before the guess."""
    work = measured.get((op, step.variant))
    return (_work_cycles(op, step.variant) if work is None else work) + cut_cycles(op, step)


def _work_cycles(op: Op, variant: str) -> float:
    n_outputs = op.output.size_bytes
    if op.kind == "depthwise_conv2d" and variant == "small":
        n_pixels = op.output.rows * op.output.cols
        return DEPTHWISE_SMALL_PER_MAC * op.macs + SMALL_PER_OUTPUT * n_outputs + DEPTHWISE_SMALL_PER_PIXEL * n_pixels
    if op.kind in ("conv2d", "dense") and variant == "small":
        return SMALL_PER_MAC * op.macs + SMALL_PER_OUTPUT * n_outputs
    if op.kind == "conv2d":
        (kernel_h, kernel_w), n_pixels = op.window.kernel, op.output.rows * op.output.cols
        gather = CONV_PER_WINDOW_ROW * n_pixels * kernel_h + CONV_PER_GATHERED * op.macs / op.output.channels
        return CONV_PER_MAC * op.macs + CONV_PER_OUTPUT * n_outputs + (gather if kernel_h * kernel_w > 1 else 0.0)
    if op.kind == "dense":
        return DENSE_PER_MAC * op.macs + DENSE_PER_OUTPUT * n_outputs
    if op.kind == "depthwise_conv2d":
        return DEPTHWISE_PER_OUTPUT * n_outputs + DEPTHWISE_PER_ROW * op.output.rows * op.output.channels
    if op.kind in ("avg_pool", "max_pool", "mean"):
        return (POOL_PER_OUTPUT + POOL_PER_ELEMENT * op.window.kernel[0] * op.window.kernel[1]) * n_outputs
    return PER_OUTPUT.get(op.kind, OTHER_PER_OUTPUT) * n_outputs


def cut_cycles(op: Op, step: Step) -> float:
    """What the tiles of a step add to its work."""
    tile = step.tile
    n_rows, n_cols, n_channels = tiles_of(op, tile.rows, tile.cols, tile.channels)
    cycles = PER_TILE_CYCLES * n_rows * n_cols * n_channels
    if step.variant != "fast":
        return cycles
    if op.kind == "conv2d":
        n_lone = sum(n for rows, cols, n in _pieces(op, step) if rows * cols % 2)
        cycles += CONV_PER_LONE_MAC * n_lone * op.macs / (op.output.rows * op.output.cols)
    elif op.kind == "depthwise_conv2d":
        stride_h, stride_w = op.window.stride
        strips = loaded = 0
        for rows, cols, n in _pieces(op, step):
            whole, rest = divmod(rows, DEPTHWISE3_ROWS)
            for n_strips, height in ((whole, DEPTHWISE3_ROWS), (1, rest)):
                if height:
                    strips += n * n_strips
                    loaded += n * n_strips * ((height - 1) * stride_h + 3) * (cols * stride_w + 2)
        quads = n_channels * -(-min(tile.channels, op.output.channels) // 4)
        cycles += quads * (DEPTHWISE_PER_STRIP * strips + DEPTHWISE_PER_LOADED * loaded)
    return cycles


def _pieces(op: Op, step: Step) -> Iterator[tuple[int, int, int]]:
    """(rows, columns, how many) of the rectangles that the output is cut into."""
    o, tile = op.output, step.tile
    for rows, n_r in ((tile.rows, o.rows // tile.rows), (o.rows % tile.rows, 1)):
        for cols, n_c in ((tile.cols, o.cols // tile.cols), (o.cols % tile.cols, 1)):
            if rows and cols and n_r and n_c:
                yield rows, cols, n_r * n_c
