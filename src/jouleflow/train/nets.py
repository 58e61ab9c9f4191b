"""The small nets that policies run: made in torch, kept as ONNX. Nothing here is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jouleflow.errors import InputError
from jouleflow.graph.onnx_check import parse_onnx


def make_net(n_in: int, n_out: int, hidden: tuple[int, ...]) -> torch.nn.Sequential:
    """Linear layers with ReLU between."""
    layers: list[torch.nn.Module] = []
    for width in hidden:
        layers += [torch.nn.Linear(n_in, width), torch.nn.ReLU()]
        n_in = width
    return torch.nn.Sequential(*layers, torch.nn.Linear(n_in, n_out))


def linears(net: torch.nn.Module) -> list[torch.nn.Linear]:
    """Its linear layers, in order."""
    return [m for m in net.modules() if isinstance(m, torch.nn.Linear)]


def weights_of(net: torch.nn.Module) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(weights[in, out], bias[out]) of each layer."""
    return [
        (layer.weight.detach().numpy().T.astype(np.float32), layer.bias.detach().numpy().astype(np.float32))
        for layer in linears(net)
    ]


def onnx_of(net: torch.nn.Module, notes: dict[str, str]) -> bytes:
    """The net as ONNX: `seen` [1, in] to `scores` [1, out]. notes: metadata, such as seeds and settings."""
    weights = weights_of(net)
    nodes, initialisers, at = [], [], "seen"
    for k, (w, b) in enumerate(weights):
        last = k + 1 == len(weights)
        initialisers += [numpy_helper.from_array(np.ascontiguousarray(w), f"w{k}"), numpy_helper.from_array(b, f"b{k}")]
        nodes.append(helper.make_node("Gemm", [at, f"w{k}", f"b{k}"], ["scores" if last else f"h{k}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}"]))
        at = f"r{k}"
    graph = helper.make_graph(
        nodes, "policy",
        [helper.make_tensor_value_info("seen", TensorProto.FLOAT, [1, weights[0][0].shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, weights[-1][0].shape[1]])],
        initialisers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, notes)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def load_weights(net: torch.nn.Module, path: Path) -> None:
    """Puts the weights of an exported net into one of the same shape.

    Raises ModelError for a broken file, InputError for another shape.
    """
    tensors: dict[str, Any] = {
        t.name: numpy_helper.to_array(t) for t in parse_onnx(path.read_bytes(), path.name).graph.initializer
    }
    for k, layer in enumerate(linears(net)):
        w, b = tensors.get(f"w{k}"), tensors.get(f"b{k}")
        if w is None or b is None or w.T.shape != tuple(layer.weight.shape):
            raise InputError(
                f"{path.name}: layer {k} is not {tuple(layer.weight.shape)}: it is a net of another kind or version"
            )
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(w.T)))
            layer.bias.copy_(torch.from_numpy(b.copy()))
