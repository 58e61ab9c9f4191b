"""Shapes of every value, and constants worked out where a file computes them (the sizes of pads and reshapes).

Only cheap operators on constants are folded, and what they make is charged against a budget before it exists: a file
cannot ask for more than a small multiple of its own size. ONNX's own shape inference is asked one node at a time, without
its propagation of data, which has no such bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx.shape_inference import InferenceError, infer_node_outputs

from jouleflow.errors import ModelError
from jouleflow.graph.check import check_shape
from jouleflow.graph.onnx_check import DTYPES, Array, Node, OnnxGraph, shown

BUDGET_FACTOR = 4
BUDGET_BASE_BYTES = 16 << 20
MAX_KNOWN = 1024  # constants up to this many elements are shown to shape inference
ONNX_TYPES = {dtype: kind for kind, (dtype, _) in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class ShapedGraph:
    """A graph whose constants are folded, and the NumPy type and shape of every value that is left."""

    graph: OnnxGraph
    dtype: dict[str, str]
    shape: dict[str, tuple[int, ...]]


class _Budget:
    def __init__(self, graph: OnnxGraph) -> None:
        self.left_bytes = BUDGET_FACTOR * graph.file_bytes + BUDGET_BASE_BYTES

    def charge(self, n_elements: int, itemsize: int) -> None:
        """Raises ModelError when the constants that a file computes grow out of proportion."""
        self.left_bytes -= n_elements * itemsize
        if self.left_bytes < 0:
            raise ModelError("the constants that the graph computes are far larger than the file: refused")


def with_shapes(graph: OnnxGraph) -> ShapedGraph:
    """The graph with constants folded and every shape known.

    Raises ModelError for shapes that depend on data, unknown operators (all at once), and rubbish.
    """
    _refuse_unknown(graph)
    budget = _Budget(graph)
    constants = dict(graph.constants)
    dtype = {name: kind for name, (kind, _) in graph.inputs.items()}
    shape = {name: sides for name, (_, sides) in graph.inputs.items()}
    kept = []
    for node in graph.nodes:
        if _folded(node, graph.opset, constants, shape, budget):
            continue
        _infer(node, graph.opset, constants, dtype, shape)
        kept.append(node)
    return ShapedGraph(replace(graph, nodes=tuple(kept), constants=constants), dtype, shape)


def _refuse_unknown(graph: OnnxGraph) -> None:
    unknown = []
    for node in graph.nodes:
        try:
            onnx.defs.get_schema(node.op, graph.opset, "")
        except onnx.defs.SchemaError:
            unknown.append(f"{shown(node.name)} ({node.op[:60]})")
    if unknown:
        raise ModelError(
            f"{graph.name}: {len(unknown)} node(s) are no operators of ONNX {graph.opset}: {', '.join(unknown[:40])}. "
            "Export with standard operators, quantised in the QDQ format"
        )


def _infer(
    node: Node, opset: int, constants: dict[str, Array], dtype: dict[str, str], shape: dict[str, tuple[int, ...]]
) -> None:
    """Adds type and shape of a node's outputs."""
    types, known = {}, {}
    for name in filter(None, node.inputs):
        constant = constants.get(name)
        if constant is not None and constant.size <= MAX_KNOWN:
            known[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(constant), name)
        kind, sides = (dtype[name], shape[name]) if constant is None else (str(constant.dtype), constant.shape)
        types[name] = onnx.helper.make_tensor_type_proto(ONNX_TYPES[kind], sides)
    schema = onnx.defs.get_schema(node.op, opset, "")
    version = [onnx.helper.make_opsetid("", opset)]
    try:
        schema.verify(node.proto)
        found = infer_node_outputs(schema, node.proto, types, known, None, version)
    except (InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"node {shown(node.name)} ({node.op}) does not fit its inputs: {text}") from error
    for k, name in enumerate(node.outputs):
        if not name:
            continue
        kind = found[name].tensor_type if name in found else None
        fixed = kind is not None and kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
        if kind is None or not fixed or kind.elem_type not in DTYPES:
            raise ModelError(
                f"node {shown(node.name)} ({node.op}): the shape of output {k} depends on data or its type is not supported; "
                "export with fixed shapes"
            )
        dtype[name] = DTYPES[kind.elem_type][0]
        shape[name] = check_shape(name[:200], [d.dim_value for d in kind.shape.dim])


