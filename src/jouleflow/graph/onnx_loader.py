"""int8 QDQ ONNX files as `Model`: DequantizeLinear, operator, QuantizeLinear become one integer layer, NCHW becomes NHWC.

Between its quantisers a value is "pending": computed in real numbers, waiting for the scale it will be stored in. uint8
activations are read as int8 (128 less). Float models load for analysis only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from jouleflow.errors import ModelError
from jouleflow.graph.check import check_model, check_quantisation, check_shape
from jouleflow.graph.model import (
    Attributes,
    Conv2D,
    Dense,
    Elementwise,
    Layer,
    Model,
    Pool2D,
    Quantisation,
    Requantize,
    Reshape,
    Tensor,
)
from jouleflow.graph.onnx_check import attributes_of, parse_onnx, tensor_array
from jouleflow.graph.onnx_float import load_float

BROKEN = (
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    AttributeError,
    MemoryError,
    RecursionError,
    ArithmeticError,
)


@dataclass(frozen=True, slots=True)
class Constant:
    """Values known now; scale is set once they are dequantised (they stay integers)."""

    data: NDArray[Any]
    quantisation: Quantisation | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """An int8 activation. channels_last: a 4-D value that the file itself has turned to NHWC; order: the (h, w, c) whose
    NHWC order a flattened value keeps, where the file would have c, h, w."""

    tensor: int
    channels_last: bool = False
    order: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A layer whose output scale is not known yet. clamp: real bounds of a fused activation. shape is NHWC or (1, n)."""

    op: str
    inputs: tuple[int, ...]
    attributes: Attributes
    shape: tuple[int, ...]
    macs: int = 0
    name: str = ""
    clamp: tuple[float, float] = (-np.inf, np.inf)
    keeps_quantisation: bool = False
    channels_last: bool = False  # as in Stored, of which the result is one
    order: tuple[int, int, int] | None = None


Value = Constant | Stored | Pending


