"""Each operator of the ONNX loader against onnxruntime on the same file; what cannot be right must be refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jouleflow.errors import ModelError
from jouleflow.graph.load import load_model
from jouleflow.graph.model import Conv2D, Dense
from jouleflow.graph.onnx_loader import load_onnx
from jouleflow.graph.onnx_wire import check_wire
from jouleflow.graph.reference import run_reference
from tests.graph.qdq_graphs import TinyModel, difference_lsb, residual_model, save

DEMO = Path(__file__).parents[2] / "src" / "jouleflow" / "demo"
Build = Callable[[TinyModel, str], str]


def built(shape: tuple[int, ...], build: Build, opset: int = 17, dtype: str = "int8") -> onnx.ModelProto:
    t = TinyModel(shape, dtype=dtype)
    return t.model(build(t, t.quantized("image", 0.05, 3)), opset)


def conv(t: TinyModel, x: str) -> str:
    w = t.weights((5, 3, 3, 3))
    return t.quantized(t.node("Conv", x, w, strides=[2, 2], auto_pad="SAME_UPPER"), 0.08, 2)


def conv_same_lower(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Conv", x, t.weights((5, 3, 2, 2)), auto_pad="SAME_LOWER"), 0.08, 2)


def conv_per_channel_relu(t: TinyModel, x: str) -> str:
    y = t.node("Conv", x, t.weights((5, 3, 3, 3), axis=0), pads=[0, 1, 2, 1])
    return t.quantized(t.node("Relu", y), 0.05, -100)


def conv_dilated_grouped(t: TinyModel, x: str) -> str:
    w = t.weights((6, 1, 3, 3), axis=0)
    return t.quantized(t.node("Conv", x, w, group=3, dilations=[2, 2], pads=[2, 1, 0, 2]), 0.1, 0)


def conv_clip(t: TinyModel, x: str) -> str:
    y = t.node("Conv", x, t.weights((4, 3, 1, 1)))
    return t.quantized(t.node("Clip", y, t.constant(np.float32(-1)), t.constant(np.float32(2))), 0.05, 0)


def flatten_dense(t: TinyModel, x: str) -> str:
    f = t.quantized(t.node("Flatten", x), 0.05, 3)
    return t.quantized(t.node("Gemm", f, t.weights((108, 7), axis=1)), 0.3, 0)


def flatten_relu_dense(t: TinyModel, x: str) -> str:
    f = t.quantized(t.node("Relu", t.quantized(t.node("Flatten", x), 0.05, 3)), 0.05, 3)
    return t.quantized(t.node("Gemm", f, t.weights((108, 7))), 0.3, 0)


def flatten_sigmoid_dense(t: TinyModel, x: str) -> str:
    f = t.quantized(t.node("Reshape", x, t.constant([1, -1], np.int64)), 0.05, 3)
    f = t.quantized(t.node("Sigmoid", f), 1 / 256, -128)
    return t.quantized(t.node("Gemm", f, t.weights((7, 108)), transB=1), 0.1, 0)


def matmul_then_bias(t: TinyModel, x: str) -> str:
    f = t.quantized(t.node("Flatten", x), 0.05, 3)
    y = t.node("MatMul", f, t.weights((108, 4)))
    return t.quantized(t.node("Add", y, t.constant([1, -2, 3, -4], np.float32)), 0.3, 3)


def transposed_and_back(t: TinyModel, x: str) -> str:
    y = t.quantized(t.node("Transpose", x, perm=[0, 2, 3, 1]), 0.05, 3)
    y = t.quantized(t.node("Relu", y), 0.05, -128)
    y = t.quantized(t.node("Transpose", y, perm=[0, 3, 1, 2]), 0.05, -128)
    return t.quantized(t.node("Conv", y, t.weights((4, 3, 3, 3))), 0.1, 0)


def average_pool(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 0.05, 3)


def max_pool_ceil_requantized(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), 0.07, -5)


def reduce_mean(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("ReduceMean", x, axes=[-1, -2], keepdims=0), 0.02, 0)


def add_constant(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Add", t.weights((3, 1, 1)), x), 0.05, 3)


def mul_constant(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Mul", x, t.weights((1, 3, 1, 6))), 0.05, 3)


def concat_channels(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Concat", x, t.quantized(t.node("Sigmoid", x), 1 / 256, -128), axis=1), 0.05, 3)


def concat_rows(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Concat", x, x, axis=-2), 0.05, 3)


def pad_with_value(t: TinyModel, x: str) -> str:
    pads = t.constant([0, 0, 1, 2, 0, 0, 0, 1], np.int64)
    return t.quantized(t.node("Pad", x, pads, t.constant(np.float32(1.0))), 0.05, 3)


def clip_then_relu(t: TinyModel, x: str) -> str:
    y = t.node("Clip", x, t.constant(np.float32(-6)), t.constant(np.float32(-1)))
    return t.quantized(t.node("Relu", y), 0.05, 3)


def softmax_channels(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Softmax", x, axis=1), 1 / 256, -128)


def resize(factor: float, mode: str, rounding: str) -> Build:
    def build(t: TinyModel, x: str) -> str:
        scales = t.constant([1, 1, factor, factor], np.float32)
        y = t.node("Resize", x, "", scales, coordinate_transformation_mode=mode, nearest_mode=rounding)
        return t.quantized(y, 0.05, 3)

    return build


# name: builder, layers, most that fixed-point rounding may differ from float rounding (LSB of the output)
GRAPHS: dict[str, tuple[Build, list[str], float]] = {
    "conv": (conv, ["conv2d"], 1),
    "conv_same_lower": (conv_same_lower, ["conv2d"], 1),
    "conv_per_channel_relu": (conv_per_channel_relu, ["conv2d"], 1),
    "conv_dilated_grouped": (conv_dilated_grouped, ["depthwise_conv2d"], 1),
    "conv_clip": (conv_clip, ["conv2d"], 1),
    "flatten_dense": (flatten_dense, ["reshape", "dense"], 1),
    "flatten_relu_dense": (flatten_relu_dense, ["reshape", "requantize", "dense"], 1),
    "flatten_sigmoid_dense": (flatten_sigmoid_dense, ["reshape", "logistic", "dense"], 1),
    "matmul_then_bias": (matmul_then_bias, ["reshape", "dense"], 1),
    "transposed_and_back": (transposed_and_back, ["requantize", "conv2d"], 1),
    "average_pool": (average_pool, ["avg_pool"], 1),
    "max_pool_ceil_requantized": (max_pool_ceil_requantized, ["max_pool", "requantize"], 1),
    "reduce_mean": (reduce_mean, ["mean"], 1),
    "add_constant": (add_constant, ["add"], 1),
    "mul_constant": (mul_constant, ["mul"], 1),
    "concat_channels": (concat_channels, ["logistic", "concat"], 1),
    "concat_rows": (concat_rows, ["concat"], 0.01),
    "pad_with_value": (pad_with_value, ["pad"], 0.01),
    "clip_then_relu": (clip_then_relu, ["requantize"], 0.01),
    "softmax_channels": (softmax_channels, ["softmax"], 1),
    "resize_3": (resize(3, "asymmetric", "floor"), ["resize_nearest"], 0.01),
    "resize_1.5": (resize(1.5, "asymmetric", "floor"), ["resize_nearest"], 0.01),
    "resize_half_pixel_2": (resize(2, "half_pixel", "round_prefer_floor"), ["resize_nearest"], 0.01),
}


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("name", GRAPHS)
def test_graph_equals_onnxruntime(name: str, dtype: str, tmp_path: Path) -> None:
    build, ops, limit_lsb = GRAPHS[name]
    proto = built((1, 3, 6, 6), build, dtype=dtype)
    model = load_onnx(save(proto, tmp_path))
    assert [layer.op for layer in model.layers] == ops
    assert difference_lsb(model, proto) <= limit_lsb + 0.51  # the output of onnxruntime is rounded to an integer too


def test_rectangular_maps_keep_rows_and_columns_apart(tmp_path: Path) -> None:
    t = TinyModel((1, 3, 5, 4))
    f = t.quantized(t.node("Flatten", t.quantized("image", 0.05, 3)), 0.05, 3)
    proto = t.model(t.quantized(t.node("Gemm", f, t.weights((60, 7))), 0.3, 0))
    assert difference_lsb(load_onnx(save(proto, tmp_path)), proto) <= 1.5


@pytest.mark.parametrize("quantised_first", [True, False])
def test_a_transpose_at_the_input_disappears(quantised_first: bool, tmp_path: Path) -> None:
    t = TinyModel((1, 6, 5, 3))
    x = t.quantized("image", 0.05, 3) if quantised_first else "image"
    x = t.quantized(t.node("Transpose", x, perm=[0, 3, 1, 2]), 0.05, 3)
    proto = t.model(t.quantized(t.node("Conv", x, t.weights((4, 3, 3, 3))), 0.1, 0))
    model = load_onnx(save(proto, tmp_path))
    assert model.tensors[model.inputs[0]].shape == (1, 6, 5, 3)
    assert [layer.op for layer in model.layers] == ["conv2d"]
    assert difference_lsb(model, proto, channels_last=True) <= 1.5


def test_residual_network(tmp_path: Path) -> None:
    proto = residual_model()
    model = load_model(save(proto, tmp_path))
    assert [layer.op for layer in model.layers] == ["conv2d", "depthwise_conv2d", "add", "mean", "reshape", "dense"]
    assert model.quantised
    assert model.source_format == "onnx"
    assert difference_lsb(model, proto, n=20) <= 2
    first = model.layers[0]
    assert isinstance(first.attributes, Conv2D)
    assert (first.attributes.act_min, first.attributes.act_max) == (-128, 127)
    assert first.macs == 6 * 6 * 4 * 4 * 9  # hand calculation: output pixels x out x in x kernel
    assert model.tensors[first.inputs[1]].shape == (4, 3, 3, 4)
    bias = model.tensors[first.inputs[2]]
    assert bias.dtype == "int32"
    assert bias.data is not None
    assert bias.data.tolist() == [100, -50, 0, 7]


def test_relu_and_clip_become_the_integer_clamp(tmp_path: Path) -> None:
    model = load_onnx(save(built((1, 3, 6, 6), conv_per_channel_relu), tmp_path))
    a = model.layers[0].attributes
    assert isinstance(a, Conv2D)
    assert (a.act_min, a.act_max) == (-100, 127)  # 0 at zero point -100
    model = load_onnx(save(built((1, 3, 6, 6), conv_clip), tmp_path))
    a = model.layers[0].attributes
    assert isinstance(a, Conv2D)
    assert (a.act_min, a.act_max) == (-20, 40)  # -1 / 0.05 and 2 / 0.05


def test_the_demo_model_knows_its_digits() -> None:
    model = load_onnx(DEMO / "digits_int8.onnx")
    with np.load(DEMO / "digits_test.npz") as file:
        assert file.files[0] == "inputs"
        inputs, labels = file["inputs"], file["labels"]
    assert inputs.dtype == np.int8
    assert inputs.shape[1:] == model.tensors[model.inputs[0]].shape[1:]
    assert (run_reference(model, inputs).reshape(len(labels), -1).argmax(1) == labels).mean() >= 0.97
    assert {"conv2d", "depthwise_conv2d", "add", "dense"} <= {layer.op for layer in model.layers}
    assert isinstance(model.layers[-1].attributes, Dense)


# ---- what must be refused ----


def test_all_unsupported_operators_are_listed(tmp_path: Path) -> None:
    t = TinyModel((1, 3, 6, 6))
    y = t.node("Tanh", t.node("Erf", t.quantized("image", 0.05, 3)))
    with pytest.raises(ModelError, match=r"2 operator.*Erf.*Tanh.*Supported") as error:
        load_onnx(save(t.model(t.quantized(y, 0.05, 3)), tmp_path))
    assert "node_erf" in str(error.value)


def flatten_only(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Flatten", x), 0.05, 3)


def other_scale(t: TinyModel, _: str) -> str:
    q = t.nodes[0].output[0]
    x = t.node("DequantizeLinear", q, t.constant(np.float32(0.1)), t.constant(9, t.dtype))
    return t.quantized(t.node("Relu", x), 0.05, 3)


def bad_bias(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Conv", x, t.weights((2, 3, 1, 1)), t.constant([np.nan, 1e30], np.float32)), 0.1, 0)


def huge_bias(t: TinyModel, x: str) -> str:
    unit = t.constant(np.float32(0.05 * 0.01))
    bias = t.node("DequantizeLinear", t.constant([2**31 - 2000, 0], np.int32), unit, t.constant(0, np.int32))
    return t.quantized(t.node("Conv", x, t.weights((2, 3, 1, 1)), bias), 0.1, 0)


def not_requantised(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Relu", t.node("Add", t.node("Sigmoid", x), x)), 0.05, 3)


def mixed_order(t: TinyModel, x: str) -> str:
    y = t.quantized(t.node("Transpose", x, perm=[0, 2, 3, 1]), 0.05, 3)
    return t.quantized(t.node("Conv", t.quantized(t.node("Relu", y), 0.05, 3), t.weights((4, 6, 1, 1))), 0.1, 0)


def pad_out_of_range(t: TinyModel, x: str) -> str:
    pads = t.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    return t.quantized(t.node("Pad", x, pads, t.constant(np.float32(1e9))), 0.05, 3)


def clip_inverted(t: TinyModel, x: str) -> str:
    return t.quantized(t.node("Clip", x, t.constant(np.float32(2)), t.constant(np.float32(-2))), 0.05, 3)


REFUSED: dict[str, tuple[Build, str]] = {
    "a flattened map as output": (flatten_only, "flattened map"),
    "a second scale": (other_scale, "quantise again"),
    "a bias that is no number": (bad_bias, "does not fit int32"),
    "sums beyond int32": (huge_bias, "leave int32"),
    "no quantiser between operators": (not_requantised, "quantise"),
    "NHWC into a convolution": (mixed_order, "needs a 4-D NCHW"),
    "a padding value out of range": (pad_out_of_range, "outside the input's range"),
    "an inverted clip": (clip_inverted, "not in order"),
    "rounding resize": (resize(3, "asymmetric", "round_prefer_floor"), "asymmetric and floor"),
    "ceiling resize": (resize(2, "half_pixel", "ceil"), "asymmetric and floor"),
    "resize by 1e9": (resize(1e9, "asymmetric", "floor"), "less than 10,000"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        load_onnx(save(built((1, 3, 6, 6), build), tmp_path))


def test_old_softmax_over_a_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="softmax"):
        load_onnx(save(built((1, 3, 6, 6), softmax_channels, opset=11), tmp_path))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("which", range(3))
def test_bad_scales_are_refused(scale: float, which: int, tmp_path: Path) -> None:
    proto = residual_model()
    scales = [i for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT and not i.dims]
    scales[which].CopyFrom(numpy_helper.from_array(np.float32(scale), scales[which].name))
    with pytest.raises(ModelError):
        load_onnx(save(proto, tmp_path))


def test_custom_domains_are_refused(tmp_path: Path) -> None:
    proto = residual_model()
    proto.graph.node[4].domain = "evil.example"
    with pytest.raises(ModelError, match="custom domain"):
        load_onnx(save(proto, tmp_path))


def test_cycles_double_writes_and_double_names_are_refused(tmp_path: Path) -> None:
    proto = residual_model()
    conv_node = next(n for n in proto.graph.node if n.op_type == "Conv")
    conv_node.input[0] = proto.graph.node[-1].output[0]
    with pytest.raises(ModelError, match="cycle"):
        load_onnx(save(proto, tmp_path))
    proto = residual_model()
    proto.graph.node[-1].output[0] = proto.graph.node[0].output[0]
    with pytest.raises(ModelError, match="written twice"):
        load_onnx(save(proto, tmp_path))
    proto = residual_model()
    proto.graph.initializer.append(proto.graph.initializer[0])
    with pytest.raises(ModelError, match="twice"):
        load_onnx(save(proto, tmp_path))


@pytest.mark.parametrize("dims", [[1 << 40], [-1], [1 << 31, 1 << 31], [2**28, 3], [1] * 60])
def test_hostile_sizes_cost_no_memory(dims: list[int], tmp_path: Path) -> None:
    proto = residual_model()
    weights = next(i for i in proto.graph.initializer if i.data_type == TensorProto.INT8 and len(i.dims) == 4)
    weights.ClearField("dims")
    weights.dims.extend(dims)
    with pytest.raises(ModelError, match="tensor"):
        load_onnx(save(proto, tmp_path))


def _field(number: int, body: bytes) -> bytes:
    size, head = len(body), bytes([number << 3 | 2])
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + body


def test_a_protobuf_bomb_is_refused_before_it_is_parsed() -> None:
    """8 MB of empty nodes would become 600 MB of objects."""
    with pytest.raises(ModelError, match="more than"):
        check_wire(_field(7, b"\x0a\x00" * 4_000_000), "bomb.onnx")
    nested = b""
    for _ in range(40):  # graph > node > attribute > graph
        nested = _field(1, _field(5, _field(6, nested)))
    with pytest.raises(ModelError, match="deep"):
        check_wire(_field(7, nested), "nested.onnx")


def test_a_folder_of_constants_cannot_be_made_large(tmp_path: Path) -> None:
    t = TinyModel((1, 3, 6, 6))
    big = t.node("ConstantOfShape", t.constant([1 << 20, 1 << 20], np.int64))
    x = t.quantized("image", 0.05, 3)
    with pytest.raises(ModelError, match="ConstantOfShape"):
        load_onnx(save(t.model(t.quantized(t.node("Add", x, big), 0.05, 3)), tmp_path))


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model at all", b"TFL3" * 10, os.urandom(512)])
def test_rubbish_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rubbish.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        load_onnx(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx"):
        load_onnx(tmp_path / "nothing.onnx")


# ---- external data ----


def _with_external(folder: Path, location: str, offset: str = "0", length: str | None = None) -> Path:
    proto = residual_model()
    weights = next(i for i in proto.graph.initializer if i.data_type == TensorProto.INT8 and len(i.dims) == 4)
    data = weights.raw_data
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": str(len(data)) if length is None else length}
    for key, value in entries.items():
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    if not (folder / "weights.bin").exists():
        (folder / "weights.bin").write_bytes(data)
    return save(proto, folder)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    inside = load_onnx(save(residual_model(), tmp_path))
    outside = load_onnx(_with_external(tmp_path, "weights.bin"))
    x = np.random.default_rng(0).integers(-128, 128, (4, 6, 6, 4)).astype(np.int8)
    assert np.array_equal(run_reference(inside, x), run_reference(outside, x))


@pytest.mark.parametrize(
    ("location", "offset", "length"),
    [
        ("/etc/hostname", "0", None),
        ("../weights.bin", "0", None),
        ("sub/../../weights.bin", "0", None),
        ("..\\weights.bin", "0", None),
        ("weights.bin\0x", "0", None),
        ("c:weights.bin", "0", None),
        ("", "0", None),
        (".", "0", None),
        ("absent.bin", "0", None),
        ("weights.bin", "1", None),
        ("weights.bin", "-1", None),
        ("weights.bin", "0", "1000000000000"),
        ("weights.bin", "0", "3"),
        ("weights.bin", "9" * 5000, None),
        ("weights.bin", "many", None),
    ],
)
def test_external_data_elsewhere_is_refused(location: str, offset: str, length: str | None, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\x01" * 144)
    with pytest.raises(ModelError):
        load_onnx(_with_external(tmp_path / "model", location, offset, length))


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "link of a folder", "pipe"])
def test_links_and_pipes_are_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\x01" * 144)
    location = "weights.bin"
    if kind == "symbolic link":
        (folder / location).symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, folder / location)
    elif kind == "pipe":
        os.mkfifo(folder / location)
    else:
        (folder / "sub").symlink_to(tmp_path)
        location = "sub/secret.bin"
    with pytest.raises(ModelError):
        load_onnx(_with_external(folder, location))


# ---- float models, for analysis ----


def test_a_float_model_loads_for_analysis(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]), helper.make_node("Tanh", ["y"], ["z"])],
        "float",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [weights],
    )
    model = load_onnx(save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path))
    assert not model.quantised
    assert [layer.op for layer in model.layers] == ["conv2d", "tanh"]
    assert model.macs == 8 * 8 * 4 * 27


@pytest.mark.parametrize(
    ("name", "least_macs", "most_macs"),
    [
        ("cifar10_resnet20", 40.5e6, 41e6),  # He 2016, table 6: 41 M
        ("imagenet_mobilenet_v1_025_128", 13.5e6, 14.5e6),  # Howard 2017: 14 M at 0.25, 128
        ("cifar10_squeezenet_small", 3e6, 5e6),
        ("cifar10_cnn_dynbal", 4e6, 5e6),
        ("face_rfb_320", 50e6, 150e6),
        ("coco_fastestdet_352", 100e6, 200e6),
    ],
)
def test_public_float_models_load(name: str, least_macs: float, most_macs: float, data_dir: Path) -> None:
    model = load_onnx(data_dir / "models" / f"{name}.onnx")
    assert not model.quantised
    assert least_macs <= model.macs <= most_macs
