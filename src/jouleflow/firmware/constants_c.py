"""The constants of each kernel as C tables, packed in the order that the kernel reads them (see kernels.h)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import ModelError
from jouleflow.graph import constants as prepared
from jouleflow.graph.model import Model
from jouleflow.plan.lowering import Op


@dataclass(frozen=True, slots=True)
class CTable:
    """A const array of integers."""

    type: str
    name: str
    values: Sequence[int]


@dataclass(frozen=True, slots=True)
class KernelTables:
    """The kernel's C name, the expression for its constants, and the definitions that come before."""

    kernel: str
    constants: str
    definitions: list[str] = field(default_factory=list)


def array(table: CTable) -> str:
    """The C definition of a table."""
    align = "__attribute__((aligned(4))) " if table.type == "int8_t" else ""
    values = [str(int(v)) for v in table.values]
    lines = [",".join(values[i : i + 32]) for i in range(0, len(values), 32)]
    return f"{align}static const {table.type} {table.name}[] = {{\n" + ",\n".join(lines) + "\n};"


def _int8(name: str, values: NDArray[np.integer] | Iterable[int]) -> str:
    return array(CTable("int8_t", name, np.asarray(values).ravel().tolist()))


def _int32(name: str, values: NDArray[np.integer] | Iterable[int]) -> str:
    # INT32_MIN has no literal of type int; written as a difference
    numbers = [int(v) for v in np.asarray(values).ravel()]
    text = ",".join("(-2147483647-1)" if v == -(2**31) else str(v) for v in numbers)
    return f"static const int32_t {name}[] = {{{text}}};"


def _float32(name: str, values: NDArray[np.float32]) -> str:
    # hexadecimal literals are exact
    return f"static const float {name}[] = {{{','.join(float(v).hex() + 'f' for v in values)}}};"


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


def _requant(c: prepared.ConvConstants, p: str) -> tuple[list[str], str]:
    definitions = [_int32(f"{p}_mult", c.multiplier), _int8(f"{p}_shift", c.shift)]
    return definitions, f"{{{p}_mult, {p}_shift, {c.output_zero_point}, {c.act_min}, {c.act_max}, {c.n_halves_up}}}"


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
    definitions, requant = _requant(c, p)
    n_out = c.weights.shape[0]
    depth = op.inputs[0].channels
    plain = c.weight_zero_point == 0
    groups = depth // c.weights.shape[3]
    if op.kind == "depthwise_conv2d" and n_out == depth and plain:
        definitions += [
            _int8(f"{p}_w", pack_depthwise(c.weights.reshape(n_out, -1))),
            _int32(f"{p}_b", _padded(c.bias_folded, 4)),
            _int8(f"{p}_z", [c.input_zero_point] * (depth + 3)),
            f"static const struct depthwise {p} = {{{p}_w, {p}_b, {p}_z, {requant}}};",
        ]
        return KernelTables("depthwise_s8", f"&{p}", definitions)
    if variant == "small" or groups > 1 or not plain:
        definitions += [
            _int8(f"{p}_w", c.weights),
            _int32(f"{p}_b", c.bias),
            f"static const struct conv_small {p} = {{{p}_w, {p}_b, {requant}, {c.input_zero_point}, "
            f"{c.weight_zero_point}, {c.weights.shape[3]}, {n_out // groups}}};",
        ]
        return KernelTables("conv2d_small_s8", f"&{p}", definitions)
    if op.kind == "dense":
        run, n_runs, rows = depth, 1, 1
    else:
        (kernel_h, kernel_w), rows = op.window.kernel, int(op.window.dilation[1] == 1)
        run, n_runs = (kernel_w * depth, kernel_h) if rows else (depth, kernel_h * kernel_w)
    definitions += [
        _int8(f"{p}_w", pack_pairs(c.weights.reshape(n_out, -1), run)),
        _int32(f"{p}_b", _padded(c.bias_folded, 2)),
        f"static const struct conv {p} = {{{p}_w, {p}_b, {requant}, {n_runs}, {run}, {-(-run // 4) * 4}, {rows}, "
        f"{c.input_zero_point}}};",
    ]
    return KernelTables("dense_s8" if op.kind == "dense" else "conv2d_s8", f"&{p}", definitions)