def load_onnx(path: Path) -> Model:
    """The model in an ONNX file.

    Raises ModelError when it is broken, hostile, or uses operators that cannot run.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path.name}: {error.strerror}") from error
    proto = parse_onnx(data, path.name)
    digest = hashlib.sha256(data).hexdigest()
    kinds = {node.op_type for node in proto.graph.node}
    try:
        if "QuantizeLinear" not in kinds:
            return check_model(load_float(proto, path, digest))
        from jouleflow.graph.onnx_ops import READERS

        unknown = [
            f"{n.name[:60] or n.output[0][:60]!r} ({n.op_type})" for n in proto.graph.node if n.op_type not in READERS
        ]
        if unknown:
            raise ModelError(
                f"{path.name}: no int8 kernel for {len(unknown)} operator(s): {', '.join(unknown[:40])}. Supported: "
                f"{', '.join(sorted(READERS))}. Replace them or leave them to the host"
            )
        return check_model(Reader(proto, path, digest).read(READERS))
    except ModelError:
        raise
    except BROKEN as error:
        raise ModelError(
            f"{path.name} is damaged or uses an unusual form ({type(error).__name__}: {error})"[:300]
        ) from error


class Reader:
    """State of one loading: values by name, and the tensors and layers so far."""

    def __init__(self, proto: Any, path: Path, digest: str) -> None:
        self.graph, self.name, self.digest = proto.graph, path.name, digest
        self.tensors: list[Tensor] = []
        self.layers: list[Layer] = []
        self.values: dict[str, Value] = {}
        self.floats: dict[str, tuple[int, ...]] = {}  # float inputs not yet quantised: shape as in the file
        self.inputs: list[int] = []
        for initializer in self.graph.initializer:
            self.values[initializer.name] = Constant(tensor_array(initializer, path.parent))
        self.folder = path.parent
        self.opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
        self.unsigned: set[str] = set()  # integers that the file keeps as uint8
        self.turned = _turned_to_nchw(self.graph)

    def read(self, readers: dict[str, Any]) -> Model:
        for value in self.graph.input:
            if value.name not in self.values:
                dims = [d.dim_value if d.HasField("dim_value") else 1 for d in value.type.tensor_type.shape.dim]
                self.floats[value.name] = check_shape(value.name[:80], [1, *dims[1:]] if dims else [])
        for node in self.graph.node:
            readers[node.op_type](self, node, attributes_of(node))
        outputs = []
        for value in self.graph.output:
            found = self.values.get(value.name)
            if not isinstance(found, Stored):
                raise ModelError(f"{self.name}: output {value.name[:80]!r} is not quantised: quantise the whole model")
            if found.order is not None:
                raise ModelError(
                    f"{self.name}: output {value.name[:80]!r} is a flattened map, in another order than ours: "
                    "end the model before the Flatten"
                )
            outputs.append(found.tensor)
        return Model(
            self.name, self.digest, tuple(self.tensors), tuple(self.layers), tuple(self.inputs), tuple(outputs), "onnx"
        )

    # ---- values ----

    def constant(self, node: NodeProto, k: int) -> NDArray[Any]:
        """Input k of a node, which must be a constant."""
        value = self.values.get(node.input[k]) if k < len(node.input) else None
        if not isinstance(value, Constant):
            raise ModelError(f"{self.where(node)}: input {k} must be a constant")
        return value.data

    def stored(self, node: NodeProto, k: int) -> Stored:
        """Input k of a node as a quantised activation; a pending one is an error, it has no scale."""
        value = self.values.get(node.input[k])
        if not isinstance(value, Stored):
            raise ModelError(
                f"{self.where(node)}: input {node.input[k][:80]!r} is not quantised: quantise the whole model"
            )
        return value

    def where(self, node: NodeProto) -> str:
        return f"{self.name}: {node.op_type} {node.name[:80] or node.output[0][:80]!r}"

    def shape(self, value: Stored) -> tuple[int, ...]:
        return self.tensors[value.tensor].shape

    def add_tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        q: Quantisation | None,
        data: NDArray[Any] | None = None,
        dtype: str = "int8",
    ) -> int:
        check_shape(name[:80], shape)
        if q is not None:
            check_quantisation(name[:80], shape, dtype, q)
        self.tensors.append(Tensor(name[:200], shape, dtype, q, data))
        return len(self.tensors) - 1

    def add_layer(
        self,
        name: str,
        op: str,
        inputs: tuple[int, ...],
        attributes: Attributes,
        shape: tuple[int, ...],
        q: Quantisation,
        macs: int = 0,
    ) -> int:
        out = self.add_tensor(name, shape, q)
        self.layers.append(Layer(name[:200], op, inputs, (out,), attributes, macs))
        return out

    # ---- quantisers ----

    def quantisation(self, node: NodeProto, dtype: str, axis: int) -> tuple[Quantisation, int]:
        """Scale and zero point of a (De)QuantizeLinear, and what to take off uint8 values (128)."""
        scale = np.asarray(self.constant(node, 1), np.float32).ravel()
        zero = (
            np.asarray(self.constant(node, 2)).ravel()
            if len(node.input) > 2 and node.input[2]
            else np.zeros(scale.size, np.uint8)
        )
        if not (scale.size and np.all(np.isfinite(scale)) and np.all(scale > 0)):
            raise ModelError(
                f"{self.where(node)}: scale {scale.min(initial=np.inf)} must be finite and > 0; quantise the model again"
            )
        offset = 128 if dtype == "uint8" else 0
        return Quantisation(scale, zero.astype(np.int32) - offset, axis if scale.size > 1 else None), offset

    def finish(self, pending: Pending, name: str, q: Quantisation) -> Stored:
        """The layer of a pending value, stored in quantisation q."""
        scale, zero = float(q.scale.flat[0]), int(q.zero_point.flat[0])

        def at(real: float, low: int) -> int:
            if not np.isfinite(real):
                return low
            return int(np.clip(np.round(real / scale) + zero, -128, 127))

        act = (at(pending.clamp[0], -128), at(pending.clamp[1], 127))
        a = pending.attributes
        if isinstance(a, Conv2D | Dense | Elementwise | Requantize) or (
            isinstance(a, Pool2D) and not pending.keeps_quantisation
        ):
            a = replace(a, act_min=act[0], act_max=act[1])
        name = pending.name or name
        if pending.keeps_quantisation:  # pooling and resizing work in their input's quantisation
            source = self.tensors[pending.inputs[0]].quantisation
            assert source is not None
            inner = self.add_layer(name, pending.op, pending.inputs, a, pending.shape, source)
            if not same(source, q) or act != (-128, 127):
                inner = self.add_layer(f"{name} scale", "requantize", (inner,), Requantize(*act), pending.shape, q)
            return Stored(inner, pending.channels_last, pending.order)
        if act != (-128, 127) and not isinstance(a, Conv2D | Dense | Elementwise | Requantize):
            raise ModelError(f"{self.name}: {pending.op} {name[:80]!r} cannot take a fused activation")
        out = self.add_layer(name, pending.op, pending.inputs, a, pending.shape, q, pending.macs)
        return Stored(out, pending.channels_last, pending.order)

    def quantize_linear(self, node: NodeProto, _: dict[str, Any]) -> None:
        dtype = self._zero_type(node)
        q, _offset = self.quantisation(node, dtype, 0)
        if q.per_channel:
            raise ModelError(f"{self.where(node)}: activations must have one scale")
        out = node.output[0]
        if dtype == "uint8":
            self.unsigned.add(out)
        source = self.values.get(node.input[0])
        if source is None and node.input[0] in self.floats:
            shape = self.floats[node.input[0]]
            channels_last = len(shape) == 4 and node.input[0] in self.turned
            if len(shape) == 4 and not channels_last:
                shape = (shape[0], shape[2], shape[3], shape[1])
            index = self.add_tensor(node.input[0], shape, q)
            self.inputs.append(index)
            self.values[out] = Stored(index, channels_last)
        elif isinstance(source, Pending):
            self.values[out] = self.finish(source, out, q)
        elif isinstance(source, Stored):
            before = self.tensors[source.tensor].quantisation
            assert before is not None
            if same(before, q):
                self.values[out] = source
            else:
                index = self.add_layer(
                    out, "requantize", (source.tensor,), Requantize(-128, 127), self.shape(source), q
                )
                self.values[out] = replace(source, tensor=index)
        elif isinstance(source, Constant) and source.quantisation is None:
            low = -128
            data = np.clip(np.round(source.data / q.scale[0]) + q.zero_point[0], low, 127).astype(np.int8)
            self.values[out] = Constant(data, q)
        else:
            raise ModelError(f"{self.where(node)}: cannot quantise {node.input[0][:80]!r}")

    def _zero_type(self, node: NodeProto) -> str:
        if len(node.input) < 3 or not node.input[2]:
            return "uint8"
        dtype = str(self.constant(node, 2).dtype)
        if dtype not in ("int8", "uint8"):
            raise ModelError(f"{self.where(node)}: type {dtype} is not supported: use int8 or uint8")
        return dtype

    def dequantize_linear(self, node: NodeProto, a: dict[str, Any]) -> None:
        source = self.values.get(node.input[0])
        if isinstance(source, Stored):
            before = self.tensors[source.tensor].quantisation
            assert before is not None
            dtype = "uint8" if node.input[0] in self.unsigned else "int8"
            if len(node.input) > 2 and node.input[2]:
                dtype = self._zero_type(node)
            given, offset = self.quantisation(node, dtype, 0)
            if len(node.input) < 3 or not node.input[2]:
                given = replace(given, zero_point=np.full(given.scale.size, -offset, np.int32))
            if not same(before, given):
                raise ModelError(
                    f"{self.where(node)}: scale {given.scale[:3]}, zero point {given.zero_point[:3]} differ from those "
                    f"that made {node.input[0][:80]!r}, {before.scale} and {before.zero_point}: quantise again"
                )
            self.values[node.output[0]] = source
            return
        if not isinstance(source, Constant):
            raise ModelError(f"{self.where(node)}: input {node.input[0][:80]!r} is not quantised")
        if source.quantisation is not None:
            self.values[node.output[0]] = source
            return
        dtype = str(source.data.dtype)
        if dtype not in ("int8", "uint8", "int32"):
            raise ModelError(
                f"{self.where(node)}: a constant of type {dtype} is not supported: use int8, uint8 or int32"
            )
        axis = int(a.get("axis", 1))
        q, offset = self.quantisation(node, dtype, axis % max(source.data.ndim, 1))
        data = source.data if not offset else (source.data.astype(np.int16) - offset).astype(np.int8)
        self.values[node.output[0]] = Constant(data, q)


def _turned_to_nchw(graph: Any) -> set[str]:
    """Inputs of the graph that a Transpose takes from NHWC to NCHW, quantised before it or not."""
    origin = {value.name: value.name for value in graph.input}
    found = set()
    for node in graph.node:
        source = origin.get(node.input[0]) if node.input else None
        if source is None:
            continue
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Identity"):
            origin[node.output[0]] = source
        elif node.op_type == "Transpose" and list(attributes_of(node).get("perm", ())) == [0, 3, 1, 2]:  # type: ignore[call-overload]
            found.add(source)
    return found


def same(a: Quantisation, b: Quantisation) -> bool:
    """Whether two quantisations are equal, exactly."""
    return bool(np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point))


__all__ = ["Constant", "Pending", "Reader", "Reshape", "Stored", "load_onnx", "same"]
