"""Readers of the ONNX operators that move values without computing: reshape, transpose, concat, pad, resize.

Transposes move nothing: they change how a stored value is seen, and the operator that reads it says whether it can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from onnx import NodeProto

from jouleflow.errors import ModelError
from jouleflow.graph.check import check_shape
from jouleflow.graph.model import Concat, Pad, Reshape, ResizeNearest
from jouleflow.graph.onnx_check import tensor_array
from jouleflow.graph.onnx_loader import Constant, Pending, Reader, Stored

NHWC_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}
Read = Callable[[Reader, NodeProto, dict[str, Any]], None]


def need_map(r: Reader, node: NodeProto, k: int = 0) -> tuple[Stored, tuple[int, ...]]:
    """Input k as a 4-D map in NCHW as the file sees it, and its NHWC shape."""
    value = r.stored(node, k)
    shape = r.shape(value)
    if len(shape) != 4 or value.channels_last or value.order:
        raise ModelError(f"{r.where(node)}: needs a 4-D NCHW input, it is {shape}")
    return value, shape


def reshape(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    """Reshape, Flatten, Squeeze: to (1, n)."""
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


def transpose(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    """NCHW to NHWC and back, which is a matter of view."""
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


def concat(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    """Concat along any side."""
    inputs = [r.stored(node, k) for k in range(len(node.input))]
    shapes = [r.shape(x) for x in inputs]
    axis = int(a.get("axis", 1)) % len(shapes[0])
    if (
        any(x.order for x in inputs)
        or len({len(s) for s in shapes}) != 1
        or len({x.channels_last for x in inputs}) != 1
    ):
        raise ModelError(f"{r.where(node)}: inputs {shapes} cannot be joined")
    here = NHWC_AXIS[axis] if len(shapes[0]) == 4 and not inputs[0].channels_last else axis
    out = list(shapes[0])
    out[here] = sum(s[here] for s in shapes)
    joined = tuple(x.tensor for x in inputs)
    r.values[node.output[0]] = Pending(
        "concat", joined, Concat(here), tuple(out), 0, node.name, channels_last=inputs[0].channels_last
    )


def pad(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    """Pad of rows and columns with a constant."""
    x, shape = need_map(r, node)
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
    value = float(a.get("value", 0.0))
    if len(node.input) > 2 and node.input[2]:
        given = r.values.get(node.input[2])
        if not isinstance(given, Constant) or given.data.size != 1:
            raise ModelError(f"{r.where(node)}: the value must be one constant")
        value = float(given.data.ravel()[0])
        if given.quantisation is not None:
            value = (value - float(given.quantisation.zero_point[0])) * float(given.quantisation.scale[0])
    filled = np.round(value / q.scale[0]) + q.zero_point[0]
    if not -128 <= filled <= 127 or (len(node.input) > 3 and node.input[3]):
        raise ModelError(
            f"{r.where(node)}: value {value} is outside the input's range, or axes are given: pad with a value in range"
        )
    padding = (pads[2], pads[6], pads[3], pads[7])
    out = (1, shape[1] + padding[0] + padding[1], shape[2] + padding[2] + padding[3], shape[3])
    r.values[node.output[0]] = Pending(
        "pad", (x.tensor,), Pad(padding, int(filled)), out, 0, node.name, keeps_quantisation=True
    )


def _nearest_pixels(
    r: Reader, node: NodeProto, n_in: int, n_out: int, scale: float, mode: str, rounding: str
) -> list[int]:
    """Source of each output pixel as ONNX defines it."""
    at = np.arange(n_out, dtype=np.float64)
    if mode == "asymmetric":
        real = at / scale
    elif mode == "half_pixel" or (mode == "pytorch_half_pixel" and n_out > 1):
        real = (at + 0.5) / scale - 0.5
    elif mode == "align_corners" and n_out > 1:
        real = at * (n_in - 1) / (n_out - 1)
    else:
        raise ModelError(f"{r.where(node)}: coordinates {mode!r:.40} are not supported: use asymmetric")
    rounded = {
        "floor": np.floor(real),
        "ceil": np.ceil(real),
        "round_prefer_floor": np.ceil(real - 0.5),
        "round_prefer_ceil": np.floor(real + 0.5),
    }.get(rounding)
    if rounded is None:
        raise ModelError(f"{r.where(node)}: nearest_mode {rounding!r:.40} is unknown: use floor")
    return [int(v) for v in np.clip(rounded, 0, n_in - 1)]


def resize(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    """Resize and Upsample by nearest neighbour."""
    x, shape = need_map(r, node)
    old = node.op_type == "Upsample" or r.opset < 11  # scales come second, and coordinates are fixed
    if len(node.input) > 3 and node.input[3]:
        sizes = [int(v) for v in r.constant(node, 3).ravel()]
        if len(sizes) != 4 or sizes[:2] != [1, shape[3]]:
            raise ModelError(f"{r.where(node)}: sizes {sizes[:8]}: only rows and columns can be resized")
        rows, cols = sizes[2], sizes[3]
        scales = [1.0, 1.0, rows / shape[1], cols / shape[2]]
    else:
        scales = [float(s) for s in r.constant(node, 1 if old else 2).ravel()]
        if len(scales) != 4 or scales[0] != 1 or scales[1] != 1 or not 0 < min(scales) <= max(scales) < 1e4:
            raise ModelError(
                f"{r.where(node)}: scales {scales[:8]}: only rows and columns can be resized, by less than 10,000"
            )
        rows, cols = int(shape[1] * scales[2]), int(shape[2] * scales[3])
    out = (1, rows, cols, shape[3])
    check_shape(node.output[0][:80], out)
    mode = str(a.get("coordinate_transformation_mode", b"asymmetric" if old else b"half_pixel"), "utf-8", "replace")
    rounding = str(a.get("nearest_mode", b"floor" if old else b"round_prefer_floor"), "utf-8", "replace")
    for n_in, n_out, scale in ((shape[1], rows, scales[2]), (shape[2], cols, scales[3])):
        ours = np.floor(np.arange(n_out, dtype=np.float32) * (np.float32(n_in) / np.float32(n_out)))
        if (
            a.get("mode", b"nearest") != b"nearest"
            or "axes" in a
            or ours.tolist() != _nearest_pixels(r, node, n_in, n_out, scale, mode, rounding)
        ):
            raise ModelError(
                f"{r.where(node)}: {n_in} to {n_out} pixels with {mode}, {rounding} is not supported: only the "
                "nearest neighbour that takes pixel floor(i * in / out), so export with asymmetric and floor"
            )
    r.values[node.output[0]] = Pending(
        "resize_nearest", (x.tensor,), ResizeNearest(False, False), out, 0, node.name, keeps_quantisation=True
    )


def identity(r: Reader, node: NodeProto, _: dict[str, Any]) -> None:
    """Identity and Dropout: another name."""
    if node.input[0] in r.floats:
        r.floats[node.output[0]] = r.floats[node.input[0]]
    else:
        r.values[node.output[0]] = r.values[node.input[0]]


def constant_node(r: Reader, node: NodeProto, a: dict[str, Any]) -> None:
    """Constant."""
    if "value" not in a:
        raise ModelError(f"{r.where(node)}: only tensor constants are supported")
    r.values[node.output[0]] = Constant(tensor_array(a["value"], r.folder))