def _other_operand(op: Op, constant: NDArray[np.int8] | None, p: str) -> tuple[list[str], str]:
    """A constant second operand and its strides; strides are 0 along sides that it is broadcast over."""
    if constant is None:
        return [], "0, 0, 0, 0"
    shape = (1,) * (3 - min(constant.ndim, 3)) + constant.shape[-3:]
    rows, cols, channels = shape
    strides = (0 if rows == 1 else cols * channels, 0 if cols == 1 else channels, 0 if channels == 1 else 1)
    return [_int8(f"{p}_c", constant)], f"{p}_c, {strides[0]}, {strides[1]}, {strides[2]}"


def _add(op: Op, c: prepared.AddConstants, p: str) -> KernelTables:
    other, text = _other_operand(op, c.constant, p)
    definitions = [*other, _int32(f"{p}_t0", c.table_a), _int32(f"{p}_t1", c.table_b)]
    definitions.append(
        f"static const struct add {p} = {{{{{p}_t0, {p}_t1}}, {text}, {c.multiplier}, {c.shift}, "
        f"{c.output_zero_point}, {c.act_min}, {c.act_max}}};"
    )
    return KernelTables("add_s8", f"&{p}", definitions)


def _mul(op: Op, c: prepared.MulConstants, p: str) -> KernelTables:
    other, text = _other_operand(op, c.constant, p)
    definition = (
        f"static const struct mul {p} = {{{{{c.zero_point_a}, {c.zero_point_b}}}, {text}, {c.multiplier}, {c.shift}, "
        f"{c.output_zero_point}, {c.act_min}, {c.act_max}}};"
    )
    return KernelTables("mul_s8", f"&{p}", [*other, definition])


def _pool(op: Op, c: prepared.PoolConstants, p: str) -> KernelTables:
    return KernelTables(
        f"{op.kind}_s8", f"&{p}", [f"static const struct pool {p} = {{{c.act_min}, {c.act_max}, {int(c.halves_up)}}};"]
    )


def _mean(op: Op, c: prepared.MeanConstants, p: str) -> KernelTables:
    zero_sum = c.input_zero_point * op.inputs[0].rows * op.inputs[0].cols
    text = f"static const struct mean {p} = {{{zero_sum}, {c.multiplier}, {c.shift}, {c.output_zero_point}}};"
    return KernelTables("mean_s8", f"&{p}", [text])


def _lookup(op: Op, c: prepared.LookupConstants, p: str) -> KernelTables:
    return KernelTables(
        "lookup_s8",
        f"&{p}",
        [
            _int8(f"{p}_t", c.table),
            _int8(f"{p}_l", c.last_table),
            f"static const struct lookup {p} = {{{p}_t, {p}_l, {c.n_first}}};",
        ],
    )


def _concat(op: Op, c: prepared.ConcatConstants, p: str) -> KernelTables:
    definitions, names, starts, at = [], [], [], 0
    for i, (operand, table) in enumerate(zip(op.inputs, c.tables, strict=True)):
        names.append("0" if table is None else f"{p}_t{i}")
        if table is not None:
            definitions.append(_int8(f"{p}_t{i}", table))
        starts.append(at)
        at += (operand.rows, operand.cols, operand.channels)[c.axis]
    definitions += [
        f"static const int8_t *const {p}_t[] = {{{', '.join(names)}}};",
        array(CTable("uint16_t", f"{p}_s", starts)),
        f"static const struct concat {p} = {{{p}_t, {p}_s, {c.axis}}};",
    ]
    return KernelTables("concat_s8", f"&{p}", definitions)


def _pad(op: Op, c: prepared.PadConstants, p: str) -> KernelTables:
    return KernelTables("pad_s8", f"&{p}", [f"static const struct pad {p} = {{{c.value}}};"])


def _resize(op: Op, c: prepared.ResizeConstants, p: str) -> KernelTables:
    definitions = [
        array(CTable("uint16_t", f"{p}_r", c.rows.tolist())),
        array(CTable("uint16_t", f"{p}_q", c.cols.tolist())),
        f"static const struct resize {p} = {{{p}_r, {p}_q}};",
    ]
    return KernelTables("resize_nearest_s8", f"&{p}", definitions)


def _softmax(op: Op, c: prepared.SoftmaxConstants, p: str) -> KernelTables:
    definitions = [
        _float32(f"{p}_e", c.table),
        f"static const struct softmax {p} = {{{p}_e, {float(np.float32(c.output_scale)).hex()}f, {c.output_zero_point}}};",
    ]
    return KernelTables("softmax_s8", f"&{p}", definitions)
