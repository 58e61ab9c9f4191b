"""Float ONNX models for analysis: layers, shapes, multiply-accumulates. They cannot become firmware."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import onnx

from jouleflow.errors import ModelError
from jouleflow.graph.check import check_shape
from jouleflow.graph.model import Layer, Model, Tensor
from jouleflow.graph.onnx_check import attributes_of, tensor_array

KINDS = {"Conv": "conv2d", "Gemm": "dense", "MatMul": "dense"}


def load_float(proto: Any, path: Path, digest: str) -> Model:
    """A float model with shapes by ONNX's own inference (no values are propagated); unknown sides count as 1."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=False)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{path.name}: shapes cannot be inferred: {str(error)[:120]}") from error
    graph = inferred.graph
    tensors: list[Tensor] = []
    index: dict[str, int] = {}
    for initializer in graph.initializer:
        data = tensor_array(initializer, path.parent)
        index[initializer.name] = len(tensors)
        tensors.append(Tensor(initializer.name[:200], tuple(data.shape) or (1,), str(data.dtype), None, data))
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = [d.dim_value if d.HasField("dim_value") else 1 for d in value.type.tensor_type.shape.dim]
        shapes[value.name] = check_shape(value.name[:80], [max(d, 1) for d in dims])
    layers = []

    def tensor(name: str) -> int:
        if name not in index:
            index[name] = len(tensors)
            tensors.append(Tensor(name[:200], shapes.get(name, (1,)), "float32"))
        return index[name]

    inputs = [tensor(v.name) for v in graph.input if v.name not in index]
    for node in graph.node:
        sources = tuple(tensor(name) for name in node.input if name)
        outs = tuple(tensor(name) for name in node.output if name)
        if not outs:
            continue
        out, macs = tensors[outs[0]], 0
        if node.op_type == "Conv" and len(sources) > 1:
            macs = out.n_elements * prod(tensors[sources[1]].shape[1:])
        elif node.op_type in ("Gemm", "MatMul") and len(sources) > 1:
            w = tensors[sources[1]].shape
            transposed = node.op_type == "Gemm" and attributes_of(node).get("transB", 0)
            macs = out.n_elements * (w[-1] if transposed else w[-2 if len(w) > 1 else -1])
        kind = KINDS.get(node.op_type, node.op_type.lower()[:40])
        layers.append(Layer((node.name or node.output[0])[:200], kind, sources, outs, None, macs))
    outputs = tuple(tensor(v.name) for v in graph.output)
    return Model(path.name, digest, tuple(tensors), tuple(layers), tuple(inputs), outputs, "onnx", False)
