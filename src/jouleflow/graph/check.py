"""Checks that every loaded model passes, whatever its format: a model file is untrusted input.

Loaders call `check_tensor` while they read and `check_model` at the end; code generation relies on both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from jouleflow.errors import ModelError
from jouleflow.graph.model import Conv2D, Model, Pool2D, Quantisation

MAX_FILE_BYTES = 1 << 30
MAX_ELEMENTS = 1 << 28
MAX_ACTIVATION_BYTES = 64 << 20
MAX_RANK = 8
MAX_LAYERS = 65535
ZERO_POINT_RANGE = {"int8": (-128, 127), "uint8": (0, 255), "int16": (0, 0), "int32": (0, 0)}


def check_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as a tuple of ints, if every side is positive and the product is sane.

    Raises ModelError naming the tensor and the limit.
    """
    sides = tuple(int(s) for s in shape)
    if len(sides) > MAX_RANK:
        raise ModelError(f"tensor {name!r} has rank {len(sides)}: at most {MAX_RANK} is allowed")
    for side in sides:
        if side <= 0:
            raise ModelError(f"tensor {name!r} has shape {sides}: every side must be > 0; export with fixed shapes")
    if prod(sides) > MAX_ELEMENTS:
        raise ModelError(
            f"tensor {name!r} has shape {sides}, {prod(sides)} elements: at most {MAX_ELEMENTS} are allowed"
        )
    return sides


def check_quantisation(name: str, shape: Sequence[int], dtype: str, q: Quantisation) -> None:
    """Scales finite and > 0, zero points inside the type, and as many as the axis has slices.

    Raises ModelError naming the tensor and the value.
    """
    scale, zero = q.scale.ravel(), q.zero_point.ravel()
    if scale.size != zero.size or scale.size == 0:
        raise ModelError(f"tensor {name!r} has {scale.size} scales and {zero.size} zero points: they must be as many")
    bad = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)))
    if bad.size:
        raise ModelError(
            f"tensor {name!r} has scale {scale[bad[0]]}: it must be finite and > 0; quantise the model again"
        )
    if dtype in ZERO_POINT_RANGE:
        low, high = ZERO_POINT_RANGE[dtype]
        outside = np.flatnonzero((zero < low) | (zero > high))
        if outside.size:
            raise ModelError(
                f"tensor {name!r} ({dtype}) has zero point {zero[outside[0]]}: it must be in [{low}, {high}]"
            )
    if scale.size > 1:
        axis = q.axis
        if axis is None or not 0 <= axis < len(shape) or shape[axis] != scale.size:
            raise ModelError(
                f"tensor {name!r} {tuple(shape)} has {scale.size} scales along axis {axis}: they must match a side"
            )


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(before, after) of SAME padding: the output has ceil(size / stride) elements."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def _check_spatial(layer: str, a: Conv2D | Pool2D, in_shape: Sequence[int], out_shape: Sequence[int]) -> None:
    dilation = a.dilation if isinstance(a, Conv2D) else (1, 1)
    if min(*a.kernel, *a.stride, *dilation) < 1 or max(*a.stride, *dilation) > 255 or min(a.padding) < 0:
        raise ModelError(
            f"layer {layer!r}: kernel {a.kernel}, stride {a.stride}, dilation {dilation}, padding {a.padding}: "
            "sides must be >= 1, strides and dilations <= 255, padding >= 0"
        )
    for side, (n, out) in enumerate(zip(in_shape[1:3], out_shape[1:3], strict=True)):
        padding = a.padding[2 * side] + a.padding[2 * side + 1]
        want = (n + padding - (a.kernel[side] - 1) * dilation[side] - 1) // a.stride[side] + 1
        if want != out or max(a.padding[2 * side : 2 * side + 2]) >= max(a.kernel[side] * dilation[side], 1):
            raise ModelError(
                f"layer {layer!r}: input {tuple(in_shape)} with kernel {a.kernel}, stride {a.stride}, padding {a.padding} "
                f"gives {want} along side {side}, the file says {out}"
            )


