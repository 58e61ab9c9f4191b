"""First guess of a step's cycles, before any emulation: enough to choose tile shapes, refined by `Profile` afterwards.

The coefficients are cycles of our kernels on a Cortex-M4, fitted to emulated runs (our measurement, zero wait states).
"""

from __future__ import annotations

from collections.abc import Mapping

from jouleflow.plan.lowering import Op

# cycles = per_tile * tiles + per_mac * macs + per_output * outputs
PER_TILE_CYCLES = 150.0
PER_MAC_CYCLES = {"conv2d": 1.6, "dense": 2.0, "depthwise_conv2d": 6.5}
PER_MAC_SMALL_CYCLES = 7.0
PER_OUTPUT_CYCLES = {
    "capture_input": 0.0,
    "conv2d": 14.0,
    "dense": 14.0,
    "depthwise_conv2d": 14.0,
    "add": 25.0,
    "mul": 25.0,
    "softmax": 60.0,
    "avg_pool": 30.0,
    "max_pool": 30.0,
    "mean": 30.0,
    "concat": 25.0,
}
OTHER_OUTPUT_CYCLES = 12.0


# Cycles of whole steps by kernel variant, where an emulated run of an earlier draft has told them.
Measured = Mapping[tuple[Op, str], float]


def step_cycles(op: Op, variant: str, n_tiles: int, measured: Measured) -> float:
    """Estimated cycles of one step, without memory transfers; `measured` goes before the guess."""
    if (op, variant) in measured:
        return measured[op, variant] + PER_TILE_CYCLES * n_tiles
    per_mac = PER_MAC_SMALL_CYCLES if variant == "small" else PER_MAC_CYCLES.get(op.kind, 0.0)
    per_output = PER_OUTPUT_CYCLES.get(op.kind, OTHER_OUTPUT_CYCLES)
    window = op.window.kernel[0] * op.window.kernel[1] if op.kind.endswith("pool") else 1
    return PER_TILE_CYCLES * n_tiles + per_mac * op.macs + per_output * op.output.size_bytes * float(window**0.8)
