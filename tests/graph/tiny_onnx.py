"""A small valid int8 QDQ ONNX model, and the means to break it."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper


def tiny_onnx(seed: int = 0) -> ModelProto:
    random = np.random.default_rng(seed)
    init, nodes = [], []

    def constant(name: str, value: np.ndarray) -> str:
        init.append(numpy_helper.from_array(value, name))
        return name

    def quantised(name: str, scale: float, zero: int) -> str:
        s, z = constant(f"{name}_s", np.float32(scale)), constant(f"{name}_z", np.int8(zero))
        nodes.append(helper.make_node("QuantizeLinear", [name, s, z], [f"{name}_q"], name=f"{name}_Q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", s, z], [f"{name}_d"], name=f"{name}_DQ"))
        return f"{name}_d"

    def weights(name: str, shape: tuple[int, ...]) -> str:
        value = constant(name, random.integers(-127, 128, shape).astype(np.int8))
        s = constant(f"{name}_s", random.uniform(0.005, 0.02, shape[0]).astype(np.float32))
        z = constant(f"{name}_z", np.zeros(shape[0], np.int8))
        nodes.append(helper.make_node("DequantizeLinear", [value, s, z], [f"{name}_d"], axis=0, name=f"{name}_DQ"))
        return f"{name}_d"

    x = quantised("x", 0.05, 3)
    nodes.append(helper.make_node("Conv", [x, weights("w", (4, 2, 3, 3))], ["c"], pads=[1, 1, 1, 1], name="conv"))
    nodes.append(helper.make_node("Relu", ["c"], ["y"], name="relu"))
    y = quantised("y", 0.1, -128)
    nodes.append(helper.make_node("Flatten", [y], ["f"], name="flatten"))
    f = quantised("f", 0.1, -128)
    nodes.append(helper.make_node("Gemm", [f, weights("v", (3, 144))], ["g"], transB=1, name="gemm"))
    g = quantised("g", 0.3, 1)
    nodes.append(helper.make_node("Identity", [g], ["out"], name="end"))
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 6, 6])], [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])], init
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
