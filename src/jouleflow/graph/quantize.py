"""Making a float ONNX model int8: onnxruntime's static quantiser, and the tidying that it needs before.

Tidying: constants folded (weights behind DequantizeLinear too), batch size 1, and the parameter-free shortcuts of
CIFAR ResNets (strided slice, then channel padding) as the 1x1 convolution that they are.
"""

from __future__ import annotations

import logging
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from jouleflow.errors import InputError, ModelError
from jouleflow.graph.onnx_check import parse_onnx, with_own_data

MIN_OPSET = 13


def load_calibration(path: Path) -> NDArray[np.float32]:
    """Typical inputs [n, ...] from an .npz that holds one float array.

    Raises InputError saying what is wrong.
    """
    if not path.is_file():
        raise InputError(f"no calibration file {path.name!r}: give an .npz with one float array, inferences first")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path.name} is not a readable .npz: {error}") from error
    floats = [a for a in arrays.values() if np.issubdtype(a.dtype, np.floating) and a.ndim > 1]
    if len(floats) != 1:
        raise InputError(
            f"{path.name} holds {len(floats)} float arrays of more than one dimension: it must hold exactly one"
        )
    return np.asarray(floats[0], np.float32)


def quantize_model(path: Path, calibration: NDArray[np.float32], output: Path, *, per_channel: bool = True) -> Path:
    """Writes the int8 QDQ version of a float ONNX model to `output` and returns it.

    calibration: [n, ...] in the model's own input layout and scaling; a hundred typical inputs do.
    Raises ModelError for a model that is damaged or int8 already, InputError for a calibration set that does not fit.
    """
    if not path.is_file():
        raise ModelError(f"no model file {path.name!r}")
    proto = parse_onnx(path.read_bytes(), path.name)
    if any(n.op_type == "QuantizeLinear" for n in proto.graph.node):
        raise ModelError(f"{path.name} is quantised already")
    with_own_data(proto, path.parent)
    initial = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in initial]
    if len(inputs) != 1:
        raise ModelError(f"{path.name} has {len(inputs)} inputs: models with one input can be quantised")
    _check_calibration(calibration, inputs[0])
    with tempfile.TemporaryDirectory() as folder:
        tidy = Path(folder) / "tidy.onnx"
        onnx.save(_tidy(proto, inputs[0], Path(folder)), tidy)
        _quantise(tidy, inputs[0].name, calibration, output, per_channel)
    return output


def _check_calibration(values: NDArray[np.float32], tensor: Any) -> None:
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.type.tensor_type.shape.dim]
    if values.ndim != len(dims) or any(d and d != v for d, v in zip(dims[1:], values.shape[1:], strict=False)):
        raise InputError(
            f"calibration inputs have shape {values.shape}: the model takes (n, {', '.join(str(d or '?') for d in dims[1:])})"
        )
    if len(values) < 8:
        raise InputError(f"{len(values)} calibration inputs are too few: give at least 8, better 100")
    if not np.isfinite(values).all():
        raise InputError("calibration inputs hold NaN or infinity: they must be finite")


