"""Model files that reach for others, hide tensors or want code of their own: the process that reads them refuses them with a reason."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from jouleflow.errors import ModelError
from jouleflow.runtime.process import ModelProcess, Settings
from tests.runtime.models import affine

SRC = Path(__file__).parents[2] / "src" / "jouleflow"


def elsewhere(shape: tuple[int, ...] = (4,), name: str = "secret", dtype: int = TensorProto.FLOAT) -> TensorProto:
    """A tensor that keeps its data in the file `secret`."""
    tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret"
    return tensor


def branch(initializer: TensorProto) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", [initializer.name], ["inner_y"])],
        "inner",
        [],
        [helper.make_tensor_value_info("inner_y", TensorProto.FLOAT, None)],
        [initializer],
    )


def if_node(graph: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["yes"], ["from_if"], then_branch=graph, else_branch=graph)


def in_attribute(proto: ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=elsewhere()))


def in_attribute_list(proto: ModelProto) -> None:
    attribute = onnx.AttributeProto(name="values", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(elsewhere())
    proto.graph.node[0].attribute.append(attribute)


def in_subgraph(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(if_node(branch(elsewhere())))


def in_nested_subgraph(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    inner = branch(elsewhere())
    outer = branch(numpy_helper.from_array(np.ones(4, np.float32), "plain"))
    outer.node.append(if_node(inner))
    proto.graph.node.append(if_node(outer))


def in_sparse_values(proto: ModelProto) -> None:
    indices = numpy_helper.from_array(np.array([0], np.int64), "")
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=elsewhere((1,)), indices=indices, dims=[4]))


def in_sparse_indices(proto: ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = elsewhere((1,), "", TensorProto.INT64)
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=[4]))


def in_sparse_attribute(proto: ModelProto) -> None:
    indices = numpy_helper.from_array(np.array([0], np.int64), "")
    sparse = onnx.SparseTensorProto(values=elsewhere((1,)), indices=indices, dims=[4])
    attribute = onnx.AttributeProto(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
    proto.graph.node.append(onnx.NodeProto(op_type="Constant", output=["c"], attribute=[attribute]))


def in_function(proto: ModelProto) -> None:
    function = proto.functions.add()
    function.name, function.domain = "f", "own"
    function.node.append(helper.make_node("Constant", [], ["c"], value=elsewhere()))


def in_training_information(proto: ModelProto) -> None:
    proto.training_info.add().initialization.initializer.append(elsewhere())


def of_own_code(proto: ModelProto) -> None:
    proto.graph.node[0].domain = "evil.ops"


def of_own_code_in_a_subgraph(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    inner = branch(numpy_helper.from_array(np.ones(4, np.float32), "plain"))
    inner.node[0].domain = "evil.ops"
    proto.graph.node.append(if_node(inner))


def nested_too_deep(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph = branch(numpy_helper.from_array(np.ones(4, np.float32), "plain"))
    for _ in range(12):
        outer = branch(numpy_helper.from_array(np.ones(4, np.float32), "plain"))
        outer.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=graph))
        graph = outer
    proto.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=graph))


def weight(**entries: str) -> Callable[[ModelProto], None]:
    """A weight of four floats in the file `secret`, which is 64 bytes long, or as the entries say."""

    def change(proto: ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == "w")
        tensor.ClearField("raw_data")
        tensor.dims.append(4)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "secret", **entries}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


HOSTILE = [
    (in_attribute, "another file"), (in_attribute_list, "another file"), (in_subgraph, "another file"),
    (in_nested_subgraph, "another file"), (in_sparse_values, "another file"), (in_sparse_indices, "another file"),
    (in_sparse_attribute, "another file"), (in_function, "function"), (in_training_information, "training"),
    (of_own_code, "custom domain"), (of_own_code_in_a_subgraph, "custom domain"), (nested_too_deep, "deep"),
    (weight(location="/etc/hostname"), "relative path"), (weight(location="../secret"), "relative path"),
    (weight(location="a/../../secret"), "relative path"), (weight(location="..\\secret"), "relative path"),
    (weight(location="secret\0x"), "relative path"), (weight(location="%2e%2e/secret"), "absent"),
    (weight(location="link"), "link"), (weight(location="linked_folder/secret"), "link"), (weight(location="hard"), "hard links"),
    (weight(location="pipe"), "regular file"), (weight(location="folder"), "regular file|link, or absent"),
    (weight(offset="60", length="16"), "outside"), (weight(offset="65"), "outside"), (weight(offset="-1"), "outside"),
    (weight(length="1000"), "outside"), (weight(offset="x"), "bad offset"), (weight(offset=str(1 << 70)), "outside"),
    (weight(length="-5", offset="80"), "outside"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_refused(
    change: Callable[[ModelProto], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    path = affine(folder / "m.onnx")
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "secret").write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked_folder").symlink_to(tmp_path)
    os.link(tmp_path / "secret", folder / "hard")
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    proto = ModelProto.FromString(path.read_bytes())
    change(proto)
    path.write_bytes(proto.SerializeToString())
    monkeypatch.chdir(tmp_path)  # where a library that is given bytes would look
    with pytest.raises(ModelError, match=message) as caught:
        asyncio.run(ModelProcess.start(Settings(path)))
    assert str(tmp_path) not in str(caught.value)


def test_a_weight_beneath_the_model_is_read(tmp_path: Path) -> None:
    path = affine(tmp_path / "m.onnx")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "weights").write_bytes(bytes(16) + np.arange(4, dtype=np.float32).tobytes())
    proto = ModelProto.FromString(path.read_bytes())
    weight(location="inner/weights", offset="16", length="16")(proto)
    path.write_bytes(proto.SerializeToString())

    async def main() -> None:
        process = await ModelProcess.start(Settings(path))
        await process.stop()

    asyncio.run(main())


def test_onnx_runtime_gets_bytes_and_no_library() -> None:
    """Sessions are made of bytes; and nowhere is a library of operators registered."""
    made = {p.name: re.findall(r"InferenceSession\((\w+[^,]*)", p.read_text()) for p in SRC.rglob("*.py")}
    assert {k: v for k, v in made.items() if v} == {"worker.py": ["data"], "quantize.py": ["before.read_bytes()"]}
    assert not [p for p in SRC.rglob("*.py") if "register_custom_ops_library" in p.read_text()]
