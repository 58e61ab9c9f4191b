from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from jouleflow.errors import InputError, ModelError
from jouleflow.graph.load import load_model
from jouleflow.graph.quantize import load_calibration, quantize_model
from jouleflow.graph.reference import run_reference
from tests.graph.tiny_onnx import tiny_onnx


def float_model(path: Path) -> Path:
    """Convolution, then the shortcut of CIFAR ResNets (every second pixel, channels padded), a sum, a mean, a dense layer."""
    random = np.random.default_rng(0)
    init = {
        "w1": random.normal(0, 0.3, (4, 3, 3, 3)), "w2": random.normal(0, 0.3, (8, 4, 3, 3)), "w3": random.normal(0, 0.3, (5, 8)), "b3": random.normal(0, 0.3, 5),
    }  # fmt: skip
    ints = {"starts": [0, 0], "ends": [2**62, 2**62], "axes": [2, 3], "steps": [2, 2], "pads": [0, 2, 0, 0, 0, 2, 0, 0]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Slice", ["r", "starts", "ends", "axes", "steps"], ["s"]),
        helper.make_node("Pad", ["s", "pads"], ["p"]),
        helper.make_node("Add", ["c", "p"], ["d"]),
        helper.make_node("ReduceMean", ["d"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "w3", "b3"], ["y"], transB=1),
    ]
    initializers = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in init.items()]
    initializers += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in ints.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])], initializers
    )  # fmt: skip
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )
    return path


def test_quantised_model_answers_like_the_float_one(tmp_path: Path) -> None:
    import onnxruntime

    path = float_model(tmp_path / "f.onnx")
    x = np.random.default_rng(1).normal(0, 1, (64, 3, 8, 8)).astype(np.float32)
    model = load_model(quantize_model(path, x, tmp_path / "q.onnx"))
    assert model.quantised
    q_in, q_out = (model.tensors[i[0]].quantisation for i in (model.inputs, model.outputs))
    ints = np.clip(np.round(x / q_in.scale[0]) + q_in.zero_point[0], -128, 127).astype(np.int8).transpose(0, 2, 3, 1)
    got = (run_reference(model, ints).reshape(64, -1) - q_out.zero_point[0]) * q_out.scale[0]
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
    assert np.abs(got - expected).mean() < 0.05 * np.abs(expected).mean()


@pytest.mark.parametrize("shape", [(16, 3, 9, 8), (16, 192), (4, 3, 8, 8)])
def test_calibration_must_fit(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calibration inputs"):
        quantize_model(float_model(tmp_path / "f.onnx"), np.zeros(shape, np.float32), tmp_path / "q.onnx")


def test_nan_and_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        quantize_model(
            float_model(tmp_path / "f.onnx"), np.full((16, 3, 8, 8), np.nan, np.float32), tmp_path / "q.onnx"
        )
    (tmp_path / "t.onnx").write_bytes(tiny_onnx().SerializeToString())
    with pytest.raises(ModelError, match="already"):
        quantize_model(tmp_path / "t.onnx", np.zeros((16, 2, 6, 6), np.float32), tmp_path / "q.onnx")
    with pytest.raises(InputError, match="no calibration"):
        load_calibration(tmp_path / "absent.npz")
