"""What each integer kernel needs, prepared from the model: the one source for the NumPy reference and the firmware.

Real scales become Q31 multipliers here, zero points are folded into biases, functions of one int8 become tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import ModelError
from jouleflow.graph.fixed_point import quantize_multiplier, scale_accumulator, scale_int32
from jouleflow.graph.model import (
    Concat,
    Conv2D,
    Dense,
    Elementwise,
    Layer,
    Logistic,
    Mean,
    Model,
    Pad,
    Pool2D,
    Quantisation,
    Requantize,
    ResizeNearest,
    Softmax,
)

ADD_LEFT_SHIFT = 20  # TFLite's int8 add computes with 20 more bits
ALL_INT8 = np.arange(-128, 128, dtype=np.int64)

Scale = Callable[[NDArray[np.integer], int, int], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class ConvConstants:
    """Convolution and dense. weights int8 [out, kernel_h, kernel_w, in / groups]; per output channel: bias, multiplier,
    shift. bias_folded has the input's zero point in it: sum x * w + bias_folded, for weight_zero_point 0.
    The right shift rounds halves up in the first n_halves_up channels, away from zero in the others."""

    weights: NDArray[np.int8]
    weight_zero_point: int
    bias: NDArray[np.int32]
    bias_folded: NDArray[np.int32]
    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    input_zero_point: int
    output_zero_point: int
    act_min: int
    act_max: int
    n_halves_up: int


@dataclass(frozen=True, slots=True)
class AddConstants:
    """table_a[x + 128] and table_b[y + 128] on a common scale (int32); their sum is scaled to the output.
    constant: the second operand when it is not computed."""

    table_a: NDArray[np.int32]
    table_b: NDArray[np.int32]
    constant: NDArray[np.int8] | None
    multiplier: int
    shift: int
    output_zero_point: int
    act_min: int
    act_max: int


@dataclass(frozen=True, slots=True)
class MulConstants:
    """(x - zero_point_a) * (y - zero_point_b), scaled to the output."""

    zero_point_a: int
    zero_point_b: int
    constant: NDArray[np.int8] | None
    multiplier: int
    shift: int
    output_zero_point: int
    act_min: int
    act_max: int


@dataclass(frozen=True, slots=True)
class PoolConstants:
    """Average and maximum pooling keep scale and zero point. halves_up: see Pool2D."""

    act_min: int
    act_max: int
    halves_up: bool


@dataclass(frozen=True, slots=True)
class MeanConstants:
    """(sum - n * input_zero_point) scaled by 1 / n and the scales at once."""

    input_zero_point: int
    multiplier: int
    shift: int
    output_zero_point: int


@dataclass(frozen=True, slots=True)
class LookupConstants:
    """table[x + 128] int8: requantize, relu, relu6, logistic. last_table serves the elements from n_first on, in NHWC order."""

    table: NDArray[np.int8]
    last_table: NDArray[np.int8]
    n_first: int


@dataclass(frozen=True, slots=True)
class ConcatConstants:
    """Per input the table that requantises it, None when it is taken as it is; axis 0 rows, 1 columns, 2 channels."""

    tables: tuple[NDArray[np.int8] | None, ...]
    axis: int


@dataclass(frozen=True, slots=True)
class PadConstants:
    value: int


@dataclass(frozen=True, slots=True)
class ResizeConstants:
    """Source row of each output row, source column of each output column."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SoftmaxConstants:
    """float32 table: exp(-beta * input scale * (255 - k)) at k."""

    table: NDArray[np.float32]
    output_scale: np.float32
    output_zero_point: int


Constants = (
    ConvConstants
    | AddConstants
    | MulConstants
    | PoolConstants
    | MeanConstants
    | LookupConstants
    | ConcatConstants
    | PadConstants
    | ResizeConstants
    | SoftmaxConstants
)


def quantisation_of(model: Model, tensor: int) -> Quantisation:
    """The quantisation of a tensor.

    Raises ModelError when it has none.
    """
    found = model.tensors[tensor].quantisation
    if found is None:
        raise ModelError(f"tensor {model.tensors[tensor].name!r} has no quantisation: quantise the model first")
    return found


def _scale_zero(model: Model, tensor: int) -> tuple[float, int]:
    q = quantisation_of(model, tensor)
    return float(q.scale.flat[0]), int(q.zero_point.flat[0])


