"""The quantiser: accuracy kept on public models, integers that follow onnxruntime, and clear errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from jouleflow.errors import InputError, ModelError
from jouleflow.graph.model import Model
from jouleflow.graph.onnx_loader import load_onnx
from jouleflow.graph.quantize import load_calibration, quantize_model
from jouleflow.graph.reference import run_reference
from tests.graph.qdq_graphs import residual_model, save

Images = NDArray[np.float32]
NORM = ("gain", "shift", "mean", "variance")


def float_model(folder: Path, opset: int = 17, external: bool = False) -> Path:
    """Convolution, batch normalisation, ReLU, mean, dense; batch left open."""
    random = np.random.default_rng(1)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.uniform(0.1, 1.0, shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["a", *NORM], ["b"]),
            helper.make_node("Relu", ["b"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["d"]),
            helper.make_node("Flatten", ["d"], ["e"]),
            helper.make_node("MatMul", ["e", "v"], ["f"]),
            helper.make_node("Add", ["f", "bias"], ["y"]),
        ],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [tensor("w", 4, 3, 3, 3), *(tensor(k, 4) for k in NORM), tensor("v", 4, 5), tensor("bias", 5)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if external:
        entry = proto.graph.initializer[0].external_data.add()
        entry.key, entry.value = "location", "../../../etc/hostname"
        proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
        proto.graph.initializer[0].ClearField("raw_data")
    path = folder / "float.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def real_outputs(path: Path, inputs: Images) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x[None]})[0].reshape(1, -1) for x in inputs]).astype(np.float64)


def integer_outputs(model: Model, inputs: Images) -> tuple[NDArray[np.float64], float]:
    """Our outputs in real numbers, and the value of one LSB."""
    q, out = model.tensors[model.inputs[0]].quantisation, model.tensors[model.outputs[0]].quantisation
    assert q is not None
    assert out is not None
    integers = np.clip(np.rint(inputs / q.scale[0]) + q.zero_point[0], -128, 127).astype(np.int8)
    result = run_reference(model, np.ascontiguousarray(integers.transpose(0, 2, 3, 1))).reshape(len(inputs), -1)
    return (result.astype(np.float64) - out.zero_point[0]) * float(out.scale[0]), float(out.scale[0])


def noise(n: int, *shape: int) -> Images:
    return np.random.default_rng(2).normal(0, 1, (n, *shape)).astype(np.float32)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("opset", [11, 17])
def test_a_float_model_becomes_a_close_int8_model(per_channel: bool, opset: int, tmp_path: Path) -> None:
    source = float_model(tmp_path, opset)
    x = noise(40, 3, 8, 8)
    model = load_onnx(quantize_model(source, x, tmp_path / "int8.onnx", per_channel=per_channel))
    assert [layer.op for layer in model.layers if layer.op != "reshape"] == ["conv2d", "mean", "dense"]
    weights = model.tensors[model.layers[0].inputs[1]].quantisation
    assert weights is not None
    assert weights.per_channel == per_channel
    ours, _ = integer_outputs(model, x)
    exact = real_outputs(source, x)
    assert np.abs(ours - exact).max() < 0.05 * np.ptp(exact)


def _unit(images: NDArray[np.uint8]) -> Images:
    return (images.astype(np.float32) / 255).transpose(0, 3, 1, 2)


def _normalised(images: NDArray[np.uint8]) -> Images:
    mean, deviation = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    return ((images.astype(np.float32) / 255 - mean) / deviation).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "least_accuracy"),
    # float: 0.900, 0.745, 0.650 on these images
    [("cifar10_resnet20", 0.87), ("cifar10_squeezenet_small", 0.72), ("cifar10_cnn_dynbal", 0.62)],
)
def test_public_models_keep_their_accuracy(name: str, least_accuracy: float, data_dir: Path, tmp_path: Path) -> None:
    prepare = _normalised if "resnet" in name else _unit
    with np.load(data_dir / "cifar10" / "cifar10_test_jpeg_8000.npz") as file:
        calibration = prepare(file["images"][-100:])
    with np.load(data_dir / "mlperf_tiny" / "ic01_cifar10_exact_200.npz") as file:
        x, labels = prepare(file["images"]), file["labels"]
    path = quantize_model(data_dir / "models" / f"{name}.onnx", calibration, tmp_path / "int8.onnx")
    ours, lsb = integer_outputs(load_onnx(path), x)
    theirs = real_outputs(path, x)
    assert (ours.argmax(1) == labels).mean() >= least_accuracy
    assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.97
    assert np.abs(ours - theirs).mean() < 1.0 * lsb


def test_weights_behind_dequantize_linear_are_folded(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "models" / "imagenet_mobilenet_v1_025_128.onnx"
    x = noise(12, 3, 128, 128).clip(-1, 1)
    model = load_onnx(quantize_model(source, x, tmp_path / "int8.onnx"))
    assert sum(layer.op == "depthwise_conv2d" for layer in model.layers) == 13
    assert model.macs == pytest.approx(14e6, rel=0.05)
    ours, _ = integer_outputs(model, x[:2])
    assert (ours.argmax(1) == real_outputs(source, x[:2]).argmax(1)).all()


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (noise(20, 8, 8, 3), "shape"),
        (noise(20, 3, 8), "shape"),
        (noise(3, 3, 8, 8), "too few"),
        (noise(20, 3, 8, 8) * np.nan, "NaN"),
        (noise(20, 3, 8, 8) * np.inf, "infinity"),
    ],
)
def test_bad_calibration_is_refused(calibration: Images, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        quantize_model(float_model(tmp_path), calibration, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_an_int8_model_is_not_quantised_again(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="quantised already"):
        quantize_model(save(residual_model(), tmp_path), noise(20, 4, 6, 6), tmp_path / "int8.onnx")


def test_files_named_by_a_hostile_model_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="relative path"):
        quantize_model(float_model(tmp_path, external=True), noise(20, 3, 8, 8), tmp_path / "int8.onnx")


def test_calibration_files(tmp_path: Path) -> None:
    x = noise(9, 3, 8, 8)
    np.savez(tmp_path / "good.npz", x=x, labels=np.arange(9))
    assert np.array_equal(load_calibration(tmp_path / "good.npz"), x)
    np.savez(tmp_path / "two.npz", x=x, y=x)
    with pytest.raises(InputError, match="exactly one"):
        load_calibration(tmp_path / "two.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(InputError):
        load_calibration(tmp_path / "bad.npz")
    with pytest.raises(InputError, match="no calibration file"):
        load_calibration(tmp_path / "none.npz")
