"""Small random int8 networks made straight from the nouns, one kind of layer each, for the kernel contract."""

from __future__ import annotations

from math import prod

import numpy as np

from jouleflow.graph import model as g
from jouleflow.graph.check import check_model, same_padding


class Builder:
    """Grows a network layer by layer with random weights and scales."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors = [g.Tensor("x", (1, *shape), "int8", self.quantisation())]
        self.layers: list[g.Layer] = []
        self.at = 0

    def quantisation(self) -> g.Quantisation:
        return g.Quantisation(
            np.array([self.random.uniform(0.02, 0.2)], np.float32), np.array([self.random.integers(-40, 40)], np.int32)
        )

    def tensor(
        self,
        shape: tuple[int, ...],
        quantisation: g.Quantisation | None = None,
        data: np.ndarray | None = None,
        dtype: str = "int8",
    ) -> int:
        self.tensors.append(g.Tensor(f"t{len(self.tensors)}", shape, dtype, quantisation, data))
        return len(self.tensors) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors[self.at].shape

    def layer(
        self,
        op: str,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        attributes: g.Attributes,
        q: g.Quantisation | None = None,
        macs: int = 0,
    ) -> int:
        out = self.tensor(shape, q or self.quantisation())
        self.layers.append(g.Layer(f"{op} {len(self.layers)}", op, inputs, (out,), attributes, macs))
        self.at = out
        return out

    def conv(
        self,
        n_out: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        padding: str = "same",
        relu: bool = False,
        zero: int = 0,
    ) -> int:
        _, rows, cols, depth = self.shape
        pads = (0, 0, 0, 0)
        if padding == "same":
            pads = same_padding(rows, kernel[0], stride[0], dilation[0]) + same_padding(
                cols, kernel[1], stride[1], dilation[1]
            )
        out_rows = (rows + pads[0] + pads[1] - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1
        out_cols = (cols + pads[2] + pads[3] - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1
        w_shape = (n_out, *kernel, depth // groups)
        data = self.random.integers(-127, 128, w_shape).astype(np.int8)
        scale = self.random.uniform(0.001, 0.02, n_out if zero == 0 else 1).astype(np.float32)
        zeros = np.full(scale.size, zero, np.int32)
        w = self.tensor(w_shape, g.Quantisation(scale, zeros, 0 if scale.size > 1 else None), data)
        b = self.tensor((n_out,), None, self.random.integers(-3000, 3000, n_out).astype(np.int32), "int32")
        q = g.Quantisation(
            np.array([prod(w_shape[1:]) ** 0.5 * 0.06], np.float32), np.array([self.random.integers(-30, 30)], np.int32)
        )
        low = int(q.zero_point[0]) if relu else -128
        op = "depthwise_conv2d" if groups == depth and groups > 1 else "conv2d"
        a = g.Conv2D(kernel, stride, pads, dilation, groups, low, 127)
        return self.layer(
            op, (self.at, w, b), (1, out_rows, out_cols, n_out), a, q, out_rows * out_cols * n_out * prod(w_shape[1:])
        )

    def dense(self, n_out: int) -> int:
        n_in = prod(self.shape)
        data = self.random.integers(-127, 128, (n_out, n_in)).astype(np.int8)
        w = self.tensor((n_out, n_in), g.Quantisation(np.array([0.01], np.float32), np.array([0], np.int32)), data)
        b = self.tensor((n_out,), None, self.random.integers(-3000, 3000, n_out).astype(np.int32), "int32")
        q = g.Quantisation(np.array([n_in**0.5 * 0.06], np.float32), np.array([5], np.int32))
        return self.layer("dense", (self.at, w, b), (1, n_out), g.Dense(-128, 127), q, data.size)

    def elementwise(self, op: str, a: int, b: int) -> int:
        return self.layer(
            op,
            (a, b),
            self.tensors[a].shape,
            g.Elementwise(-120, 120),
            g.Quantisation(np.array([0.3], np.float32), np.array([-3], np.int32)),
        )

    def same_scale(self, op: str, shape: tuple[int, ...], attributes: g.Attributes) -> int:
        return self.layer(op, (self.at,), shape, attributes, self.tensors[self.at].quantisation)

    def model(self) -> g.Model:
        return check_model(g.Model("tiny", "0" * 64, tuple(self.tensors), tuple(self.layers), (0,), (self.at,), "test"))


def _convolution(**options: object) -> g.Model:
    b = Builder((9, 7, int(options.pop("depth", 5))), 1)
    b.conv(**options)  # type: ignore[arg-type]
    return b.model()


def _residual() -> g.Model:
    b = Builder((8, 8, 6), 2)
    first = b.conv(6, (3, 3))
    second = b.conv(6, (1, 1))
    b.elementwise("add", second, first)
    return b.model()


def _product() -> g.Model:
    b = Builder((6, 5, 4), 3)
    x = b.conv(4, (1, 1))
    b.layer(
        "logistic",
        (x,),
        b.shape,
        g.Logistic(),
        g.Quantisation(np.array([1 / 256], np.float32), np.array([-128], np.int32)),
    )
    b.elementwise("mul", x, b.at)
    return b.model()


def _with_constant(op: str) -> g.Model:
    b = Builder((6, 5, 4), 4)
    c = b.tensor(
        (1, 1, 1, 4),
        g.Quantisation(np.array([0.1], np.float32), np.array([2], np.int32)),
        b.random.integers(-128, 128, (1, 1, 1, 4)).astype(np.int8),
    )
    b.elementwise(op, 0, c)
    return b.model()


def _pool(op: str) -> g.Model:
    b = Builder((9, 9, 5), 5)
    b.same_scale(op, (1, 5, 5, 5), g.Pool2D((3, 3), (2, 2), (1, 1, 1, 1), -128, 127))
    return b.model()


def _global_average() -> g.Model:
    b = Builder((6, 6, 7), 6)
    b.same_scale("avg_pool", (1, 1, 1, 7), g.Pool2D((6, 6), (1, 1), (0, 0, 0, 0), -128, 127))
    b.same_scale("reshape", (1, 7), g.Reshape())
    b.dense(10)
    b.layer(
        "softmax",
        (b.at,),
        (1, 10),
        g.Softmax(1.0),
        g.Quantisation(np.array([1 / 256], np.float32), np.array([-128], np.int32)),
    )
    return b.model()


def _mean() -> g.Model:
    b = Builder((5, 6, 9), 7)
    b.layer("mean", (0,), (1, 9), g.Mean())
    return b.model()


def _concat(axis: int) -> g.Model:
    b = Builder((6, 6, 4), 8)
    first = b.conv(4, (3, 3))
    b.layer("requantize", (0,), b.tensors[0].shape, g.Requantize(-100, 90))
    shape = list(b.shape)
    shape[axis] *= 2
    b.layer("concat", (first, b.at), tuple(shape), g.Concat(axis))
    return b.model()


def _pad() -> g.Model:
    b = Builder((5, 4, 3), 9)
    b.same_scale("pad", (1, 8, 7, 3), g.Pad((1, 2, 3, 0), 7))
    b.conv(4, (3, 3), padding="valid")
    return b.model()


def _resize() -> g.Model:
    b = Builder((4, 5, 3), 10)
    b.same_scale("resize_nearest", (1, 8, 15, 3), g.ResizeNearest(False, False))
    return b.model()


NETWORKS = {
    "conv 3x3": lambda: _convolution(n_out=8, kernel=(3, 3)),
    "conv 3x3 odd channels, stride 2, relu": lambda: _convolution(n_out=7, kernel=(3, 3), stride=(2, 2), relu=True),
    "conv 1x1": lambda: _convolution(n_out=8, kernel=(1, 1), depth=12),
    "conv 5x3 valid": lambda: _convolution(n_out=6, kernel=(5, 3), padding="valid"),
    "conv dilated": lambda: _convolution(n_out=4, kernel=(3, 3), dilation=(2, 2)),
    "conv grouped": lambda: _convolution(n_out=6, kernel=(3, 3), groups=2, depth=4),
    "conv with a weight zero point": lambda: _convolution(n_out=6, kernel=(3, 3), zero=3),
    "conv 1x1 with a weight zero point": lambda: _convolution(n_out=5, kernel=(1, 1), depth=7, zero=-128),
    "depthwise 3x3 with a weight zero point": lambda: _convolution(n_out=8, kernel=(3, 3), groups=8, depth=8, zero=-7),
    "depthwise 3x3 stride 2, odd": lambda: _convolution(n_out=7, kernel=(3, 3), stride=(2, 2), groups=7, depth=7),
    "depthwise 3x3 stride 2 x 1, valid, relu": lambda: _convolution(
        n_out=16, kernel=(3, 3), stride=(2, 1), groups=16, depth=16, padding="valid", relu=True
    ),
    "depthwise 3x3": lambda: _convolution(n_out=8, kernel=(3, 3), groups=8, depth=8),
    "depthwise 5x5 stride 2, odd": lambda: _convolution(n_out=7, kernel=(5, 5), stride=(2, 2), groups=7, depth=7),
    "depthwise multiplier 2": lambda: _convolution(n_out=8, kernel=(3, 3), groups=4, depth=4),
    "residual add": _residual,
    "product and logistic": _product,
    "add constant": lambda: _with_constant("add"),
    "mul constant": lambda: _with_constant("mul"),
    "average pool": lambda: _pool("avg_pool"),
    "maximum pool": lambda: _pool("max_pool"),
    "global average, dense, softmax": _global_average,
    "mean": _mean,
    "concat channels": lambda: _concat(3),
    "concat rows": lambda: _concat(1),
    "pad": _pad,
    "resize": _resize,
}