def _folded(
    node: Node, opset: int, constants: dict[str, Array], shape: dict[str, tuple[int, ...]], budget: _Budget
) -> bool:
    """Whether the node's one output became a constant."""
    if len(node.outputs) != 1 or node.op not in FOLDERS:
        return False
    if node.op == "Shape" and node.inputs and node.inputs[0] in shape:
        sides = np.array(shape[node.inputs[0]], np.int64)
        constants[node.outputs[0]] = sides[slice(node.attributes.get("start"), node.attributes.get("end"))]
        return True
    if any(i and i not in constants for i in node.inputs):
        return False
    values = [constants[i] if i else None for i in node.inputs]
    try:
        result = FOLDERS[node.op](node, values, opset, budget)
    except ModelError:
        raise
    except (ValueError, IndexError, TypeError, OverflowError, KeyError, AttributeError, MemoryError) as error:
        raise ModelError(f"node {shown(node.name)} ({node.op}) cannot be computed from its constants: {error}") from error
    if result is None:
        return False
    constants[node.outputs[0]] = result
    return True


Values = list[Any]
Folder = Callable[[Node, Values, int, _Budget], Array | None]


def _constant(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    a = node.attributes
    if "value" in a and isinstance(a["value"], np.ndarray):
        return a["value"]
    if "value_int" in a or "value_ints" in a:
        return np.array(a.get("value_int", a.get("value_ints")), np.int64)
    if "value_float" in a or "value_floats" in a:
        return np.array(a.get("value_float", a.get("value_floats")), np.float32)
    raise ModelError(f"the Constant {shown(node.name)} has no number as its value")


def _constant_of_shape(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    sides = tuple(int(s) for s in values[0].ravel())
    fill = node.attributes.get("value", np.zeros(1, np.float32))
    if any(s < 0 for s in sides):
        raise ValueError(f"negative side in {sides[:8]}")
    budget.charge(prod(sides), fill.dtype.itemsize)
    return np.full(sides, fill.ravel()[0])


def _cast(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    dtype = np.dtype(DTYPES[node.attributes["to"]][0])
    budget.charge(values[0].size, dtype.itemsize)
    with np.errstate(all="ignore"):
        cast: Array = values[0].astype(dtype)
    return cast


def _concat(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    budget.charge(sum(v.size for v in values), values[0].dtype.itemsize)
    joined: Array = np.concatenate(values, axis=node.attributes["axis"])
    return joined


def _reshape(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    data, sides = values[0], [int(s) for s in values[1].ravel()]
    if not node.attributes.get("allowzero", 0):
        sides = [data.shape[k] if s == 0 else s for k, s in enumerate(sides)]
    budget.charge(data.size, data.dtype.itemsize)  # a transposed array is copied
    reshaped: Array = data.reshape(sides)
    return reshaped


def _transpose(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    turned: Array = values[0].transpose(node.attributes.get("perm"))
    return turned


def axes_of(node: Node, values: Values) -> list[int] | None:
    """The axes of an operator that takes them as an attribute or, in later versions, as its second input."""
    if "axes" in node.attributes:
        return [int(a) for a in node.attributes["axes"]]
    return [int(a) for a in values[1].ravel()] if len(values) > 1 and values[1] is not None else None


def _squeeze(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    axes = axes_of(node, values)
    squeezed: Array = np.squeeze(values[0], None if axes is None else tuple(axes))
    return squeezed


def _unsqueeze(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    expanded: Array = np.expand_dims(values[0], tuple(axes_of(node, values) or ()))
    return expanded


def _slice(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    """Bounds beyond the sides are cut, as NumPy does."""
    if opset < 10:
        return None
    starts, ends = ([int(v) for v in values[k].ravel()] for k in (1, 2))
    axes = [int(v) for v in values[3].ravel()] if len(values) > 3 and values[3] is not None else list(range(len(starts)))
    steps = [int(v) for v in values[4].ravel()] if len(values) > 4 and values[4] is not None else [1] * len(starts)
    at = [slice(None)] * values[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = values[0].shape[axis]
        stop = None if step < 0 and end < -size else end
        at[axis] = slice(start, stop, step)
    part: Array = values[0][tuple(at)]
    return part


def _gather(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    data, index = values[0], values[1]
    axis = node.attributes.get("axis", 0)
    budget.charge(data.size // max(data.shape[axis], 1) * index.size, data.dtype.itemsize)
    taken: Array = np.take(data, index, axis)
    return taken


def _arithmetic(compute: Callable[[Any, Any], Any]) -> Folder:
    def fold(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
        a, b = values
        if a.dtype != b.dtype:
            raise TypeError(f"operands are {a.dtype} and {b.dtype}")
        budget.charge(prod(np.broadcast_shapes(a.shape, b.shape)), a.dtype.itemsize)
        with np.errstate(all="ignore"):
            result: Array = np.asarray(compute(a, b)).astype(a.dtype)
        return result

    return fold


def _divide(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise ValueError("integer division by zero")
    return np.trunc(a.astype(np.float64) / b) if np.any((a < 0) | (b < 0)) else a // b


def _identity(node: Node, values: Values, opset: int, budget: _Budget) -> Array | None:
    same: Array = values[0]
    return same


FOLDERS: dict[str, Folder] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Cast": _cast,
    "Concat": _concat,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Gather": _gather,
    "Shape": _identity,
    "Identity": _identity,
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_divide),
}
