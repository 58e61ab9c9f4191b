"""int8 .tflite files with one operator each, in random quantisations, made with the schema's own writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import pytest


@dataclass
class Maker:
    """Collects tensors and one operator."""

    random: np.random.Generator
    s: Any = field(default_factory=lambda: pytest.importorskip("ai_edge_litert.schema_py_generated"))

    def __post_init__(self) -> None:
        self.buffers, self.tensors, self.operators, self.codes = [self.s.BufferT()], [], [], []

    def q(self) -> tuple[float, int]:
        return float(np.float32(self.random.uniform(0.01, 0.2))), int(self.random.integers(-60, 60))

    def tensor(
        self,
        shape: tuple[int, ...],
        scale: Any = None,
        zero: int = 0,
        data: np.ndarray | None = None,
        kind: str = "INT8",
        axis: int = 0,
    ) -> int:
        t = self.s.TensorT()
        t.name, t.shape, t.buffer = f"t{len(self.tensors)}".encode(), list(shape), 0
        t.type = getattr(self.s.TensorType, kind)
        if data is not None:
            b = self.s.BufferT()
            b.data = np.frombuffer(data.tobytes(), np.uint8)
            self.buffers.append(b)
            t.buffer = len(self.buffers) - 1
        if scale is not None:
            quantisation = self.s.QuantizationParametersT()
            quantisation.scale = np.atleast_1d(np.array(scale, np.float32))
            quantisation.zeroPoint = np.full(quantisation.scale.size, zero, np.int64)
            quantisation.quantizedDimension = axis
            t.quantization = quantisation
        self.tensors.append(t)
        return len(self.tensors) - 1

    def operator(
        self,
        code: str,
        inputs: list[int],
        outputs: list[int],
        options: str | None = None,
        version: int = 1,
        **values: Any,
    ) -> None:
        c = self.s.OperatorCodeT()
        c.builtinCode = getattr(self.s.BuiltinOperator, code)
        c.deprecatedBuiltinCode, c.version = min(c.builtinCode, 127), version
        self.codes.append(c)
        o = self.s.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = len(self.codes) - 1, inputs, outputs
        if options:
            o.builtinOptionsType = getattr(self.s.BuiltinOptions, options)
            o.builtinOptions = getattr(self.s, f"{options}T")()
            for name, value in values.items():
                assert hasattr(o.builtinOptions, name)
                setattr(o.builtinOptions, name, value)
        self.operators.append(o)

    def file(self, source: int, target: int) -> bytes:
        graph = self.s.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs, graph.name = [source], [target], b"main"
        model = self.s.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], self.buffers, self.codes
        model.description = b"one operator"
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


SHAPE = (1, 7, 6, 5)


def conv(m: Maker, stride: int = 1, dilation: int = 1, padding: str = "SAME", activation: str = "NONE") -> bytes:
    s_in, s_w = m.q(), m.random.uniform(0.002, 0.02, 4).astype(np.float32)
    x = m.tensor(SHAPE, *s_in)
    w = m.tensor((4, 3, 2, 5), s_w, 0, m.random.integers(-127, 128, (4, 3, 2, 5)).astype(np.int8))
    b = m.tensor((4,), s_w * np.float32(s_in[0]), 0, m.random.integers(-900, 900, 4).astype(np.int32), "INT32")
    rows, cols = (
        (-(-7 // stride), -(-6 // stride))
        if padding == "SAME"
        else ((7 - 2 * dilation - 1) // stride + 1, (6 - dilation - 1) // stride + 1)
    )
    y = m.tensor((1, rows, cols, 4), float(np.float32(m.random.uniform(0.03, 0.1))), int(m.random.integers(-40, 40)))
    m.operator(
        "CONV_2D", [x, w, b], [y], "Conv2DOptions", 2, strideH=stride, strideW=stride, dilationHFactor=dilation, dilationWFactor=dilation,
        padding=getattr(m.s.Padding, padding), fusedActivationFunction=getattr(m.s.ActivationFunctionType, activation),
    )  # fmt: skip
    return m.file(x, y)


def depthwise(m: Maker, multiplier: int = 1, stride: int = 1) -> bytes:
    s_in, n = m.q(), 5 * multiplier
    s_w = m.random.uniform(0.005, 0.03, n).astype(np.float32)
    x = m.tensor(SHAPE, *s_in)
    w = m.tensor((1, 3, 3, n), s_w, 0, m.random.integers(-127, 128, (1, 3, 3, n)).astype(np.int8), axis=3)
    b = m.tensor((n,), s_w * np.float32(s_in[0]), 0, m.random.integers(-900, 900, n).astype(np.int32), "INT32")
    y = m.tensor((1, -(-7 // stride), -(-6 // stride), n), 0.05, 3)
    m.operator(
        "DEPTHWISE_CONV_2D",
        [x, w, b],
        [y],
        "DepthwiseConv2DOptions",
        3,
        strideH=stride,
        strideW=stride,
        depthMultiplier=multiplier,
        dilationHFactor=1,
        dilationWFactor=1,
        padding=m.s.Padding.SAME,
    )
    return m.file(x, y)


def dense(m: Maker) -> bytes:
    x = m.tensor((1, 40), *m.q())
    w = m.tensor((9, 40), 0.01, 0, m.random.integers(-127, 128, (9, 40)).astype(np.int8))
    y = m.tensor((1, 9), 0.1, -4)
    m.operator("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions", 4)
    return m.file(x, y)


def binary(m: Maker, code: str, options: str, activation: str = "NONE") -> bytes:
    """The operator on an input and on a requantised copy of it."""
    x = m.tensor(SHAPE, *m.q())
    r = m.tensor(SHAPE, *m.q())
    y = m.tensor(SHAPE, float(np.float32(m.random.uniform(0.05, 0.3))), int(m.random.integers(-40, 40)))
    m.operator("QUANTIZE", [x], [r], "QuantizeOptions", 2)
    m.operator(code, [x, r], [y], options, 2, fusedActivationFunction=getattr(m.s.ActivationFunctionType, activation))
    return m.file(x, y)


def with_constant(m: Maker, code: str, options: str, shape: tuple[int, ...]) -> bytes:
    x = m.tensor(SHAPE, *m.q())
    c = m.tensor(shape, *m.q(), m.random.integers(-128, 128, shape).astype(np.int8))
    y = m.tensor(SHAPE, 0.11, 7)
    m.operator(code, [x, c], [y], options, 2)
    return m.file(x, y)


def pool(m: Maker, code: str, padding: str) -> bytes:
    q = m.q()
    x = m.tensor(SHAPE, *q)
    rows, cols = (4, 3) if padding == "SAME" else (3, 2)
    y = m.tensor((1, rows, cols, 5), *q)
    m.operator(
        code,
        [x],
        [y],
        "Pool2DOptions",
        2,
        filterHeight=3,
        filterWidth=3,
        strideH=2,
        strideW=2,
        padding=getattr(m.s.Padding, padding),
    )
    return m.file(x, y)


def mean(m: Maker) -> bytes:
    x = m.tensor(SHAPE, *m.q())
    a = m.tensor((2,), None, 0, np.array([1, 2], np.int32), "INT32")
    y = m.tensor((1, 5), *m.q())
    m.operator("MEAN", [x, a], [y], "ReducerOptions", 2, keepDims=False)
    return m.file(x, y)


def pad(m: Maker) -> bytes:
    q = m.q()
    x = m.tensor(SHAPE, *q)
    p = m.tensor((4, 2), None, 0, np.array([[0, 0], [1, 2], [3, 0], [0, 0]], np.int32), "INT32")
    y = m.tensor((1, 10, 9, 5), *q)
    m.operator("PAD", [x, p], [y], "PadOptions", 2)
    return m.file(x, y)


def concat(m: Maker, axis: int) -> bytes:
    q = m.q()
    x = m.tensor(SHAPE, *q)
    r = m.tensor(SHAPE, *q)
    shape = list(SHAPE)
    shape[axis] *= 2
    y = m.tensor(tuple(shape), *q)
    m.operator("RELU", [x], [r], None, 2)
    m.operator("CONCATENATION", [x, r], [y], "ConcatenationOptions", 2, axis=axis)
    return m.file(x, y)


def unary(
    m: Maker,
    code: str,
    options: str | None,
    out: tuple[float, int] | None = None,
    shape: tuple[int, ...] = SHAPE,
    **values: Any,
) -> bytes:
    x = m.tensor(shape, *m.q())
    y = m.tensor(shape, *(out or m.q()))
    m.operator(code, [x], [y], options, 2, **values)
    return m.file(x, y)


def resize(m: Maker, align: bool, half: bool) -> bytes:
    q = m.q()
    x = m.tensor(SHAPE, *q)
    size = m.tensor((2,), None, 0, np.array([10, 13], np.int32), "INT32")
    y = m.tensor((1, 10, 13, 5), *q)
    m.operator(
        "RESIZE_NEAREST_NEIGHBOR",
        [x, size],
        [y],
        "ResizeNearestNeighborOptions",
        3,
        alignCorners=align,
        halfPixelCenters=half,
    )
    return m.file(x, y)


UNIT = (1 / 256, -128)
MODELS = {
    "conv": conv,
    "conv stride 2 relu": lambda m: conv(m, stride=2, activation="RELU"),
    "conv dilated": lambda m: conv(m, dilation=2),
    "conv valid relu6": lambda m: conv(m, padding="VALID", activation="RELU6"),
    "depthwise": depthwise,
    "depthwise multiplier 2 stride 2": lambda m: depthwise(m, 2, 2),
    "dense": dense,
    "add": lambda m: binary(m, "ADD", "AddOptions"),
    "add relu": lambda m: binary(m, "ADD", "AddOptions", "RELU"),
    "mul": lambda m: binary(m, "MUL", "MulOptions"),
    "add constant": lambda m: with_constant(m, "ADD", "AddOptions", SHAPE),
    "mul constant per channel": lambda m: with_constant(m, "MUL", "MulOptions", (5,)),
    "average pool same": lambda m: pool(m, "AVERAGE_POOL_2D", "SAME"),
    "average pool valid": lambda m: pool(m, "AVERAGE_POOL_2D", "VALID"),
    "max pool": lambda m: pool(m, "MAX_POOL_2D", "SAME"),
    "mean": mean,
    "pad": pad,
    "concat channels": lambda m: concat(m, 3),
    "concat rows": lambda m: concat(m, 1),
    "softmax": lambda m: unary(m, "SOFTMAX", "SoftmaxOptions", UNIT, (1, 12), beta=1.0),
    "logistic": lambda m: unary(m, "LOGISTIC", None, UNIT),
    "quantize": lambda m: unary(m, "QUANTIZE", "QuantizeOptions"),
    "relu": lambda m: unary(m, "RELU", None),
    "relu6": lambda m: unary(m, "RELU6", None),
    "resize": lambda m: resize(m, False, False),
    "resize half pixel": lambda m: resize(m, False, True),
    "resize aligned": lambda m: resize(m, True, False),
}
