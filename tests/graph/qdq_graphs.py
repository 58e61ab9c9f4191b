"""Small QDQ models built node by node, as onnxruntime's quantiser writes them, for the tests of the ONNX loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jouleflow.graph.model import Model
from jouleflow.graph.reference import run_reference

SEED = 7


class TinyModel:
    """A QDQ graph that grows node by node; every method returns the name of what it added."""

    def __init__(self, input_shape: tuple[int, ...], scale: float = 0.05, zero: int = 3, dtype: str = "int8") -> None:
        self.random = np.random.default_rng(SEED)
        self.input_shape, self.dtype = input_shape, np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.n = 0

    def constant(self, values: Any, dtype: Any = None, name: str = "") -> str:
        name = name or self._name("c")
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = self._name(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"node_{out}", **attributes))
        return out

    def quantized(self, x: str, scale: float, zero: int) -> str:
        """x through QuantizeLinear and DequantizeLinear; the zero point is given for int8."""
        shift = 128 if self.dtype == np.uint8 else 0
        s, z = self.constant(np.float32(scale)), self.constant(zero + shift, self.dtype)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, s, z), s, z)

    def weights(self, shape: tuple[int, ...], axis: int | None = None, data: NDArray[Any] | None = None) -> str:
        """int8 weights behind DequantizeLinear, with one scale or one per slice of `axis`."""
        values = self.random.integers(-127, 128, shape) if data is None else data
        if axis is None:
            return self.node(
                "DequantizeLinear",
                self.constant(values, np.int8),
                self.constant(np.float32(0.01)),
                self.constant(0, np.int8),
            )
        n = shape[axis]
        scales = self.constant(self.random.uniform(0.002, 0.02, n).astype(np.float32))
        zeros = self.constant(np.zeros(n, np.int8))
        return self.node("DequantizeLinear", self.constant(values, np.int8), scales, zeros, axis=axis)

    def model(self, output: str, opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, self.input_shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def _name(self, stem: str) -> str:
        self.n += 1
        return f"{stem}_{self.n}"


def residual_model() -> onnx.ModelProto:
    """Convolution with ReLU, depthwise convolution, residual sum, mean, dense: 4 x 6 x 6 in, 5 out."""
    t = TinyModel((1, 4, 6, 6))
    x = t.quantized("image", 0.05, 3)
    bias = t.node(
        "DequantizeLinear",
        t.constant([100, -50, 0, 7], np.int32),
        t.constant(np.float32(0.05 * 0.01)),
        t.constant(0, np.int32),
    )
    y = t.node("Conv", x, t.weights((4, 4, 3, 3)), bias, pads=[1, 1, 1, 1])
    y = t.quantized(t.node("Relu", y), 0.06, -128)
    z = t.quantized(t.node("Conv", y, t.weights((4, 1, 3, 3), axis=0), group=4, pads=[1, 1, 1, 1]), 0.05, 5)
    z = t.quantized(t.node("Add", z, x), 0.08, -3)
    z = t.quantized(t.node("GlobalAveragePool", z), 0.03, 0)
    z = t.quantized(t.node("Flatten", z, axis=1), 0.03, 0)
    return t.model(t.quantized(t.node("Gemm", z, t.weights((5, 4)), transB=1), 0.05, 1))


def save(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "tiny.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def difference_lsb(model: Model, proto: onnx.ModelProto, n: int = 8, channels_last: bool = False) -> float:
    """The largest difference between our integers and onnxruntime's floats, in units of the output's scale.

    4-D outputs are compared as NCHW. channels_last: the file's own input is NHWC.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    t_in, t_out = model.tensors[model.inputs[0]], model.tensors[model.outputs[0]]
    assert t_in.quantisation is not None
    assert t_out.quantisation is not None
    random = np.random.default_rng(SEED)
    worst = 0.0
    for _ in range(n):
        q = random.integers(-128, 128, t_in.shape).astype(np.int8)
        real = ((q.astype(np.float32) - t_in.quantisation.zero_point[0]) * t_in.quantisation.scale[0]).astype(
            np.float32
        )
        feed = real.transpose(0, 3, 1, 2) if real.ndim == 4 and not channels_last else real
        theirs = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(feed)})[0]
        ours = run_reference(model, q)
        if theirs.ndim == 4 and ours.ndim == 4:
            ours = ours.transpose(0, 3, 1, 2)
        scale, zero = t_out.quantisation.scale[0], t_out.quantisation.zero_point[0]
        gap = np.abs(theirs.ravel() / scale + zero - ours.ravel())
        worst = max(worst, float(gap.max()))
    return worst
