"""One reader per ONNX operator of an int8 model: from a node to a pending layer, or straight to another view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from onnx import NodeProto

from jouleflow.errors import ModelError
from jouleflow.graph.check import same_padding
from jouleflow.graph.model import (
    Concat,
    Conv2D,
    Dense,
    Elementwise,
    Logistic,
    Mean,
    Pad,
    Pool2D,
    Quantisation,
    Requantize,
    Reshape,
    ResizeNearest,
    Softmax,
)
from jouleflow.graph.onnx_check import tensor_array
from jouleflow.graph.onnx_loader import Constant, Pending, Reader, Stored

NHWC_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}
Read = Callable[[Reader, NodeProto, dict[str, Any]], None]


def _need_map(r: Reader, node: NodeProto, k: int = 0) -> tuple[Stored, tuple[int, ...]]:
    value = r.stored(node, k)
    shape = r.shape(value)
    if len(shape) != 4 or value.channels_last or value.order:
        raise ModelError(f"{r.where(node)}: needs a 4-D NCHW input, it is {shape}")
    return value, shape


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
        bias = np.clip(np.round(real / unit), -(2**31), 2**31 - 1).astype(np.int32)
    return r.add_tensor(f"{node.output[0]} bias", (n_out,), None, bias, "int32")


def _conv(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x, shape = _need_map(r, node)
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
    r.values[node.output[0]] = Pending(
        "dense", (x.tensor, weights, bias), Dense(-128, 127), (1, n_out), data.size, node.name or node.output[0]
    )


def _elementwise(op: str) -> Read:
    def read(r: Reader, node: NodeProto, _: dict[str, Any]) -> None:
        values = [r.values.get(name) for name in node.input]
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
        pending = Pending(op, (first.tensor, other), Elementwise(-128, 127), shape, 0, node.name or node.output[0])
        r.values[node.output[0]] = pending

    return read


def _pool(op: str) -> Read:
    def read(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
        x, shape = _need_map(r, node)
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
    x, shape = _need_map(r, node)
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


def _reshape(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    source = r.values.get(node.input[0])
    if isinstance(source, Pending):  # the quantiser comes after: nothing to do but to note the shape
        if len(source.shape) == 4 and source.shape[1] * source.shape[2] != 1:
            raise ModelError(f"{r.where(node)}: a map that is not quantised yet cannot be reshaped")
        r.values[node.output[0]] = replace(source, shape=(1, prod(source.shape)))
        return
    x = r.stored(node, 0)
    shape = r.shape(x)
    n = prod(shape)
    target = (1, n)
    if node.op_type == "Reshape":
        wanted = [int(v) for v in r.constant(node, 1).ravel()]
        kept = [v for v in wanted if v not in (1, -1, 0)]
        if len(kept) > 1 or (kept and kept[0] != n):
            raise ModelError(f"{r.where(node)}: to {wanted} from {shape}: only flattening is supported")
    elif node.op_type == "Unsqueeze":
        raise ModelError(f"{r.where(node)}: not supported on activations")
    elif node.op_type == "Squeeze" and len(shape) == 4 and shape[1] * shape[2] != 1:
        raise ModelError(f"{r.where(node)}: only sides of 1 behind a global pool can be squeezed")
    q = r.tensors[x.tensor].quantisation
    assert q is not None
    index = x.tensor if shape == target else r.add_layer(node.output[0], "reshape", (x.tensor,), Reshape(), target, q)
    mixed = len(shape) == 4 and shape[1] * shape[2] > 1 and not x.channels_last
    r.values[node.output[0]] = Stored(index, False, shape[1:] if mixed else x.order)  # type: ignore[arg-type]


def _transpose(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    if node.input[0] in r.floats:  # the model takes NHWC already
        shape = r.floats[node.input[0]]
        if list(a.get("perm", ())) == [0, 3, 1, 2] and len(shape) == 4:
            r.floats[node.output[0]] = (shape[0], shape[3], shape[1], shape[2])
            return
    x = r.stored(node, 0)
    perm = list(a.get("perm", ()))
    if len(r.shape(x)) == 4 and perm == [0, 2, 3, 1] and not x.channels_last:
        r.values[node.output[0]] = replace(x, channels_last=True)
    elif len(r.shape(x)) == 4 and perm == [0, 3, 1, 2] and x.channels_last:
        r.values[node.output[0]] = replace(x, channels_last=False)
    else:
        raise ModelError(f"{r.where(node)}: order {perm} is not supported")


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
        clamp = (max(source.clamp[0], low), min(source.clamp[1], high))
        r.values[node.output[0]] = replace(source, clamp=clamp)
        return
    x = r.stored(node, 0)
    r.values[node.output[0]] = Pending(
        "requantize", (x.tensor,), Requantize(-128, 127), r.shape(x), 0, node.name, (low, high)
    )


def _concat(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    inputs = [r.stored(node, k) for k in range(len(node.input))]
    shapes = [r.shape(x) for x in inputs]
    axis = int(a.get("axis", 1)) % len(shapes[0])
    if any(x.order for x in inputs) or len({len(s) for s in shapes}) != 1:
        raise ModelError(f"{r.where(node)}: inputs {shapes} cannot be joined")
    here = NHWC_AXIS[axis] if len(shapes[0]) == 4 and not inputs[0].channels_last else axis
    out = list(shapes[0])
    out[here] = sum(s[here] for s in shapes)
    r.values[node.output[0]] = Pending(
        "concat", tuple(x.tensor for x in inputs), Concat(here), tuple(out), 0, node.name
    )


def _softmax(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x = r.stored(node, 0)
    shape = r.shape(x)
    axis = int(a.get("axis", -1)) % len(shape)
    if x.order or (prod(shape[:-1]) != 1 and axis != (1 if len(shape) == 4 else len(shape) - 1)):
        raise ModelError(f"{r.where(node)}: softmax over axis {axis} of {shape} is not supported: over channels only")
    r.values[node.output[0]] = Pending("softmax", (x.tensor,), Softmax(1.0), shape, 0, node.name)


def _sigmoid(r: Reader, node: NodeProto, _: dict[str, Any]) -> None:
    x = r.stored(node, 0)
    r.values[node.output[0]] = Pending("logistic", (x.tensor,), Logistic(), r.shape(x), 0, node.name)


def _pad(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x, shape = _need_map(r, node)
    pads = [int(p) for p in (a["pads"] if "pads" in a else r.constant(node, 1).ravel())]
    if (
        a.get("mode", b"constant") != b"constant"
        or len(pads) != 8
        or pads[0]
        or pads[1]
        or pads[4]
        or pads[5]
        or min(pads) < 0
    ):
        raise ModelError(f"{r.where(node)}: only constant padding of rows and columns is supported")
    q = r.tensors[x.tensor].quantisation
    assert q is not None
    padding = (pads[2], pads[6], pads[3], pads[7])
    out = (1, shape[1] + padding[0] + padding[1], shape[2] + padding[2] + padding[3], shape[3])
    r.values[node.output[0]] = Pending(
        "pad", (x.tensor,), Pad(padding, int(q.zero_point[0])), out, 0, node.name, keeps_quantisation=True
    )


def _resize(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    x, shape = _need_map(r, node)
    if len(node.input) > 3 and node.input[3]:
        sizes = [int(v) for v in r.constant(node, 3).ravel()]
        rows, cols = sizes[2], sizes[3]
    else:
        scales = r.constant(node, 2 if node.op_type == "Resize" else 1).ravel()
        rows, cols = int(shape[1] * scales[2]), int(shape[2] * scales[3])
    mode = a.get("coordinate_transformation_mode", b"half_pixel" if node.op_type == "Resize" else b"asymmetric")
    whole = rows % shape[1] == 0 and cols % shape[2] == 0
    asymmetric = mode == b"asymmetric" and a.get("nearest_mode", b"floor" if whole else b"") in (b"floor",)
    if a.get("mode", b"nearest") != b"nearest" or not (asymmetric or whole):
        raise ModelError(
            f"{r.where(node)}: only nearest-neighbour resizing by whole factors, or asymmetric with floor, is supported"
        )
    out = (1, rows, cols, shape[3])
    r.values[node.output[0]] = Pending(
        "resize_nearest", (x.tensor,), ResizeNearest(False, False), out, 0, node.name, keeps_quantisation=True
    )


def _identity(r: Reader, node: NodeProto, _: dict[str, Any]) -> None:
    if node.input[0] in r.floats:
        r.floats[node.output[0]] = r.floats[node.input[0]]
    else:
        r.values[node.output[0]] = r.values[node.input[0]]


def _constant_node(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    if "value" not in a:
        raise ModelError(f"{r.where(node)}: only tensor constants are supported")
    r.values[node.output[0]] = Constant(tensor_array(a["value"], r.folder))


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
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Relu": _clamp,
    "Clip": _clamp,
    "Concat": _concat,
    "Softmax": _softmax,
    "Sigmoid": _sigmoid,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "Identity": _identity,
    "Dropout": _identity,
    "Constant": _constant_node,
}