def _tidy(proto: ModelProto, tensor: Any, folder: Path) -> ModelProto:
    import onnxruntime as ort

    dims = tensor.type.tensor_type.shape.dim
    if dims:
        dims[0].Clear()
        dims[0].dim_value = 1
    for o in proto.graph.output:
        if o.type.tensor_type.shape.dim and not o.type.tensor_type.shape.dim[0].HasField("dim_value"):
            o.type.tensor_type.shape.dim[0].Clear()
            o.type.tensor_type.shape.dim[0].dim_value = 1
    del proto.graph.value_info[:]
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, MIN_OPSET)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"opset {opset} cannot be raised to {MIN_OPSET}: {str(error)[:120]}; export with a newer one"
            ) from error
    _fold_weights(proto)
    before, after = folder / "before.onnx", folder / "after.onnx"
    onnx.save(proto, before)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(after)
    options.log_severity_level = 4
    try:
        ort.InferenceSession(before.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own untyped errors
        raise ModelError(f"onnxruntime cannot load the model: {str(error)[:160]}") from error
    folded = onnx.load(after)
    _shortcuts_to_convolutions(folded)
    return folded


def _fold_weights(proto: ModelProto) -> None:
    """DequantizeLinear of constants becomes a float constant."""
    graph = proto.graph
    constants = {i.name: i for i in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and all(name in constants for name in node.input):
            data = numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
            scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
            zero = (
                numpy_helper.to_array(constants[node.input[2]]).astype(np.float32)
                if len(node.input) > 2
                else np.float32(0)
            )
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            if scale.size > 1:
                shape = [1] * data.ndim
                shape[axis] = scale.size
                scale, zero = scale.reshape(shape), np.reshape(zero, shape) if np.size(zero) > 1 else zero
            folded = numpy_helper.from_array(((data - zero) * scale).astype(np.float32), node.output[0])
            graph.initializer.append(folded)
            constants[folded.name] = folded
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _shortcuts_to_convolutions(proto: ModelProto) -> None:
    """x[:, :, ::2, ::2] with channels padded by zeros is a 1x1 convolution of stride 2 with an identity in its weights."""
    graph = proto.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    done: set[int] = set()
    replacement: dict[int, Any] = {}
    inferred = onnx.shape_inference.infer_shapes(proto)
    channels = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*inferred.graph.value_info, *graph.input)
    }
    for node in graph.node:
        if node.op_type != "Slice" or id(node) in done:
            continue
        chain: list[Any] = [node]
        strides: dict[int, int] = {}
        while True:
            starts, ends, axes, steps = (constants.get(name) for name in (*chain[-1].input[1:], "", "", "")[:4])
            if starts is None or ends is None or axes is None or np.any(starts) or np.any(ends < 2**30):
                strides = {}
                break
            for axis, step in zip(axes, steps if steps is not None else np.ones(len(axes)), strict=True):
                strides[int(axis)] = int(step)
            following = users.get(chain[-1].output[0], [])
            if len(following) != 1 or following[0].op_type not in ("Slice", "Pad"):
                break
            chain.append(following[0])
            if chain[-1].op_type == "Pad":
                break
        n_in = (channels.get(node.input[0]) or [0, 0])[1]
        if chain[-1].op_type != "Pad" or set(strides) - {2, 3} or not n_in:
            continue
        pads = constants.get(chain[-1].input[1])
        if pads is None or len(pads) != 8 or any(pads[k] for k in (0, 2, 3, 4, 6, 7)):
            continue
        weights = np.zeros((n_in + int(pads[1]) + int(pads[5]), n_in, 1, 1), np.float32)
        weights[int(pads[1]) + np.arange(n_in), np.arange(n_in)] = 1.0
        name = f"{chain[-1].output[0]}_identity"
        graph.initializer.append(numpy_helper.from_array(weights, name))
        conv = helper.make_node(
            "Conv",
            [node.input[0], name],
            [chain[-1].output[0]],
            kernel_shape=[1, 1],
            strides=[strides.get(2, 1), strides.get(3, 1)],
            name=f"{chain[-1].output[0]}_shortcut",
        )
        replacement[id(chain[-1])] = conv
        done |= {id(n) for n in chain}
    nodes = [replacement.get(id(n), n) for n in graph.node if id(n) not in done or id(n) in replacement]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for n in graph.node for name in n.input}
    kept = [i for i in graph.initializer if i.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _quantise(tidy: Path, input_name: str, calibration: NDArray[np.float32], output: Path, per_channel: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            row = next(self.rows, None)
            return None if row is None else {input_name: row[None]}

    output.parent.mkdir(parents=True, exist_ok=True)
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises a pre-processing that was done
    try:
        quantize_static(
            str(tidy), str(output), Samples(), quant_format=QuantFormat.QDQ, per_channel=per_channel, activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8, extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )  # fmt: skip
    finally:
        logging.getLogger().setLevel(before)