def check_model(model: Model) -> Model:
    """The model itself, if its graph is sound.

    Raises ModelError for bad indices, cycles or use before definition, two writers of one tensor, no layers,
    activations too large, and geometry that does not add up.
    """
    n = len(model.tensors)
    if not model.layers or len(model.layers) > MAX_LAYERS:
        raise ModelError(f"{model.name} has {len(model.layers)} layers: 1 to {MAX_LAYERS} are allowed")
    if not model.inputs or not model.outputs:
        raise ModelError(f"{model.name} has no input or no output")

    def check_indices(indices: Iterable[int], owner: str) -> None:
        for i in indices:
            if not 0 <= i < n:
                raise ModelError(f"{owner} refers to tensor {i}: the file has tensors 0 to {n - 1}")

    check_indices((*model.inputs, *model.outputs), model.name)
    defined = set(model.inputs) | {i for i, t in enumerate(model.tensors) if t.constant}
    for i in model.inputs:
        if model.tensors[i].constant:
            raise ModelError(f"the input {model.tensors[i].name!r} is a constant")
    for layer in model.layers:
        check_indices((*layer.inputs, *layer.outputs), f"layer {layer.name!r}")
        for i in layer.inputs:
            if i not in defined:
                raise ModelError(
                    f"layer {layer.name!r} reads {model.tensors[i].name!r} before anything writes it (a cycle?)"
                )
        for i in layer.outputs:
            if i in defined:
                raise ModelError(f"layer {layer.name!r} writes {model.tensors[i].name!r}, which is written already")
            defined.add(i)
    for i in model.outputs:
        if i not in defined:
            raise ModelError(f"the output {model.tensors[i].name!r} is never written")
    for t in model.tensors:
        if not t.constant and t.size_bytes > MAX_ACTIVATION_BYTES:
            raise ModelError(
                f"activation {t.name!r} {t.shape} has {t.size_bytes} bytes: at most {MAX_ACTIVATION_BYTES} are allowed"
            )
    if model.quantised:
        for layer in model.layers:
            _check_layer(model, layer.name, layer.op, layer)
    return model


def _check_layer(model: Model, name: str, op: str, layer: object) -> None:
    from jouleflow.graph.model import Layer

    assert isinstance(layer, Layer)
    tensors = model.tensors
    shapes = [tensors[i].shape for i in layer.inputs]
    out = tensors[layer.outputs[0]].shape
    a = layer.attributes

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise ModelError(f"layer {name!r} ({op}): {what}; inputs {shapes}, output {out}")

    if isinstance(a, Conv2D):
        require(len(shapes) == 3 and len(shapes[0]) == 4 and len(shapes[1]) == 4 and len(out) == 4, "needs 4-D tensors")
        _check_spatial(name, a, shapes[0], out)
        w = shapes[1]
        require(a.groups >= 1 and shapes[0][3] == a.groups * w[3], "input channels do not match the weights")
        require(w[0] == out[3] and out[3] % a.groups == 0, "output channels do not match the weights")
        require(tuple(w[1:3]) == a.kernel and prod(shapes[2]) == w[0], "kernel or bias do not match the weights")
    elif isinstance(a, Pool2D):
        require(len(shapes[0]) == 4 and len(out) == 4 and shapes[0][3] == out[3], "needs 4-D tensors of equal channels")
        _check_spatial(name, a, shapes[0], out)
    elif op == "dense":
        w = shapes[1]
        require(len(shapes) == 3 and len(w) == 2 and prod(shapes[0]) == w[1], "input size does not match the weights")
        require(prod(out) == w[0] == prod(shapes[2]), "output size does not match the weights (batch 1 only)")
    elif op in ("add", "mul"):
        require(len(shapes) == 2, "needs two inputs")
        full = [s for s, i in zip(shapes, layer.inputs, strict=True) if not tensors[i].constant]
        require(bool(full) and all(s == out for s in full), "computed operands must have the output's shape")
        for s in shapes:
            padded = (1,) * (len(out) - len(s)) + tuple(s)
            require(len(s) <= len(out), "a constant has too many dimensions")
            require(all(p in (1, o) for p, o in zip(padded, out, strict=True)), "the constant does not broadcast")
    elif op in ("reshape", "requantize", "logistic", "softmax"):
        require(prod(shapes[0]) == prod(out), "sizes differ")
        require(op == "reshape" or shapes[0] == out, "shapes differ")
    elif op == "concat":
        axis = getattr(a, "axis", -1)
        require(1 <= axis < len(out), "bad axis (the batch cannot be joined)")
        require(all(len(s) == len(out) for s in shapes), "ranks differ")
        require(sum(s[axis] for s in shapes) == out[axis], "sides do not add up")
        require(all(s[:axis] + s[axis + 1 :] == out[:axis] + out[axis + 1 :] for s in shapes), "other sides differ")
    elif op == "pad":
        p = getattr(a, "padding", (-1, 0, 0, 0))
        require(len(out) == 4 and min(p) >= 0 and max(p) < 32768, "padding must be in [0, 32767] on rows and columns")
        s = shapes[0]
        require(out == (s[0], s[1] + p[0] + p[1], s[2] + p[2] + p[3], s[3]), "sides do not add up")
    elif op == "mean":
        require(len(shapes[0]) == 4 and prod(out) == shapes[0][3], "takes the mean over height and width only")
    elif op == "resize_nearest":
        require(len(shapes[0]) == 4 and len(out) == 4 and shapes[0][3] == out[3], "channels differ")
