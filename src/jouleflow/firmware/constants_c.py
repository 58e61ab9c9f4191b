"""The constants of each kernel as C tables, packed in the order that the kernel reads them (see kernels.h)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import ModelError
from jouleflow.graph import constants as prepared
from jouleflow.graph.model import Model
from jouleflow.plan.lowering import Op

C_TYPE = {"int8": "int8_t", "uint16": "uint16_t", "int32": "int32_t", "float32": "float"}


@dataclass(frozen=True, slots=True)
class Constant:
    """A table of numbers in flash, a member of the one struct `data`: int8, uint16, int32 or float32, flat."""

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


def _padded(values: NDArray[np.int32], to: int) -> NDArray[np.int32]:
    out = np.zeros(-(-values.size // to) * to, np.int32)
    out[: values.size] = values
    return out


def _requant(c: prepared.ConvConstants, p: str) -> tuple[list[Constant], str]:
    data = [_int32(f"{p}_mult", c.multiplier), _int8(f"{p}_shift", c.shift)]
    text = f"{{data.{p}_mult, data.{p}_shift, {c.output_zero_point}, {c.act_min}, {c.act_max}, {c.n_halves_up}}}"
    return data, text


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
    data, requant = _requant(c, p)
    n_out = c.weights.shape[0]
    depth = op.inputs[0].channels
    plain = c.weight_zero_point == 0
    groups = depth // c.weights.shape[3]
    if op.kind == "depthwise_conv2d" and n_out == depth and plain:
        data += [
            _int8(f"{p}_w", pack_depthwise(c.weights.reshape(n_out, -1))),
            _int32(f"{p}_b", _padded(c.bias_folded, 4)),
            _int8(f"{p}_z", [c.input_zero_point] * (depth + 3)),
        ]
        struct = f"static const struct depthwise {p} = {{data.{p}_w, data.{p}_b, data.{p}_z, {requant}}};"
        return KernelTables("depthwise_s8", f"&{p}", data, [struct])
    if variant == "small" or groups > 1 or not plain:
        data += [_int8(f"{p}_w", c.weights), _int32(f"{p}_b", c.bias)]
        struct = (
            f"static const struct conv_small {p} = {{data.{p}_w, data.{p}_b, {requant}, {c.input_zero_point}, "
            f"{c.weight_zero_point}, {c.weights.shape[3]}, {n_out // groups}}};"
        )
        return KernelTables("conv2d_small_s8", f"&{p}", data, [struct])
    if op.kind == "dense":
        run, n_runs, rows = depth, 1, 1
    else:
        (kernel_h, kernel_w), rows = op.window.kernel, int(op.window.dilation[1] == 1)
        run, n_runs = (kernel_w * depth, kernel_h) if rows else (depth, kernel_h * kernel_w)
    data += [
        _int8(f"{p}_w", pack_pairs(c.weights.reshape(n_out, -1), run)),
        _int32(f"{p}_b", _padded(c.bias_folded, 2)),
    ]
    struct = (
        f"static const struct conv {p} = {{data.{p}_w, data.{p}_b, {requant}, {n_runs}, {run}, {-(-run // 4) * 4}, {rows}, "
        f"{c.input_zero_point}}};"
    )
    return KernelTables("dense_s8" if op.kind == "dense" else "conv2d_s8", f"&{p}", data, [struct])


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
