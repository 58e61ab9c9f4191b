"""One reader per TFLite operator: its options and tensors as a `Layer`. Constants may be rearranged in `tensors`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import floor, prod
from typing import Any

import numpy as np
import tflite

from jouleflow.errors import ModelError
from jouleflow.graph.check import same_padding
from jouleflow.graph.model import (
    Attributes,
    Concat,
    Conv2D,
    Dense,
    Elementwise,
    Layer,
    Logistic,
    Mean,
    Pad,
    Pool2D,
    Quantisation,
    Requantize,
    Reshape,
    ResizeNearest,
    Softmax,
    Tensor,
)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator as the file has it: kind is TFLite's name; options is its option table or None."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


Reader = Callable[[Operator, list[Tensor]], Layer]


def _options(op: Operator, kind: Any) -> Any:
    if op.options is None:
        raise ModelError(f"a {op.kind} has no options: the file is damaged")
    table = kind()
    table.Init(op.options.Bytes, op.options.Pos)
    return table


def _quantisation(op: Operator, tensors: list[Tensor], index: int) -> Quantisation:
    q = tensors[index].quantisation
    if q is None:
        raise ModelError(f"tensor {tensors[index].name!r} of a {op.kind} has no quantisation: quantise the model fully")
    return q


def _need(op: Operator, tensors: list[Tensor], low: int, high: int) -> None:
    if not low <= len(op.inputs) <= high:
        raise ModelError(f"a {op.kind} has {len(op.inputs)} inputs: it takes {low} to {high}")
    for i in op.outputs:
        _quantisation(op, tensors, i)


def _constant(op: Operator, tensors: list[Tensor], k: int) -> np.ndarray[Any, Any]:
    data = tensors[op.inputs[k]].data
    if data is None:
        raise ModelError(f"input {k} of {op.kind} {tensors[op.outputs[0]].name!r} must be constant")
    return data


def clamp_range(op: Operator, tensors: list[Tensor], activation: int) -> tuple[int, int]:
    """The int8 range of a fused activation: NONE, RELU, RELU_N1_TO_1 or RELU6."""
    q = _quantisation(op, tensors, op.outputs[0])
    scale, zero = float(q.scale.flat[0]), int(q.zero_point.flat[0])

    def at(real: float) -> int:
        scaled = real / scale
        return max(-(2**31), min(2**31 - 1, zero + int(floor(abs(scaled) + 0.5) * (1 if scaled >= 0 else -1))))

    kinds = tflite.ActivationFunctionType
    if activation == kinds.NONE:
        return -128, 127
    if activation == kinds.RELU:
        return max(-128, at(0)), 127
    if activation == kinds.RELU6:
        return max(-128, at(0)), min(127, at(6))
    if activation == kinds.RELU_N1_TO_1:
        return max(-128, at(-1)), min(127, at(1))
    raise ModelError(f"fused activation {activation} of a {op.kind} is not supported: use NONE, RELU or RELU6")


def _layer(
    op: Operator, tensors: list[Tensor], kind: str, attributes: Attributes, inputs: tuple[int, ...] = (), macs: int = 0
) -> Layer:
    return Layer(tensors[op.outputs[0]].name, kind, inputs or op.inputs, (op.outputs[0],), attributes, macs)


def _bias(op: Operator, tensors: list[Tensor], n_out: int) -> int:
    """Index of the int32 bias; zeros are added when the file has none."""
    if len(op.inputs) == 3:
        bias = tensors[op.inputs[2]]
        if bias.data is None or bias.dtype != "int32":
            raise ModelError(f"the bias {bias.name!r} of a {op.kind} must be a constant int32, it is {bias.dtype}")
        return op.inputs[2]
    tensors.append(Tensor(f"zero bias {len(tensors)}", (n_out,), "int32", None, np.zeros(n_out, np.int32)))
    return len(tensors) - 1


def _weights(op: Operator, tensors: list[Tensor]) -> Tensor:
    w = tensors[op.inputs[1]]
    _constant(op, tensors, 1)
    q = _quantisation(op, tensors, op.inputs[1])
    if w.dtype != "int8":
        raise ModelError(f"the weights {w.name!r} are {w.dtype}: int8 is supported")
    if q.per_channel and np.any(q.zero_point):
        raise ModelError(f"the weights {w.name!r} have scales per channel and zero points: zero points must be 0")
    return w


def _window(
    op: Operator, tensors: list[Tensor], options: Any, kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    stride = (int(options.StrideH()), int(options.StrideW()))
    x = tensors[op.inputs[0]].shape
    if min(*stride, *kernel, *dilation) < 1 or len(x) != 4:
        raise ModelError(
            f"a {op.kind} on {x} has stride {stride}, kernel {kernel}, dilation {dilation}: all must be >= 1"
        )
    if options.Padding() == tflite.Padding.VALID:
        return stride, (0, 0, 0, 0)
    top = same_padding(x[1], kernel[0], stride[0], dilation[0])
    return stride, top + same_padding(x[2], kernel[1], stride[1], dilation[1])


def _conv(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 2, 3)
    o = _options(op, tflite.Conv2DOptions)
    w, x, y = _weights(op, tensors), tensors[op.inputs[0]].shape, tensors[op.outputs[0]].shape
    if len(w.shape) != 4 or len(x) != 4 or x[3] % w.shape[3]:
        raise ModelError(f"a CONV_2D has weights {w.shape} on an input {x}: channels do not match")
    kernel, dilation = (w.shape[1], w.shape[2]), (int(o.DilationHFactor()), int(o.DilationWFactor()))
    stride, padding = _window(op, tensors, o, kernel, dilation)
    low, high = clamp_range(op, tensors, o.FusedActivationFunction())
    a = Conv2D(kernel, stride, padding, dilation, x[3] // w.shape[3], low, high)
    inputs = (op.inputs[0], op.inputs[1], _bias(op, tensors, w.shape[0]))
    return _layer(op, tensors, "conv2d", a, inputs, prod(y) * prod(w.shape[1:]))


def _depthwise(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 2, 3)
    o = _options(op, tflite.DepthwiseConv2DOptions)
    w, x, y = _weights(op, tensors), tensors[op.inputs[0]].shape, tensors[op.outputs[0]].shape
    if len(w.shape) != 4 or w.shape[0] != 1 or len(x) != 4 or w.shape[3] % x[3]:
        raise ModelError(f"a DEPTHWISE_CONV_2D has weights {w.shape} on an input {x}: channels do not match")
    assert w.data is not None
    assert w.quantisation is not None
    data = np.ascontiguousarray(w.data.transpose(3, 1, 2, 0))
    q = w.quantisation
    if q.per_channel and q.axis != 3:
        raise ModelError(f"the depthwise weights {w.name!r} have scales along axis {q.axis}: it must be 3")
    turned = replace(
        w, shape=data.shape, data=data, quantisation=Quantisation(q.scale, q.zero_point, 0 if q.per_channel else None)
    )
    tensors.append(turned)  # the file's own tensor may be shared
    index = len(tensors) - 1
    kernel, dilation = (w.shape[1], w.shape[2]), (int(o.DilationHFactor()), int(o.DilationWFactor()))
    stride, padding = _window(op, tensors, o, kernel, dilation)
    low, high = clamp_range(op, tensors, o.FusedActivationFunction())
    a = Conv2D(kernel, stride, padding, dilation, x[3], low, high)
    inputs = (op.inputs[0], index, _bias(op, tensors, w.shape[3]))
    return _layer(op, tensors, "depthwise_conv2d", a, inputs, prod(y) * kernel[0] * kernel[1])


def _dense(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 2, 3)
    o = _options(op, tflite.FullyConnectedOptions)
    w = _weights(op, tensors)
    low, high = clamp_range(op, tensors, o.FusedActivationFunction())
    inputs = (op.inputs[0], op.inputs[1], _bias(op, tensors, w.shape[0]))
    return _layer(op, tensors, "dense", Dense(low, high), inputs, w.n_elements)


def _elementwise(kind: str, options: Any) -> Reader:
    def read(op: Operator, tensors: list[Tensor]) -> Layer:
        _need(op, tensors, 2, 2)
        low, high = clamp_range(op, tensors, _options(op, options).FusedActivationFunction())
        for i in op.inputs:
            _quantisation(op, tensors, i)
        return _layer(op, tensors, kind, Elementwise(low, high))

    return read


def _pool(kind: str) -> Reader:
    def read(op: Operator, tensors: list[Tensor]) -> Layer:
        _need(op, tensors, 1, 1)
        o = _options(op, tflite.Pool2DOptions)
        kernel = (int(o.FilterHeight()), int(o.FilterWidth()))
        stride, padding = _window(op, tensors, o, kernel, (1, 1))
        low, high = clamp_range(op, tensors, o.FusedActivationFunction())
        _same_quantisation(op, tensors)
        return _layer(op, tensors, kind, Pool2D(kernel, stride, padding, low, high))

    return read


def _same_quantisation(op: Operator, tensors: list[Tensor]) -> None:
    a, b = _quantisation(op, tensors, op.inputs[0]), _quantisation(op, tensors, op.outputs[0])
    if a.scale.flat[0] != b.scale.flat[0] or a.zero_point.flat[0] != b.zero_point.flat[0]:
        raise ModelError(
            f"{op.kind} {tensors[op.outputs[0]].name!r} changes the quantisation: input and output must agree"
        )


def _mean(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 2, 2)
    rank = len(tensors[op.inputs[0]].shape)
    axes = sorted(int(a) % max(rank, 1) for a in _constant(op, tensors, 1).ravel())
    if rank != 4 or axes != [1, 2]:
        raise ModelError(
            f"MEAN {tensors[op.outputs[0]].name!r} over axes {axes} of rank {rank}: height and width of 4-D only"
        )
    return _layer(op, tensors, "mean", Mean(), op.inputs[:1])


def _pad(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 2, 3)
    pads = _constant(op, tensors, 1)
    if pads.shape != (4, 2) or pads[0].any() or pads[3].any():
        raise ModelError(f"PAD {tensors[op.outputs[0]].name!r}: only rows and columns of a 4-D tensor can be padded")
    value = (
        int(_constant(op, tensors, 2).flat[0])
        if len(op.inputs) == 3
        else int(_quantisation(op, tensors, op.outputs[0]).zero_point.flat[0])
    )
    _same_quantisation(op, tensors)
    padding = (int(pads[1, 0]), int(pads[1, 1]), int(pads[2, 0]), int(pads[2, 1]))
    return _layer(op, tensors, "pad", Pad(padding, value), op.inputs[:1])


def _concat(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 1, 64)
    o = _options(op, tflite.ConcatenationOptions)
    rank = len(tensors[op.outputs[0]].shape)
    if not -rank <= o.Axis() < rank or o.FusedActivationFunction() != tflite.ActivationFunctionType.NONE:
        raise ModelError(
            f"CONCATENATION {tensors[op.outputs[0]].name!r}: axis {o.Axis()} of rank {rank}, no fused activation"
        )
    for i in op.inputs:
        if tensors[i].constant:
            raise ModelError(
                f"CONCATENATION {tensors[op.outputs[0]].name!r} joins a constant: fold it into the layer before"
            )
    return _layer(op, tensors, "concat", Concat(int(o.Axis()) % rank))


def _reshape(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 1, 2)
    return _layer(op, tensors, "reshape", Reshape(), op.inputs[:1])


def _softmax(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 1, 1)
    beta = float(_options(op, tflite.SoftmaxOptions).Beta())
    if not 0 < beta < 1e6:
        raise ModelError(f"SOFTMAX {tensors[op.outputs[0]].name!r} has beta {beta}: it must be in (0, 1e6)")
    return _layer(op, tensors, "softmax", Softmax(beta))


def _logistic(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 1, 1)
    return _layer(op, tensors, "logistic", Logistic())


def _requantize(activation: int) -> Reader:
    def read(op: Operator, tensors: list[Tensor]) -> Layer:
        _need(op, tensors, 1, 1)
        return _layer(op, tensors, "requantize", Requantize(*clamp_range(op, tensors, activation)))

    return read


def _resize(op: Operator, tensors: list[Tensor]) -> Layer:
    _need(op, tensors, 2, 2)
    o = _options(op, tflite.ResizeNearestNeighborOptions)
    _same_quantisation(op, tensors)
    return _layer(
        op, tensors, "resize_nearest", ResizeNearest(bool(o.AlignCorners()), bool(o.HalfPixelCenters())), op.inputs[:1]
    )


_A = tflite.ActivationFunctionType
READERS: dict[str, Reader] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _dense,
    "ADD": _elementwise("add", tflite.AddOptions),
    "MUL": _elementwise("mul", tflite.MulOptions),
    "CONCATENATION": _concat,
    "PAD": _pad,
    "PADV2": _pad,
    "AVERAGE_POOL_2D": _pool("avg_pool"),
    "MAX_POOL_2D": _pool("max_pool"),
    "MEAN": _mean,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "RELU": _requantize(_A.RELU),
    "RELU6": _requantize(_A.RELU6),
    "QUANTIZE": _requantize(_A.NONE),
    "SOFTMAX": _softmax,
    "LOGISTIC": _logistic,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
}


def float_layer(op: Operator, tensors: list[Tensor]) -> Layer:
    """A layer of a float model, for analysis: operator name and multiply-accumulates, no attributes."""
    kind = {"CONV_2D": "conv2d", "DEPTHWISE_CONV_2D": "depthwise_conv2d", "FULLY_CONNECTED": "dense"}.get(
        op.kind, op.kind.lower()
    )
    out = tensors[op.outputs[0]]
    macs = 0
    if kind in ("conv2d", "depthwise_conv2d", "dense") and len(op.inputs) > 1:
        w = tensors[op.inputs[1]].shape
        per_output = {"conv2d": prod(w[1:]), "depthwise_conv2d": prod(w[1:3]), "dense": w[-1] if w else 0}[kind]
        macs = out.n_elements * per_output
    return Layer(out.name, kind, op.inputs, op.outputs, None, macs)