def layer_constants(model: Model, layer: Layer) -> Constants:
    """The prepared constants of a layer.

    Raises ModelError for an operator without integer semantics.
    """
    a = layer.attributes
    if isinstance(a, Conv2D | Dense):
        return _conv(model, layer, a)
    if isinstance(a, Elementwise):
        return _add(model, layer, a) if layer.op == "add" else _mul(model, layer, a)
    if isinstance(a, Pool2D):
        return PoolConstants(a.act_min, a.act_max, a.halves_up)
    if isinstance(a, Mean):
        return _mean(model, layer)
    if isinstance(a, Requantize):
        source, target = quantisation_of(model, layer.inputs[0]), quantisation_of(model, layer.outputs[0])
        n = model.tensors[layer.outputs[0]].n_elements
        return LookupConstants(
            requantize_table(source, target, a.act_min, a.act_max, scale_accumulator),
            requantize_table(source, target, a.act_min, a.act_max, scale_int32),
            n - n % 16,  # LiteRT takes elements by sixteens, and rounds those that are left over another way
        )
    if isinstance(a, Logistic):
        source, target = quantisation_of(model, layer.inputs[0]), quantisation_of(model, layer.outputs[0])
        table = logistic_table(source, target)
        return LookupConstants(table, table, 0)
    if isinstance(a, Concat):
        return _concat(model, layer, a)
    if isinstance(a, Pad):
        return PadConstants(a.value)
    if isinstance(a, ResizeNearest):
        return _resize(model, layer, a)
    if isinstance(a, Softmax):
        scale, _ = _scale_zero(model, layer.inputs[0])
        out_scale, out_zero = _scale_zero(model, layer.outputs[0])
        return SoftmaxConstants(softmax_table(scale, a.beta), np.float32(out_scale), out_zero)
    raise ModelError(f"layer {layer.name!r}: operator {layer.op!r} has no integer semantics")


def _conv(model: Model, layer: Layer, a: Conv2D | Dense) -> ConvConstants:
    x, w, b = layer.inputs[:3]
    weights = np.asarray(model.tensors[w].data, np.int8)
    bias = np.asarray(model.tensors[b].data, np.int32).ravel()
    in_scale, in_zero = _scale_zero(model, x)
    out_scale, out_zero = _scale_zero(model, layer.outputs[0])
    w_quant = quantisation_of(model, w)
    n_out = weights.shape[0]
    w_zero = int(w_quant.zero_point.flat[0])
    w_scale = np.broadcast_to(w_quant.scale.astype(np.float64).ravel(), (n_out,))
    pairs = [quantize_multiplier(in_scale * float(s) / out_scale) for s in w_scale]
    sums = (weights.astype(np.int64) - w_zero).reshape(n_out, -1).sum(axis=1)
    folded = (bias.astype(np.int64) - in_zero * sums) & 0xFFFFFFFF
    if weights.ndim == 2:
        weights = weights[:, None, None, :]
    return ConvConstants(
        weights,
        w_zero,
        bias,
        folded.astype(np.uint32).view(np.int32),
        np.array([m for m, _ in pairs], np.int32),
        np.array([s for _, s in pairs], np.int32),
        in_zero,
        out_zero,
        a.act_min,
        a.act_max,
        # LiteRT's depthwise code takes channels by eights, and rounds those that are left over another way
        n_out - n_out % 8 if layer.op == "depthwise_conv2d" else n_out,
    )


def _operands(model: Model, layer: Layer) -> tuple[int, int, NDArray[np.int8] | None]:
    """The two operands, computed ones first, and the data of the second when it is constant."""
    first, second = layer.inputs
    if model.tensors[first].constant:
        first, second = second, first
    data = model.tensors[second].data
    return first, second, None if data is None else np.asarray(data, np.int8)


def _add(model: Model, layer: Layer, a: Elementwise) -> AddConstants:
    first, second, constant = _operands(model, layer)
    (scale_a, zero_a), (scale_b, zero_b) = _scale_zero(model, first), _scale_zero(model, second)
    out_scale, out_zero = _scale_zero(model, layer.outputs[0])
    twice = 2 * max(scale_a, scale_b)
    multiplier, shift = quantize_multiplier(twice / ((1 << ADD_LEFT_SHIFT) * out_scale))

    def table(scale: float, zero: int) -> NDArray[np.int32]:
        m, s = quantize_multiplier(scale / twice)
        return scale_int32((ALL_INT8 - zero) << ADD_LEFT_SHIFT, m, s).astype(np.int32)

    return AddConstants(
        table(scale_a, zero_a), table(scale_b, zero_b), constant, multiplier, shift, out_zero, a.act_min, a.act_max
    )


