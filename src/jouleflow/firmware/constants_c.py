"""The constants of each kernel as C tables, packed in the order that the kernel reads them (see kernels.h)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import ModelError
from jouleflow.graph import constants as prepared
from jouleflow.graph.fixed_point import scale_accumulator
from jouleflow.graph.model import Model
from jouleflow.plan.lowering import Op

C_TYPE = {"int8": "int8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int32_t", "float32": "float"}


@dataclass(frozen=True, slots=True)
class Constant:
    """A table of numbers in flash, a member of the one struct `data`: int8, int16, uint16, int32 or float32, flat."""

    name: str
    values: NDArray[Any]

    @property
    def stored(self) -> NDArray[Any]:
        """The values filled up with zeros to whole words, so that `data` has no gaps."""
        flat = self.values.ravel()
        per_word = 4 // flat.dtype.itemsize
        return np.concatenate([flat, np.zeros(-flat.size % per_word, flat.dtype)])

    @property
    def declaration(self) -> str:
        """The member of the struct."""
        return f"_Alignas(4) {C_TYPE[self.values.dtype.name]} {self.name}[{self.stored.size}];"

    @property
    def initialiser(self) -> str:
        """Its values in C."""
        if self.values.dtype == np.float32:
            values = [float(v).hex() + "f" for v in self.stored]  # hexadecimal literals are exact
        else:
            # INT32_MIN has no literal of type int; written as a difference
            values = ["(-2147483647-1)" if v == -(2**31) else str(v) for v in self.stored.tolist()]
        lines = [",".join(values[i : i + 32]) for i in range(0, len(values), 32)]
        return "{" + ",\n".join(lines) + "}"


@dataclass(frozen=True, slots=True)
class KernelTables:
    """The kernel's C name, the expression for its constants, their tables, and definitions that stand on them."""

    kernel: str
    constants: str
    data: list[Constant] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)


def _int8(name: str, values: NDArray[np.integer] | Iterable[int]) -> Constant:
    return Constant(name, np.asarray(values, np.int8))


def _int32(name: str, values: NDArray[np.integer] | Iterable[int]) -> Constant:
    return Constant(name, np.asarray(values, np.int32))


def _uint16(name: str, values: NDArray[np.integer] | Iterable[int]) -> Constant:
    return Constant(name, np.asarray(values, np.uint16))


