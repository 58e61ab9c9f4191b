"""Small float ONNX models made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model


def save(path: Path, nodes: list, inputs: list, outputs: list, weights: dict[str, np.ndarray] | None = None) -> Path:
    """Writes a model; inputs and outputs are (name, ONNX type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(v, k) for k, v in (weights or {}).items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def affine(path: Path, batch: int | str = "n", factor: float = 2.0) -> Path:
    """y = factor * x + 1 for rows of four."""
    return save(
        path,
        [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])],
        [("x", TensorProto.FLOAT, [batch, 4])],
        [("y", TensorProto.FLOAT, [batch, 4])],
        {"w": np.array(factor, np.float32), "b": np.array(1.0, np.float32)},
    )


def memory_hog(path: Path) -> Path:
    """Makes a tensor of n x n floats from an input n."""
    return save(
        path,
        [
            helper.make_node("Concat", ["n", "n"], ["shape"], axis=0),
            helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["y"], keepdims=0),
        ],
        [("n", TensorProto.INT64, [1])],
        [("y", TensorProto.FLOAT, [])],
    )


def counter(path: Path) -> Path:
    """Counts to n, and so may run for as long as its sender likes."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["go_on_out"]), helper.make_node("Add", ["at", "one"], ["at_out"])],
        "body",
        [
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("at", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("at_out", TensorProto.INT64, []),
        ],
    )
    return save(
        path,
        [
            helper.make_node("Squeeze", ["n"], ["most"]),
            helper.make_node("Loop", ["most", "yes", "zero"], ["y"], body=body),
        ],
        [("n", TensorProto.INT64, [1])],
        [("y", TensorProto.INT64, [])],
        {"yes": np.array(True), "zero": np.array(0, np.int64), "one": np.array(1, np.int64)},
    )


def wide(path: Path, side: int = 4_000_000) -> Path:
    """One number in, so many out."""
    return save(
        path,
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 1])],
        [("y", TensorProto.FLOAT, ["n", side])],
        {"shape": np.array([1, side], np.int64)},
    )


def quadratic(path: Path, width: int = 2048) -> Path:
    """y = x for rows of `width`, by way of the products of all rows with each other: a row costs more in a large batch."""
    return save(
        path,
        [
            helper.make_node("Transpose", ["x"], ["t"]),
            helper.make_node("MatMul", ["x", "t"], ["products"]),
            helper.make_node("ReduceSum", ["products"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["n", width])],
        [("y", TensorProto.FLOAT, ["n", width])],
        {"zero": np.array(0.0, np.float32)},
    )
