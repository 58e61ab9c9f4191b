"""ONNX files: int8 QDQ models mean what onnxruntime computes, and hostile ones are refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from jouleflow.errors import ModelError
from jouleflow.graph.load import load_model
from jouleflow.graph.reference import run_reference
from tests.graph.tiny_onnx import tiny_onnx


def load(proto: ModelProto, folder: Path):
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return load_model(path)


def test_equals_onnxruntime_within_a_step(tmp_path: Path) -> None:
    model = load(tiny_onnx(), tmp_path)
    assert [layer.op for layer in model.layers] == ["conv2d", "reshape", "dense"]
    x = np.random.default_rng(0).normal(0, 2, (40, 2, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    expected = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x])
    q_in, q_out = (model.tensors[i[0]].quantisation for i in (model.inputs, model.outputs))
    ints = np.clip(np.round(x / q_in.scale[0]) + q_in.zero_point[0], -128, 127).astype(np.int8)
    got = run_reference(model, ints.transpose(0, 2, 3, 1)).reshape(40, -1)
    steps = np.abs(np.round(expected / q_out.scale[0]) + q_out.zero_point[0] - got)
    assert steps.max() <= 1  # fixed-point against float scaling
    assert (steps == 0).mean() > 0.8


def dims(proto: ModelProto) -> None:
    proto.graph.initializer[2].dims[0] = 2**40


def negative_dim(proto: ModelProto) -> None:
    proto.graph.initializer[2].dims[0] = -4


def huge_empty(proto: ModelProto) -> None:
    t = proto.graph.initializer.add()
    t.name, t.data_type = "huge", TensorProto.FLOAT
    t.dims.extend([1 << 13, 1 << 14])


def cycle(proto: ModelProto) -> None:
    proto.graph.node[0].input[0] = "out"


def twice(proto: ModelProto) -> None:
    proto.graph.node[3].output[0] = proto.graph.node[0].output[0]


def zero_scale(proto: ModelProto) -> None:
    for t in proto.graph.initializer:
        if t.name == "y_s":
            t.raw_data = np.float32(0).tobytes()


def nan_scale(proto: ModelProto) -> None:
    for t in proto.graph.initializer:
        if t.name == "w_s":
            t.raw_data = np.full(4, np.nan, np.float32).tobytes()


def custom_domain(proto: ModelProto) -> None:
    proto.graph.node[2].domain = "evil.ops"


def unsupported(proto: ModelProto) -> None:
    proto.graph.node[4].op_type = "Tanh"
    proto.graph.node[-1].op_type = "Erf"


def odd_stride(proto: ModelProto) -> None:
    conv = next(n for n in proto.graph.node if n.op_type == "Conv")
    conv.attribute.append(helper.make_attribute("strides", [0, 1]))


def functions(proto: ModelProto) -> None:
    proto.functions.add().name = "f"


def external(location: str) -> Callable[[ModelProto], None]:
    def change(proto: ModelProto) -> None:
        t = proto.graph.initializer[0]
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        entry = t.external_data.add()
        entry.key, entry.value = "location", location

    return change


HOSTILE = [
    (dims, "elements"), (negative_dim, "sides >= 0"), (huge_empty, "damaged"), (cycle, "cycle"), (twice, "written twice"), (zero_scale, "scale 0.0"),
    (nan_scale, "scale nan"), (custom_domain, "custom domain"), (unsupported, "Tanh.*Erf"), (odd_stride, ">= 1"), (functions, "function"),
    (external("/etc/passwd"), "relative path"), (external("../secret"), "relative path"), (external("a\\b"), "relative path"), (external("link"), "link"),
    (external("hard"), "hard links"), (external("absent"), "absent"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_hostile_files_are_refused(change: Callable[[ModelProto], None], message: str, tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.write_bytes(bytes(4))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    os.link(secret, folder / "hard")
    proto = tiny_onnx()
    change(proto)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        load(proto, folder)


def test_external_data_beneath_the_model_is_read(tmp_path: Path) -> None:
    proto = tiny_onnx()
    t = next(t for t in proto.graph.initializer if t.name == "w")
    (tmp_path / "weights.bin").write_bytes(b"skip" + t.raw_data)
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "4")):
        entry = t.external_data.add()
        entry.key, entry.value = key, value
    assert load(proto, tmp_path).macs == load(tiny_onnx(), tmp_path).macs


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
    cut=st.integers(0, 3),
)
def test_mutations_never_escape(changes: list[tuple[int, int]], cut: int, tmp_path: Path) -> None:
    data = bytearray(tiny_onnx().SerializeToString())
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(data[: len(data) * (4 - cut) // 4]))
    try:
        load_model(path)
    except ModelError:
        return


def test_recorded_float_models_load_for_analysis(data_dir: Path) -> None:
    for path in sorted((data_dir / "models").glob("*.onnx")):
        model = load_model(path)
        assert not model.quantised
        assert model.macs > 1e6