def pack_pairs(weights: NDArray[np.int8], run_bytes: int) -> NDArray[np.int8]:
    """Weights [out, runs * run_bytes] as conv2d_s8 and dense_s8 read them: int8 [ceil(out/2), words, 2, 4], flat."""
    n_out = weights.shape[0]
    runs = weights.reshape(n_out, -1, run_bytes)
    padded = np.zeros((n_out + n_out % 2, runs.shape[1], -(-run_bytes // 4) * 4), np.int8)
    padded[:n_out, :, :run_bytes] = runs
    words = padded.reshape(padded.shape[0] // 2, 2, -1, 4)
    return np.ascontiguousarray(words.transpose(0, 2, 1, 3)).ravel()


def pack_depthwise(weights: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights [channels, taps] as depthwise_s8 reads them: per 4 channels, per 2 taps, 8 bytes."""
    channels, taps = weights.shape
    padded = np.zeros((-(-channels // 4) * 4, taps + taps % 2), np.int8)
    padded[:channels, :taps] = weights
    # [group, channel pair, channel, tap pair, tap] -> [group, tap pair, channel pair, tap, channel]
    parts = padded.reshape(-1, 2, 2, padded.shape[1] // 2, 2)
    return np.ascontiguousarray(parts.transpose(0, 3, 1, 4, 2)).ravel()


def folded(c: prepared.ConvConstants) -> prepared.ConvConstants:
    """The same layer with the zero points in bias_folded, so that the accumulator is bias + sum x * w - zero point of the
    weights * sum x."""
    if c.weight_zero_point == 0:
        return c
    taps = c.weights[0].size
    w_sum = c.weights.reshape(len(c.weights), -1).astype(np.int64).sum(1)
    bias = c.bias.astype(np.int64) - c.input_zero_point * w_sum + c.input_zero_point * c.weight_zero_point * taps
    return replace(c, bias_folded=bias.astype(np.int32))


def _reach(weights: NDArray[np.integer], bias: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Least and largest accumulator of each channel, over all int8 inputs."""
    w = weights.reshape(len(weights), -1).astype(np.int64)
    ends = np.stack([w * -128, w * 127])
    return bias + ends.min(0).sum(1), bias + ends.max(0).sum(1)


def with_plain_constants(c: prepared.ConvConstants) -> prepared.ConvConstants:
    """The same layer with its dead channels, whose output cannot change, written so that struct requant may be plain.

    Trained networks have channels with weights near zero and multipliers of odd sizes; they would hold up all others.
    """
    if c.weight_zero_point:
        return c  # their weights cannot be 0 without touching the sum of the patch
    low, high = _reach(c.weights, c.bias_folded)
    ends = [scale_accumulator(x, c.multiplier, c.shift) + c.output_zero_point for x in (low, high)]
    first, last = (np.clip(x, c.act_min, c.act_max) for x in ends)
    small = (low >= -(2**31)) & (high < 2**31) & (c.shift <= 0)  # where left shifts might wrap, leave it
    dead = (first == last) & (small | (low == high)) & (np.arange(len(first)) < c.n_halves_up)
    weights, bias = c.weights.copy(), c.bias_folded.copy()
    multiplier, shift = c.multiplier.copy(), c.shift.copy()
    weights[dead] = 0
    # 2 * bias * 2^30 / 2^32 = 2 * (output - zero point): what the shift by one and the zero point make the output of
    bias[dead] = 4 * (first[dead] - c.output_zero_point)
    multiplier[dead], shift[dead] = 2**30, -1
    return replace(c, weights=weights, bias_folded=bias, multiplier=multiplier, shift=shift)


def _is_plain(c: prepared.ConvConstants) -> bool:
    """Whether struct requant may be plain, see kernels.h."""
    low, high = _reach(c.weights.astype(np.int16) - c.weight_zero_point, c.bias_folded)
    return bool(
        max(-low.min(), high.max()) < 2**30
        and c.shift.max() <= -1
        and c.n_halves_up >= len(c.weights)
        and (c.act_min, c.act_max) == (-128, 127)
    )


def _requant(
    c: prepared.ConvConstants, bias: NDArray[np.int32], p: str, multiple: int, plain: bool
) -> tuple[list[Constant], str]:
    """Channels, filled up to a multiple of them, and the initialiser of struct requant."""
    channels = np.stack([bias, c.multiplier, -c.shift - 1 if plain else c.shift], axis=1).astype(np.int32)
    channels = np.concatenate([channels, np.zeros((-len(channels) % multiple, 3), np.int32)])
    text = (
        f"{{(const struct channel *)(const void *)data.{p}_q, {c.output_zero_point}, {c.act_min}, {c.act_max}, "
        f"{c.n_halves_up}, {int(plain)}}}"
    )
    return [_int32(f"{p}_q", channels)], text


def kernel_tables(model: Model, op: Op, variant: str, p: str) -> KernelTables:
    """Tables of one step; `p` begins every symbol.

    Raises ModelError for an operator without a kernel.
    """
    if op.kind == "capture_input":
        return KernelTables("capture_input", "0")
    c = prepared.layer_constants(model, model.layers[op.layer])
    if isinstance(c, prepared.ConvConstants):
        return _conv(op, c, variant, p)
    build = {
        prepared.AddConstants: _add,
        prepared.MulConstants: _mul,
        prepared.PoolConstants: _pool,
        prepared.MeanConstants: _mean,
        prepared.LookupConstants: _lookup,
        prepared.ConcatConstants: _concat,
        prepared.PadConstants: _pad,
        prepared.ResizeConstants: _resize,
        prepared.SoftmaxConstants: _softmax,
    }.get(type(c))
    if build is None:
        raise ModelError(f"no kernel for operator {op.kind}")
    return build(op, c, p)  # type: ignore[operator,no-any-return]


def _conv(op: Op, c: prepared.ConvConstants, variant: str, p: str) -> KernelTables:
    n_out = c.weights.shape[0]
    groups = op.inputs[0].channels // c.weights.shape[3]
    if (
        op.kind == "depthwise_conv2d"
        and n_out == op.inputs[0].channels
        and (variant == "fast" or c.weight_zero_point == 0)
    ):
        return _depthwise(op, folded(c), variant, p)
    if variant == "small" or groups > 1:
        data, requant = _requant(c, c.bias, p, 1, False)
        struct = (
            f"static const struct conv_small {p} = {{data.{p}_w, {requant}, {c.input_zero_point}, "
            f"{c.weight_zero_point}, {c.weights.shape[3]}, {n_out // groups}}};"
        )
        return KernelTables("conv2d_small_s8", f"&{p}", [*data, _int8(f"{p}_w", c.weights)], [struct])
    if op.kind == "dense":
        run, n_runs, rows = op.inputs[0].channels, 1, 1
    else:
        run, n_runs, rows = patch_runs(op)
    c = folded(c)
    better = with_plain_constants(c)
    plain = c.weight_zero_point == 0 and _is_plain(better)
    c = better if plain else c
    data, requant = _requant(c, c.bias_folded, p, 2, plain)
    weights = _int8(f"{p}_w", pack_pairs(c.weights.reshape(n_out, -1), run))
    struct = (
        f"static const struct conv {p} = {{data.{p}_w, {requant}, {n_runs}, {run}, {-(-run // 4) * 4}, {rows}, "
        f"{c.input_zero_point}, {c.weight_zero_point}}};"
    )
    return KernelTables("dense_s8" if op.kind == "dense" else "conv2d_s8", f"&{p}", [*data, weights], [struct])


def patch_runs(op: Op) -> tuple[int, int, int]:
    """Of a convolution's patch: bytes of a run, number of runs, whether a run is a kernel row."""
    depth, (kernel_h, kernel_w) = op.inputs[0].channels, op.window.kernel
    return (kernel_w * depth, kernel_h, 1) if op.window.dilation[1] == 1 else (depth, kernel_h * kernel_w, 0)


def _depthwise(op: Op, c: prepared.ConvConstants, variant: str, p: str) -> KernelTables:
    n_out = c.weights.shape[0]
    better = with_plain_constants(c)
    if variant == "fast" and _is_plain(better):
        c = better
    data, requant = _requant(c, c.bias_folded, p, 4, variant == "fast" and _is_plain(c))
    if variant == "fast":
        rows = c.weights.reshape(n_out, 3, 3).astype(np.int16) - np.int16(c.weight_zero_point)
        pairs = rows[:, :, [0, 1, 1, 2]]
        struct = (
            f"static const struct depthwise3 {p} = {{(const int16_t *)data.{p}_w, {requant}, {c.input_zero_point}}};"
        )
        return KernelTables("depthwise3_s8", f"&{p}", [*data, Constant(f"{p}_w", pairs)], [struct])
    data += [
        _int8(f"{p}_w", pack_depthwise(c.weights.reshape(n_out, -1))),
        _int8(f"{p}_z", [c.input_zero_point] * (op.inputs[0].channels + 3)),
    ]
    struct = f"static const struct depthwise {p} = {{data.{p}_w, data.{p}_z, {requant}}};"
    return KernelTables("depthwise_s8", f"&{p}", data, [struct])


def _other_operand(op: Op, constant: NDArray[np.int8] | None, p: str) -> tuple[list[Constant], str]:
    """A constant second operand and its strides; strides are 0 along sides that it is broadcast over."""
    if constant is None:
        return [], "0, 0, 0, 0"
    shape = (1,) * (3 - min(constant.ndim, 3)) + constant.shape[-3:]
    rows, cols, channels = shape
    strides = (0 if rows == 1 else cols * channels, 0 if cols == 1 else channels, 0 if channels == 1 else 1)
    return [_int8(f"{p}_c", constant)], f"data.{p}_c, {strides[0]}, {strides[1]}, {strides[2]}"


def _add(op: Op, c: prepared.AddConstants, p: str) -> KernelTables:
    other, text = _other_operand(op, c.constant, p)
    struct = (
        f"static const struct add {p} = {{{{data.{p}_t0, data.{p}_t1}}, {text}, {c.multiplier}, {c.shift}, "
        f"{c.output_zero_point}, {c.act_min}, {c.act_max}}};"
    )
    return KernelTables(
        "add_s8", f"&{p}", [*other, _int32(f"{p}_t0", c.table_a), _int32(f"{p}_t1", c.table_b)], [struct]
    )


def _mul(op: Op, c: prepared.MulConstants, p: str) -> KernelTables:
    other, text = _other_operand(op, c.constant, p)
    struct = (
        f"static const struct mul {p} = {{{{{c.zero_point_a}, {c.zero_point_b}}}, {text}, {c.multiplier}, {c.shift}, "
        f"{c.output_zero_point}, {c.act_min}, {c.act_max}}};"
    )
    return KernelTables("mul_s8", f"&{p}", other, [struct])


def _pool(op: Op, c: prepared.PoolConstants, p: str) -> KernelTables:
    struct = f"static const struct pool {p} = {{{c.act_min}, {c.act_max}, {int(c.halves_up)}}};"
    return KernelTables(f"{op.kind}_s8", f"&{p}", [], [struct])


def _mean(op: Op, c: prepared.MeanConstants, p: str) -> KernelTables:
    zero_sum = c.input_zero_point * op.inputs[0].rows * op.inputs[0].cols
    struct = f"static const struct mean {p} = {{{zero_sum}, {c.multiplier}, {c.shift}, {c.output_zero_point}}};"
    return KernelTables("mean_s8", f"&{p}", [], [struct])


def _lookup(op: Op, c: prepared.LookupConstants, p: str) -> KernelTables:
    struct = f"static const struct lookup {p} = {{data.{p}_t, data.{p}_l, {c.n_first}}};"
    return KernelTables("lookup_s8", f"&{p}", [_int8(f"{p}_t", c.table), _int8(f"{p}_l", c.last_table)], [struct])


def _concat(op: Op, c: prepared.ConcatConstants, p: str) -> KernelTables:
    data, names, starts, at = [], [], [], 0
    for i, (operand, table) in enumerate(zip(op.inputs, c.tables, strict=True)):
        names.append("0" if table is None else f"data.{p}_t{i}")
        if table is not None:
            data.append(_int8(f"{p}_t{i}", table))
        starts.append(at)
        at += (operand.rows, operand.cols, operand.channels)[c.axis]
    data.append(_uint16(f"{p}_s", starts))
    definitions = [
        f"static const int8_t *const {p}_t[] = {{{', '.join(names)}}};",
        f"static const struct concat {p} = {{{p}_t, data.{p}_s, {c.axis}}};",
    ]
    return KernelTables("concat_s8", f"&{p}", data, definitions)


def _pad(op: Op, c: prepared.PadConstants, p: str) -> KernelTables:
    return KernelTables("pad_s8", f"&{p}", [], [f"static const struct pad {p} = {{{c.value}}};"])


def _resize(op: Op, c: prepared.ResizeConstants, p: str) -> KernelTables:
    struct = f"static const struct resize {p} = {{data.{p}_r, data.{p}_q}};"
    return KernelTables("resize_nearest_s8", f"&{p}", [_uint16(f"{p}_r", c.rows), _uint16(f"{p}_q", c.cols)], [struct])


def _softmax(op: Op, c: prepared.SoftmaxConstants, p: str) -> KernelTables:
    scale = float(np.float32(c.output_scale)).hex()
    struct = f"static const struct softmax {p} = {{data.{p}_e, {scale}f, {c.output_zero_point}}};"
    return KernelTables("softmax_s8", f"&{p}", [Constant(f"{p}_e", c.table)], [struct])