def _mul(model: Model, layer: Layer, a: Elementwise) -> MulConstants:
    first, second, constant = _operands(model, layer)
    (scale_a, zero_a), (scale_b, zero_b) = _scale_zero(model, first), _scale_zero(model, second)
    out_scale, out_zero = _scale_zero(model, layer.outputs[0])
    multiplier, shift = quantize_multiplier(scale_a * scale_b / out_scale)
    return MulConstants(zero_a, zero_b, constant, multiplier, shift, out_zero, a.act_min, a.act_max)


def _mean(model: Model, layer: Layer) -> MeanConstants:
    in_scale, in_zero = _scale_zero(model, layer.inputs[0])
    out_scale, out_zero = _scale_zero(model, layer.outputs[0])
    _, rows, cols, _ = model.tensors[layer.inputs[0]].shape
    n = rows * cols
    multiplier, shift = quantize_multiplier(in_scale / out_scale)
    extra = min(n.bit_length() - 1, 32, 31 + shift)  # TFLite folds 1 / n into the multiplier with as many bits as fit
    return MeanConstants(in_zero, (multiplier << extra) // n, shift - extra, out_zero)


def requantize_table(
    source: Quantisation, target: Quantisation, act_min: int, act_max: int, scale: Scale
) -> NDArray[np.int8]:
    """[256]: each int8 of `source` as an int8 of `target`, clamped; `scale` decides how halves round."""
    multiplier, shift = quantize_multiplier(float(source.scale.flat[0]) / float(target.scale.flat[0]))
    centred = ALL_INT8 - int(source.zero_point.flat[0])
    values = scale(centred, multiplier, shift) + int(target.zero_point.flat[0])
    return np.asarray(np.clip(values, act_min, act_max), np.int8)


def logistic_table(source: Quantisation, target: Quantisation) -> NDArray[np.int8]:
    """[256]: sigmoid of each int8, as TFLite's table: float32 transcendental, rounded to nearest."""
    scale, zero = np.float32(source.scale.flat[0]), int(source.zero_point.flat[0])
    inverse = np.float32(1.0) / np.float32(target.scale.flat[0])
    real = scale * (ALL_INT8 - zero).astype(np.float32)
    value = np.float32(1.0) / (np.float32(1.0) + np.exp(-real, dtype=np.float32))
    scaled = (value * inverse).astype(np.float32)
    rounded = np.floor(np.abs(scaled) + np.float32(0.5)) * np.sign(scaled)
    return np.asarray(np.clip(rounded + int(target.zero_point.flat[0]), -128, 127), np.int8)


def softmax_table(scale: float, beta: float) -> NDArray[np.float32]:
    """[256] float32: exp(-beta * scale * (255 - k)); the exponent is float32, as in TFLite."""
    factor = np.float32(-np.float32(scale) * np.float32(beta))
    return np.array([math.exp(float(factor * np.float32(255 - k))) for k in range(256)], np.float32)


def _concat(model: Model, layer: Layer, a: Concat) -> ConcatConstants:
    target = quantisation_of(model, layer.outputs[0])
    tables: list[NDArray[np.int8] | None] = []
    for i in layer.inputs:
        source = quantisation_of(model, i)
        same = source.scale.flat[0] == target.scale.flat[0] and source.zero_point.flat[0] == target.zero_point.flat[0]
        tables.append(None if same else requantize_table(source, target, -128, 127, scale_int32))
    rank = len(model.tensors[layer.outputs[0]].shape)
    return ConcatConstants(tuple(tables), a.axis + 3 - rank)


def _resize(model: Model, layer: Layer, a: ResizeNearest) -> ResizeConstants:
    _, in_rows, in_cols, _ = model.tensors[layer.inputs[0]].shape
    _, out_rows, out_cols, _ = model.tensors[layer.outputs[0]].shape
    return ResizeConstants(_nearest(in_rows, out_rows, a), _nearest(in_cols, out_cols, a))


def _nearest(n_in: int, n_out: int, a: ResizeNearest) -> NDArray[np.int64]:
    """Source index of each output index, in float32 as TFLite computes it."""
    aligned = a.align_corners and n_out > 1
    scale = np.float32(n_in - 1) / np.float32(n_out - 1) if aligned else np.float32(n_in) / np.float32(n_out)
    offset = np.float32(0.5 if a.half_pixel_centers else 0.0)
    at = (np.arange(n_out, dtype=np.float32) + offset) * scale
    index = np.floor(at + np.float32(0.5)) if a.align_corners else np.floor(at)
    return np.asarray(np.clip(index, 0, n_in - 1), np.int64)
