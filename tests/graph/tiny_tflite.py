"""A small valid int8 .tflite, made with the schema's own writer: convolution, pooling, dense, softmax."""

from __future__ import annotations

import flatbuffers
import numpy as np
import pytest


def tiny_tflite(seed: int = 0) -> bytes:
    s = pytest.importorskip("ai_edge_litert.schema_py_generated")
    random = np.random.default_rng(seed)
    buffers, tensors, operators, codes = [s.BufferT()], [], [], []

    def tensor(
        name: str,
        shape: tuple[int, ...],
        kind: int,
        scale: object = None,
        zero: object = 0,
        data: np.ndarray | None = None,
        axis: int = 0,
    ) -> int:
        t = s.TensorT()
        t.name, t.shape, t.type, t.buffer = name.encode(), list(shape), kind, 0
        if data is not None:
            b = s.BufferT()
            b.data = np.frombuffer(data.tobytes(), np.uint8)
            buffers.append(b)
            t.buffer = len(buffers) - 1
        if scale is not None:
            q = s.QuantizationParametersT()
            q.scale = np.atleast_1d(np.array(scale, np.float32))
            q.zeroPoint = np.full(q.scale.size, zero, np.int64)
            q.quantizedDimension = axis
            t.quantization = q
        tensors.append(t)
        return len(tensors) - 1

    def operator(code: int, inputs: list[int], outputs: list[int], kind: int, options: object) -> None:
        c = s.OperatorCodeT()
        c.builtinCode, c.deprecatedBuiltinCode, c.version = code, min(code, 127), 1
        codes.append(c)
        o = s.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = len(codes) - 1, inputs, outputs
        o.builtinOptionsType, o.builtinOptions = kind, options
        operators.append(o)

    int8, int32 = s.TensorType.INT8, s.TensorType.INT32
    w_scale = random.uniform(0.005, 0.02, 4)
    x = tensor("x", (1, 6, 6, 2), int8, 0.05, 3)
    w = tensor("w", (4, 3, 3, 2), int8, w_scale, 0, random.integers(-127, 128, (4, 3, 3, 2)).astype(np.int8))
    b = tensor("b", (4,), int32, w_scale * 0.05, 0, random.integers(-500, 500, 4).astype(np.int32))
    y = tensor("y", (1, 6, 6, 4), int8, 0.1, -5)
    p = tensor("p", (1, 3, 3, 4), int8, 0.1, -5)
    v = tensor("v", (3, 36), int8, 0.01, 0, random.integers(-127, 128, (3, 36)).astype(np.int8))
    z = tensor("z", (1, 3), int8, 0.2, 1)
    r = tensor("r", (1, 3), int8, 1 / 256, -128)
    conv, pool, dense, soft = s.Conv2DOptionsT(), s.Pool2DOptionsT(), s.FullyConnectedOptionsT(), s.SoftmaxOptionsT()
    conv.padding, conv.strideH, conv.strideW, conv.dilationHFactor, conv.dilationWFactor = s.Padding.SAME, 1, 1, 1, 1
    pool.padding, pool.strideH, pool.strideW, pool.filterHeight, pool.filterWidth = s.Padding.VALID, 2, 2, 2, 2
    soft.beta = 1.0
    operator(s.BuiltinOperator.CONV_2D, [x, w, b], [y], s.BuiltinOptions.Conv2DOptions, conv)
    operator(s.BuiltinOperator.MAX_POOL_2D, [y], [p], s.BuiltinOptions.Pool2DOptions, pool)
    operator(s.BuiltinOperator.FULLY_CONNECTED, [p, v, -1], [z], s.BuiltinOptions.FullyConnectedOptions, dense)
    operator(s.BuiltinOperator.SOFTMAX, [z], [r], s.BuiltinOptions.SoftmaxOptions, soft)
    graph = s.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs, graph.name = tensors, operators, [x], [r], b"main"
    model = s.ModelT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes, model.description = (
        3,
        [graph],
        buffers,
        codes,
        b"tiny",
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
