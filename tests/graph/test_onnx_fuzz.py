"""Damaged and hostile ONNX files: a sound Model or a ModelError, nothing else."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.errors import ModelError
from jouleflow.graph.constants import layer_constants
from jouleflow.graph.onnx_loader import load_onnx
from tests.graph.qdq_graphs import residual_model

WHOLE = residual_model().SerializeToString()
N_INITIALIZERS = len(residual_model().graph.initializer)
N_NODES = len(residual_model().graph.node)
FOLDER = tempfile.TemporaryDirectory()
HOSTILE_INTS = st.sampled_from([0, -1, 1, 2, 3, 127, 128, 255, 1 << 15, 1 << 31, (1 << 31) - 1, 1 << 40, -(1 << 63)])
OPS = st.sampled_from(["Conv", "Gemm", "Add", "Flatten", "Transpose", "Softmax", "Resize", "Pad", "If", "Expand", ""])


def sound_or_refused(data: bytes) -> None:
    """Loads the bytes; what loads must have constants that can be prepared, unless that too is a ModelError."""
    path = Path(FOLDER.name) / "fuzzed.onnx"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            model = load_onnx(path)
            for layer in model.layers if model.quantised else ():
                if layer.op != "reshape":
                    layer_constants(model, layer)
        except ModelError:
            return


def test_the_undamaged_file_loads() -> None:
    path = Path(FOLDER.name) / "whole.onnx"
    path.write_bytes(WHOLE)
    assert len(load_onnx(path).layers) == 6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_truncated(length: int) -> None:
    sound_or_refused(WHOLE[:length])


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_bytes_changed(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for at, value in changes:
        data[at] = value
    sound_or_refused(bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)), st.binary(max_size=16))
def test_bytes_cut_and_inserted(start: int, end: int, inserted: bytes) -> None:
    sound_or_refused(WHOLE[:start] + inserted + WHOLE[end:])


Change = Callable[[onnx.ModelProto, st.DataObject], None]


def _dims(proto: onnx.ModelProto, data: st.DataObject) -> None:
    tensor = proto.graph.initializer[data.draw(st.integers(0, N_INITIALIZERS - 1))]
    dims = data.draw(st.lists(HOSTILE_INTS, max_size=6))
    tensor.ClearField("dims")
    tensor.dims.extend(dims)


def _values(proto: onnx.ModelProto, data: st.DataObject) -> None:
    tensor = proto.graph.initializer[data.draw(st.integers(0, N_INITIALIZERS - 1))]
    if tensor.data_type == onnx.TensorProto.FLOAT:
        extreme = [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, 1e-30, 3e38]
        n = len(tensor.raw_data) // 4
        values = data.draw(st.lists(st.sampled_from(extreme), min_size=n, max_size=n))
        tensor.raw_data = np.array(values, np.float32).tobytes()
    else:
        tensor.raw_data = bytes(data.draw(st.sampled_from([0, 127, 128, 255])) for _ in range(len(tensor.raw_data)))


def _type(proto: onnx.ModelProto, data: st.DataObject) -> None:
    proto.graph.initializer[data.draw(st.integers(0, N_INITIALIZERS - 1))].data_type = data.draw(st.integers(0, 30))


def _names(proto: onnx.ModelProto, data: st.DataObject) -> None:
    node = proto.graph.node[data.draw(st.integers(0, N_NODES - 1))]
    other = proto.graph.node[data.draw(st.integers(0, N_NODES - 1))]
    name = data.draw(st.sampled_from([*other.output, *other.input, "image", "", "\x00", "x" * 100_000]))
    names = node.output if data.draw(st.booleans()) else node.input
    if names:
        names[data.draw(st.integers(0, len(names) - 1))] = name


def _inputs(proto: onnx.ModelProto, data: st.DataObject) -> None:
    node = proto.graph.node[data.draw(st.integers(0, N_NODES - 1))]
    if data.draw(st.booleans()):
        del node.input[-1:]
    elif data.draw(st.booleans()):
        del node.output[:]
    else:
        node.input.extend(list(node.input) * 3)


def _operator(proto: onnx.ModelProto, data: st.DataObject) -> None:
    proto.graph.node[data.draw(st.integers(0, N_NODES - 1))].op_type = data.draw(OPS)


def _attribute(proto: onnx.ModelProto, data: st.DataObject) -> None:
    node = proto.graph.node[data.draw(st.integers(0, N_NODES - 1))]
    kinds = ["group", "axis", "strides", "pads", "dilations", "kernel_shape", "transB", "auto_pad", "alpha", "perm"]
    name = data.draw(st.sampled_from(kinds))
    lists = st.lists(HOSTILE_INTS, min_size=1, max_size=5)
    values = st.one_of(HOSTILE_INTS, lists, st.text(max_size=4), st.just(np.nan))
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, data.draw(values))])


def _graph_input(proto: onnx.ModelProto, data: st.DataObject) -> None:
    tensor = proto.graph.input[0].type.tensor_type
    del tensor.shape.dim[:]
    for side in data.draw(st.lists(HOSTILE_INTS, max_size=6)):
        tensor.shape.dim.add().dim_value = side
    tensor.elem_type = data.draw(st.integers(0, 20))


CHANGES: list[Change] = [_dims, _values, _type, _names, _inputs, _operator, _attribute, _graph_input]


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_fields_changed(data: st.DataObject) -> None:
    proto = residual_model()
    for _ in range(data.draw(st.integers(1, 3))):
        data.draw(st.sampled_from(CHANGES))(proto, data)
    sound_or_refused(proto.SerializeToString())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_float_model_with_fields_changed(data: st.DataObject) -> None:
    """Without quantisers the file goes to ONNX's own shape inference, which must not bring us down."""
    proto = residual_model()
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            node.op_type = "Identity"
            del node.input[1:]
    for _ in range(data.draw(st.integers(1, 3))):
        data.draw(st.sampled_from(CHANGES))(proto, data)
    sound_or_refused(proto.SerializeToString())
