"""Three networks of well-known shapes with random weights of fixed seeds: kws (DS-CNN), rn20 (CIFAR ResNet-20) and mbv2
(MobileNetV2 1.0, 224), float32 ONNX with an open batch. They cost what such networks cost, and know nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model


class Net:
    """Grows a convolutional network; batch normalisation is folded away."""

    def __init__(self, shape: tuple[int, int, int], seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.shape = shape
        self.at, self.channels = "x", shape[0]

    def _weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        name = f"w{len(self.weights)}"
        values = self.random.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        self.at = out
        return out

    def conv(self, n_out: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1, relu: str = "Relu") -> str:
        w, b = self._weight(n_out, self.channels // groups, *kernel), self._weight(n_out)
        pads = [(kernel[0] - 1) // 2, (kernel[1] - 1) // 2, kernel[0] // 2, kernel[1] // 2]
        self.node("Conv", self.at, w, b, kernel_shape=kernel, strides=[stride] * 2, pads=pads, group=groups)
        self.channels = n_out
        if relu == "Relu6":
            low, high = self._constant(0.0), self._constant(6.0)
            return self.node("Clip", self.at, low, high)
        return self.node(relu, self.at) if relu else self.at

    def _constant(self, value: float) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def save(self, path: Path, n_classes: int) -> None:
        self.node("GlobalAveragePool", self.at)
        self.node("Flatten", self.at)
        w, b = self._weight(n_classes, self.channels), self._weight(n_classes)
        self.nodes.append(helper.make_node("Gemm", [self.at, w, b], ["y"], transB=1))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *self.shape])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", n_classes])
        graph = helper.make_graph(self.nodes, "net", [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        checker.check_model(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, str(path))


def kws(path: Path, width: int = 24) -> None:
    net = Net((1, 49, 10), 0)
    net.conv(width, (10, 4), 2)
    for _ in range(4):
        net.conv(width, (3, 3), groups=width)
        net.conv(width, (1, 1))
    net.save(path, 12)


def rn20(path: Path) -> None:
    net = Net((3, 32, 32), 1)
    net.conv(16, (3, 3))
    for channels, first in ((16, 1), (32, 2), (64, 2)):
        for k in range(3):
            stride, kept, before = (first if k == 0 else 1), net.at, net.channels
            net.conv(channels, (3, 3), stride)
            body = net.conv(channels, (3, 3), relu="")
            if stride != 1 or before != channels:
                net.at, net.channels = kept, before
                kept = net.conv(channels, (1, 1), stride, relu="")
            net.node("Add", body, kept)
            net.node("Relu", net.at)
    net.save(path, 10)


def mbv2(path: Path) -> None:
    net = Net((3, 224, 224), 2)
    net.conv(32, (3, 3), 2, relu="Relu6")
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, channels, n, first in table:
        for k in range(n):
            stride, kept, before = (first if k == 0 else 1), net.at, net.channels
            if expand > 1:
                net.conv(before * expand, (1, 1), relu="Relu6")
            net.conv(net.channels, (3, 3), stride, groups=net.channels, relu="Relu6")
            net.conv(channels, (1, 1), relu="")
            if stride == 1 and before == channels:
                net.node("Add", net.at, kept)
    net.conv(1280, (1, 1), relu="Relu6")
    net.save(path, 1000)


MODELS: dict[str, Callable[[Path], None]] = {"kws": kws, "rn20": rn20, "mbv2": mbv2}
SHAPES = {"kws": (1, 49, 10), "rn20": (3, 32, 32), "mbv2": (3, 224, 224)}


def make_all(folder: Path) -> Path:
    """Writes FOLDER/<name>/model.onnx for each, unless it is there."""
    for name, make in MODELS.items():
        path = folder / name / "model.onnx"
        if not path.exists():
            make(path)
    return folder
