"""One reader per ONNX operator of an int8 model: from a node to a pending layer (onnx_moves: those that only move)."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from jouleflow.errors import ModelError
from jouleflow.graph import onnx_moves as moves
from jouleflow.graph.check import same_padding
from jouleflow.graph.model import (
    Conv2D,
    Dense,
    Elementwise,
    Logistic,
    Mean,
    Pool2D,
    Quantisation,
    Requantize,
    Softmax,
)
from jouleflow.graph.onnx_loader import Constant, Pending, Reader, Stored
from jouleflow.graph.onnx_moves import Read, need_map


def _padding(
    node: NodeProto,
    a: dict[str, Any],
    shape: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    auto = a.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        rows = same_padding(shape[1], kernel[0], stride[0], dilation[0])
        cols = same_padding(shape[2], kernel[1], stride[1], dilation[1])
        if auto == b"SAME_LOWER":
            rows, cols = rows[::-1], cols[::-1]
        return (*rows, *cols)
    if auto == b"VALID":
        return (0, 0, 0, 0)
    top, left, bottom, right = (int(p) for p in a.get("pads", (0, 0, 0, 0)))
    return top, bottom, left, right


def _pair(r: Reader, node: NodeProto, values: Any, default: int) -> tuple[int, int]:
    pair = tuple(int(v) for v in (values if values is not None else (default, default)))
    if len(pair) != 2 or min(pair) < 1:
        raise ModelError(f"{r.where(node)}: {pair} must be two numbers >= 1 (2-D only)")
    return pair[0], pair[1]


def _out_size(n: int, before: int, after: int, kernel: int, stride: int, dilation: int, ceil: bool = False) -> int:
    reach = n + before + after - (kernel - 1) * dilation - 1
    return (-(-reach // stride) if ceil else reach // stride) + 1


def _weights(r: Reader, node: NodeProto, k: int) -> Constant:
    value = r.values.get(node.input[k])
    if not isinstance(value, Constant) or value.quantisation is None:
        raise ModelError(f"{r.where(node)}: the weights must be int8 constants behind DequantizeLinear")
    if value.quantisation.per_channel and np.any(value.quantisation.zero_point):
        raise ModelError(f"{r.where(node)}: weights with scales per channel must have zero points 0")
    return value


def _bias(r: Reader, node: NodeProto, k: int, x: int, w: Quantisation, n_out: int) -> int:
    """Index of the int32 bias in units of input scale * weight scale."""
    unit = float(r.tensors[x].quantisation.scale[0]) * w.scale.astype(np.float64)  # type: ignore[union-attr]
    bias = np.zeros(n_out, np.int32)
    if len(node.input) > k and node.input[k]:
        value = r.values.get(node.input[k])
        if not isinstance(value, Constant) or value.data.size != n_out:
            raise ModelError(f"{r.where(node)}: the bias must be a constant of {n_out} values")
        if value.quantisation is None:
            real = value.data.astype(np.float64).ravel()
        else:
            q = value.quantisation
            real = (value.data.astype(np.float64).ravel() - q.zero_point) * q.scale.astype(np.float64)
        bias = _int32_bias(r, node, real, unit)
    return r.add_tensor(f"{node.output[0]} bias", (n_out,), None, bias, "int32")


def _int32_bias(r: Reader, node: NodeProto, real: NDArray[Any], unit: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        scaled = np.round(real / unit)
    if not np.all(np.abs(scaled) <= 2.0**31):
        raise ModelError(
            f"{r.where(node)}: the bias does not fit int32 at scale input x weights: quantise the model again"
        )
    bias: NDArray[np.int32] = np.clip(scaled, -(2**31), 2**31 - 1).astype(np.int32)
    return bias


def _check_sums(r: Reader, node: NodeProto, inputs: tuple[int, ...]) -> None:
    """Raises ModelError when a sum of products can leave int32."""
    w, bias = r.tensors[inputs[1]], r.tensors[inputs[2]].data
    assert w.data is not None
    assert w.quantisation is not None
    assert bias is not None
    size = np.abs(w.data.reshape(len(w.data), -1).astype(np.int32) - w.quantisation.zero_point.flat[0]).sum(
        axis=1, dtype=np.int64
    )
    if np.any(255 * size + np.abs(bias.astype(np.int64)) >= 2**31):
        raise ModelError(f"{r.where(node)}: its sums can leave int32: fewer inputs per output, or a smaller bias")


def _conv(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x, shape = need_map(r, node)
    w = _weights(r, node, 1)
    if w.data.ndim != 4 or w.data.dtype != np.int8:
        raise ModelError(f"{r.where(node)}: weights must be 4-D int8, they are {w.data.shape} {w.data.dtype}")
    q = w.quantisation
    assert q is not None
    if q.per_channel and q.axis != 0:
        raise ModelError(f"{r.where(node)}: weights must have their scales along axis 0, not {q.axis}")
    n_out, _, kernel_h, kernel_w = w.data.shape
    kernel, groups = (kernel_h, kernel_w), int(a.get("group", 1))
    stride, dilation = _pair(r, node, a.get("strides"), 1), _pair(r, node, a.get("dilations"), 1)
    padding = _padding(node, a, shape, kernel, stride, dilation)
    rows = _out_size(shape[1], *padding[:2], kernel_h, stride[0], dilation[0])
    cols = _out_size(shape[2], *padding[2:], kernel_w, stride[1], dilation[1])
    data = np.ascontiguousarray(w.data.transpose(0, 2, 3, 1))
    weights = r.add_tensor(f"{node.output[0]} weights", data.shape, q, data)
    bias = _bias(r, node, 2, x.tensor, q, n_out)
    _check_sums(r, node, (x.tensor, weights, bias))
    depthwise = groups == shape[3] and groups > 1
    attributes = Conv2D(kernel, stride, padding, dilation, groups, -128, 127)
    macs = rows * cols * n_out * prod(data.shape[1:])
    op = "depthwise_conv2d" if depthwise else "conv2d"
    r.values[node.output[0]] = Pending(
        op, (x.tensor, weights, bias), attributes, (1, rows, cols, n_out), macs, node.name or node.output[0]
    )


def _dense(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x = r.stored(node, 0)
    shape = r.shape(x)
    w = _weights(r, node, 1)
    if a.get("transA", 0) or a.get("alpha", 1.0) != 1.0 or a.get("beta", 1.0) != 1.0 or w.data.ndim != 2:
        raise ModelError(f"{r.where(node)}: only x * W + b with 2-D weights is supported")
    q = w.quantisation
    assert q is not None
    transposed = bool(a.get("transB", 0)) if node.op_type == "Gemm" else False
    data = w.data if transposed else w.data.T
    if q.per_channel:
        if q.axis != (0 if transposed else 1):
            raise ModelError(f"{r.where(node)}: weights must have one scale per output")
        q = Quantisation(q.scale, q.zero_point, 0)
    n_out, n_in = data.shape
    if n_in != prod(shape):
        raise ModelError(f"{r.where(node)}: input {shape} does not match weights of {n_in} inputs")
    if x.order is not None:  # columns are in c, h, w order in the file and in h, w, c order here
        h, width, c = x.order
        data = data.reshape(n_out, c, h, width).transpose(0, 2, 3, 1).reshape(n_out, n_in)
    data = np.ascontiguousarray(data)
    weights = r.add_tensor(f"{node.output[0]} weights", data.shape, q, data)
    bias = _bias(r, node, 2, x.tensor, q, n_out)
    _check_sums(r, node, (x.tensor, weights, bias))
    r.values[node.output[0]] = Pending(
        "dense", (x.tensor, weights, bias), Dense(-128, 127), (1, n_out), data.size, node.name or node.output[0]
    )


def _add_bias(r: Reader, node: NodeProto, dense: Pending, constant: Constant) -> Pending:
    """MatMul and the Add after it, with no quantiser between them, are one dense layer."""
    x, w, at = dense.inputs
    x_quant, w_quant = r.tensors[x].quantisation, r.tensors[w].quantisation
    assert x_quant is not None
    assert w_quant is not None
    real = constant.data.astype(np.float64).ravel()
    if constant.quantisation is not None:
        real = (real - constant.quantisation.zero_point) * constant.quantisation.scale.astype(np.float64)
    n_out = r.tensors[at].shape[0]
    if real.size not in (1, n_out):
        raise ModelError(f"{r.where(node)}: adds {real.size} values to {n_out} outputs of a MatMul")
    bias = _int32_bias(
        r, node, np.broadcast_to(real, (n_out,)), float(x_quant.scale[0]) * w_quant.scale.astype(np.float64)
    )
    r.tensors[at] = replace(r.tensors[at], data=bias)
    _check_sums(r, node, dense.inputs)
    return dense


def _elementwise(op: str) -> Read:
    def read(r: Reader, node: NodeProto, _: dict[str, Any]) -> None:
        values = [r.values.get(name) for name in node.input]
        if op == "add":
            for left, right in (values, values[::-1]):
                plain = isinstance(left, Pending) and left.op == "dense" and left.clamp == (-np.inf, np.inf)
                if plain and isinstance(left, Pending) and isinstance(right, Constant):
                    bias = r.tensors[left.inputs[2]].data
                    if bias is None or bias.any():
                        raise ModelError(f"{r.where(node)}: adds to a dense layer that has a bias: fold the two")
                    r.values[node.output[0]] = _add_bias(r, node, left, right)
                    return
        if not isinstance(values[0], Stored):
            values.reverse()
        first, second = values
        if not isinstance(first, Stored) or first.order:
            raise ModelError(f"{r.where(node)}: needs a quantised activation")
        shape = r.shape(first)
        if isinstance(second, Stored):
            if r.shape(second) != shape or second.order or second.channels_last != first.channels_last:
                raise ModelError(
                    f"{r.where(node)}: inputs {shape} and {r.shape(second)} differ: broadcasting works for constants only"
                )
            other = second.tensor
        elif isinstance(second, Constant) and second.quantisation is not None and second.data.dtype == np.int8:
            data = second.data
            if len(shape) == 4 and not first.channels_last:
                data = data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(0, 2, 3, 1)
            other = r.add_tensor(
                node.output[0] + " constant", tuple(data.shape) or (1,), second.quantisation, np.ascontiguousarray(data)
            )
        else:
            raise ModelError(
                f"{r.where(node)}: the second operand is neither a quantised activation nor an int8 constant"
            )
        name = node.name or node.output[0]
        pending = Pending(
            op, (first.tensor, other), Elementwise(-128, 127), shape, 0, name, channels_last=first.channels_last
        )
        r.values[node.output[0]] = pending

    return read


def _pool(op: str) -> Read:
    def read(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
        x, shape = need_map(r, node)
        kernel, stride = _pair(r, node, a.get("kernel_shape"), 1), _pair(r, node, a.get("strides"), 1)
        padding = _padding(node, a, shape, kernel, stride, (1, 1))
        if any(d != 1 for d in a.get("dilations", ())) or (a.get("count_include_pad", 0) and any(padding)):
            raise ModelError(f"{r.where(node)}: dilation and counted padding are not supported")
        ceil = bool(a.get("ceil_mode", 0))
        rows = _out_size(shape[1], *padding[:2], kernel[0], stride[0], 1, ceil)
        cols = _out_size(shape[2], *padding[2:], kernel[1], stride[1], 1, ceil)
        if ceil:  # the last windows reach past the padding: pad there, it is never counted
            bottom = (rows - 1) * stride[0] + kernel[0] - shape[1] - padding[0]
            right = (cols - 1) * stride[1] + kernel[1] - shape[2] - padding[2]
            padding = (padding[0], max(bottom, padding[1]), padding[2], max(right, padding[3]))
        attributes = Pool2D(kernel, stride, padding, -128, 127)
        r.values[node.output[0]] = Pending(
            op, (x.tensor,), attributes, (1, rows, cols, shape[3]), 0, node.name, keeps_quantisation=True
        )

    return read


def _mean(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x, shape = need_map(r, node)
    keep = True
    if node.op_type == "ReduceMean":
        axes = a.get("axes")
        if axes is None and len(node.input) > 1:
            axes = r.constant(node, 1).ravel().tolist()
        keep = bool(a.get("keepdims", 1))
        if sorted(int(v) % 4 for v in (axes or ())) != [2, 3]:
            raise ModelError(f"{r.where(node)}: only the mean over height and width (axes 2 and 3) is supported")
    out = (1, 1, 1, shape[3]) if keep else (1, shape[3])
    r.values[node.output[0]] = Pending("mean", (x.tensor,), Mean(), out, 0, node.name)


def _clamp(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    low, high = 0.0, np.inf
    if node.op_type == "Clip":
        low = float(a.get("min", -np.inf))
        high = float(a.get("max", np.inf))
        if len(node.input) > 1 and node.input[1]:
            low = float(r.constant(node, 1).ravel()[0])
        if len(node.input) > 2 and node.input[2]:
            high = float(r.constant(node, 2).ravel()[0])
        if not low <= high:
            raise ModelError(f"{r.where(node)}: bounds {low} and {high} are not in order")
    source = r.values.get(node.input[0])
    if isinstance(source, Pending):
        clamp = (min(max(source.clamp[0], low), high), min(max(source.clamp[1], low), high))
        r.values[node.output[0]] = replace(source, clamp=clamp)
        return
    x = r.stored(node, 0)
    r.values[node.output[0]] = Pending(
        "requantize",
        (x.tensor,),
        Requantize(-128, 127),
        r.shape(x),
        0,
        node.name,
        (low, high),
        False,
        x.channels_last,
        x.order,
    )


def _softmax(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x = r.stored(node, 0)
    shape = r.shape(x)
    flattens = r.opset < 13  # then it is taken over all sides from the axis on
    axis = int(a.get("axis", 1 if flattens else -1)) % len(shape)
    channels = 1 if len(shape) == 4 and not x.channels_last else len(shape) - 1
    if x.order or (prod(shape[:-1]) != 1 and (axis != channels or (flattens and channels != len(shape) - 1))):
        raise ModelError(f"{r.where(node)}: softmax over axis {axis} of {shape} is not supported: over channels only")
    r.values[node.output[0]] = Pending(
        "softmax", (x.tensor,), Softmax(1.0), shape, 0, node.name, channels_last=x.channels_last
    )


def _sigmoid(r: Reader, node: NodeProto, _: dict[str, Any]) -> None:
    x = r.stored(node, 0)
    r.values[node.output[0]] = Pending(
        "logistic", (x.tensor,), Logistic(), r.shape(x), 0, node.name, channels_last=x.channels_last, order=x.order
    )


READERS: dict[str, Read] = {
    "QuantizeLinear": Reader.quantize_linear,
    "DequantizeLinear": Reader.dequantize_linear,
    "Conv": _conv,
    "Gemm": _dense,
    "MatMul": _dense,
    "Add": _elementwise("add"),
    "Mul": _elementwise("mul"),
    "AveragePool": _pool("avg_pool"),
    "MaxPool": _pool("max_pool"),
    "GlobalAveragePool": _mean,
    "ReduceMean": _mean,
    "Reshape": moves.reshape,
    "Flatten": moves.reshape,
    "Squeeze": moves.reshape,
    "Transpose": moves.transpose,
    "Relu": _clamp,
    "Clip": _clamp,
    "Concat": moves.concat,
    "Softmax": _softmax,
    "Sigmoid": _sigmoid,
    "Pad": moves.pad,
    "Resize": moves.resize,
    "Upsample": moves.resize,
    "Identity": moves.identity,
    "Dropout": moves.identity,
    "Constant": moves.constant_node,
}
