"""The NumPy integer reference: what the firmware must equal bit for bit, and what equals LiteRT bit for bit.

Slow and plain on purpose. Values are int64 while computing; sums stay far below 2^53, so matrix products in float64 are
exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import ModelError
from jouleflow.graph import constants as k
from jouleflow.graph.fixed_point import scale_accumulator, scale_int32
from jouleflow.graph.model import Conv2D, Layer, Model, Pad, Pool2D

Int8 = NDArray[np.int8]


def run_reference(model: Model, inputs: Int8, batch: int = 64) -> Int8:
    """The model's int8 outputs [n, ...] for int8 inputs [n, ...] (shapes without the batch side, or with a side of 1).

    Raises ModelError when the model is not quantised or the inputs do not fit.
    """
    if not model.quantised or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(f"{model.name}: the integer reference runs int8 models with one input and one output")
    shape = model.tensors[model.inputs[0]].shape
    if inputs.dtype != np.int8 or inputs[0].size != model.tensors[model.inputs[0]].n_elements:
        raise ModelError(
            f"inputs are {inputs.dtype} of shape {inputs.shape[1:]} each, {model.name} takes int8 {shape[1:]}"
        )
    prepared = [None if layer.op == "reshape" else k.layer_constants(model, layer) for layer in model.layers]
    results = []
    for start in range(0, len(inputs), batch):
        part = inputs[start : start + batch]
        values: dict[int, Int8] = {model.inputs[0]: part.reshape(len(part), *shape[1:])}
        for layer, constant in zip(model.layers, prepared, strict=True):
            values[layer.outputs[0]] = _run_layer(model, layer, constant, values)
        results.append(values[model.outputs[0]])
    return np.concatenate(results)


def run_layers(model: Model, one_input: Int8) -> dict[int, Int8]:
    """All activations of one inference: tensor index -> values with a batch side of 1."""
    values: dict[int, Int8] = {model.inputs[0]: one_input.reshape(model.tensors[model.inputs[0]].shape)}
    for layer in model.layers:
        constant = None if layer.op == "reshape" else k.layer_constants(model, layer)
        values[layer.outputs[0]] = _run_layer(model, layer, constant, values)
    return values


def _run_layer(model: Model, layer: Layer, c: k.Constants | None, values: dict[int, Int8]) -> Int8:
    x = values[model.activation_inputs(layer)[0]]
    out_shape = model.tensors[layer.outputs[0]].shape[1:]
    if c is None:
        return x.reshape(len(x), *out_shape)
    if isinstance(c, k.ConvConstants):
        return _conv(layer, c, x, out_shape)
    if isinstance(c, k.AddConstants | k.MulConstants):
        computed = model.activation_inputs(layer)
        y = values[computed[1]] if c.constant is None else np.asarray(c.constant, np.int8)
        return _add(c, x, y) if isinstance(c, k.AddConstants) else _mul(c, x, y)
    if isinstance(c, k.PoolConstants):
        return _pool(layer, c, x, out_shape)
    if isinstance(c, k.MeanConstants):
        sums = x.astype(np.int64).sum(axis=(1, 2)) - c.input_zero_point * x.shape[1] * x.shape[2]
        scaled = scale_int32(sums, c.multiplier, c.shift) + c.output_zero_point
        return np.clip(scaled, -128, 127).astype(np.int8).reshape(len(x), *out_shape)
    if isinstance(c, k.LookupConstants):
        index = x.astype(np.int64) + 128
        last = np.arange(x[0].size).reshape(x[0].shape) >= c.n_first
        return np.where(last, c.last_table[index], c.table[index])
    if isinstance(c, k.ConcatConstants):
        parts = [values[i] for i in layer.inputs]
        axis = c.axis + x.ndim - 3
        mapped = [p if t is None else t[p.astype(np.int64) + 128] for p, t in zip(parts, c.tables, strict=True)]
        return np.concatenate(mapped, axis=axis)
    if isinstance(c, k.PadConstants):
        assert isinstance(layer.attributes, Pad)
        top, bottom, left, right = layer.attributes.padding
        return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=c.value)
    if isinstance(c, k.ResizeConstants):
        return x[:, c.rows][:, :, c.cols]
    return _softmax(c, x)


def _conv(layer: Layer, c: k.ConvConstants, x: Int8, out_shape: tuple[int, ...]) -> Int8:
    weights = c.weights.astype(np.float64) - c.weight_zero_point
    a = layer.attributes
    if not isinstance(a, Conv2D):
        flat = x.reshape(len(x), -1).astype(np.float64) - c.input_zero_point
        return _finish(c, flat @ weights.reshape(len(weights), -1).T).reshape(len(x), *out_shape)
    top, bottom, left, right = a.padding
    centred = x.astype(np.float64) - c.input_zero_point
    padded = np.pad(centred, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, cols, n_out = out_shape
    per_group_in, per_group_out = weights.shape[3], n_out // a.groups
    total = np.zeros((len(x), rows, cols, n_out))
    for i in range(a.kernel[0]):
        for j in range(a.kernel[1]):
            y, z = i * a.dilation[0], j * a.dilation[1]
            part = padded[
                :,
                y : y + (rows - 1) * a.stride[0] + 1 : a.stride[0],
                z : z + (cols - 1) * a.stride[1] + 1 : a.stride[1],
            ]
            if per_group_in == 1:
                total += np.repeat(part, per_group_out, axis=3) * weights[:, i, j, 0]
            else:
                for g in range(a.groups):
                    source = part[..., g * per_group_in : (g + 1) * per_group_in]
                    target = slice(g * per_group_out, (g + 1) * per_group_out)
                    total[..., target] += source @ weights[target, i, j].T
    return _finish(c, total)


def _finish(c: k.ConvConstants, total: NDArray[np.float64]) -> Int8:
    acc = total.astype(np.int64) + c.bias
    multiplier = c.multiplier.astype(np.int64)
    up = np.arange(multiplier.size) < c.n_halves_up
    scaled = scale_accumulator(acc, multiplier, c.shift)
    if not up.all():
        scaled = np.where(up, scaled, scale_int32(acc, multiplier, c.shift))
    scaled = scaled + c.output_zero_point
    return np.clip(scaled, c.act_min, c.act_max).astype(np.int8)


def _add(c: k.AddConstants, x: Int8, y: Int8) -> Int8:
    total = c.table_a[x.astype(np.int64) + 128].astype(np.int64) + c.table_b[y.astype(np.int64) + 128]
    return np.clip(scale_int32(total, c.multiplier, c.shift) + c.output_zero_point, c.act_min, c.act_max).astype(
        np.int8
    )


def _mul(c: k.MulConstants, x: Int8, y: Int8) -> Int8:
    product = (x.astype(np.int64) - c.zero_point_a) * (y.astype(np.int64) - c.zero_point_b)
    return np.clip(scale_int32(product, c.multiplier, c.shift) + c.output_zero_point, c.act_min, c.act_max).astype(
        np.int8
    )


def _pool(layer: Layer, c: k.PoolConstants, x: Int8, out_shape: tuple[int, ...]) -> Int8:
    a = layer.attributes
    assert isinstance(a, Pool2D)
    result = np.empty((len(x), *out_shape), np.int8)
    for r in range(out_shape[0]):
        y0 = r * a.stride[0] - a.padding[0]
        rows = slice(max(y0, 0), min(y0 + a.kernel[0], x.shape[1]))
        for col in range(out_shape[1]):
            x0 = col * a.stride[1] - a.padding[2]
            area = x[:, rows, max(x0, 0) : min(x0 + a.kernel[1], x.shape[2])].astype(np.int64)
            if layer.op == "max_pool":
                value = area.max(axis=(1, 2))
            else:
                n = area.shape[1] * area.shape[2]
                total = area.sum(axis=(1, 2))
                half = np.where(total > 0, n // 2, -(n // 2))
                value = np.trunc((total + half) / n).astype(np.int64)
                if c.halves_up:
                    value = (total + n // 2) // n
            result[:, r, col] = np.clip(value, c.act_min, c.act_max)
    return result


def _softmax(c: k.SoftmaxConstants, x: Int8) -> Int8:
    """Single precision, in this order: sum of table values from the first to the last; 1 / (sum * scale); product + 0.5."""
    index = 255 - (x.max(axis=-1, keepdims=True).astype(np.int64) - x)
    values = c.table[index]
    total = np.zeros(values.shape[:-1], np.float32)
    for i in range(values.shape[-1]):
        total = (total + values[..., i]).astype(np.float32)
    inverse = (np.float32(1.0) / (total * c.output_scale)).astype(np.float32)
    scaled = (values * inverse[..., None]).astype(np.float32) + np.float32(0.5)
    return np.asarray(np.clip(scaled.astype(np.int64) + c.output_zero_point, -128, 127), np.int8)
