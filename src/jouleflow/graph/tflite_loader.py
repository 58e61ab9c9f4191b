"""TFLite files as `Model`. The file is untrusted: whatever is wrong in it becomes a ModelError that says so.

uint8 models are read as int8 (data and zero points minus 128); their weights may then have a zero point.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import tflite

from jouleflow.errors import ModelError
from jouleflow.graph.check import MAX_FILE_BYTES, check_model, check_quantisation, check_shape
from jouleflow.graph.model import Model, Pool2D, Quantisation, Tensor
from jouleflow.graph.tflite_ops import READERS, Operator, float_layer

OP_NAMES = {v: k for k, v in vars(tflite.BuiltinOperator).items() if not k.startswith("_")}
DTYPES = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.UINT8: "uint8",
    tflite.TensorType.INT64: "int64",
    tflite.TensorType.INT16: "int16",
    tflite.TensorType.INT8: "int8",
    tflite.TensorType.BOOL: "bool",
}
# What the reader of a format without a verifier can raise on rubbish.
BROKEN = (
    struct.error,
    IndexError,
    ValueError,
    TypeError,
    OverflowError,
    AttributeError,
    KeyError,
    MemoryError,
    RecursionError,
    ArithmeticError,
)
MAX_NAME = 200


def load_tflite(data: bytes, name: str) -> Model:
    """The model in a TFLite file's bytes; `name` is for messages.

    Raises ModelError when the file is broken, hostile, or uses operators that cannot run.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ModelError(f"{name} has {len(data)} bytes: at most {MAX_FILE_BYTES} are allowed")
    if len(data) < 16 or data[4:8] != b"TFL3":
        raise ModelError(f"{name} is not a TFLite file: bytes 4 to 8 must be TFL3, they are {data[4:8]!r}")
    try:
        return _read(data, name)
    except ModelError:
        raise
    except BROKEN as error:
        raise ModelError(f"{name} is truncated or damaged ({type(error).__name__}): export it again") from error


def _bounded(count: int, data: bytes, what: str) -> int:
    if not 0 <= count <= len(data) // 4:
        raise ModelError(f"the file claims {count} {what} in {len(data)} bytes: it is damaged")
    return count


def _read(data: bytes, name: str) -> Model:
    root = tflite.Model.GetRootAsModel(data, 0)
    if root.SubgraphsLength() < 1:
        raise ModelError(f"{name} holds no graph")
    graph = root.Subgraphs(0)
    n_buffers = _bounded(root.BuffersLength(), data, "buffers")
    tensors: list[Tensor] = []
    held_bytes = 0
    for i in range(_bounded(graph.TensorsLength(), data, "tensors")):
        tensor = _tensor(root, graph.Tensors(i), i, n_buffers)
        held_bytes += tensor.size_bytes if tensor.constant else 0
        if held_bytes > 4 * len(data):
            raise ModelError(
                f"{name}: its tensors share buffers to {held_bytes} bytes, the file has {len(data)}: refused"
            )
        tensors.append(tensor)
    operators = []
    for i in range(_bounded(graph.OperatorsLength(), data, "operators")):
        operators.append(_operator(root, graph.Operators(i), len(tensors), data))
    inputs = _indices(graph.InputsLength(), graph.Inputs, data)
    outputs = _indices(graph.OutputsLength(), graph.Outputs, data)
    for i in (*inputs, *outputs):
        if not 0 <= i < len(tensors):
            raise ModelError(f"{name}: input or output {i} is no tensor of the file (0 to {len(tensors) - 1})")
    quantised = any(t.dtype == "int8" and t.quantisation and not t.constant for t in tensors)
    digest = hashlib.sha256(data).hexdigest()
    if not quantised:
        layers = tuple(float_layer(op, tensors) for op in operators)
        model = Model(name, digest, tuple(tensors), layers, inputs, outputs, "tflite", False)
        return check_model(model)
    unsigned = {i for i in range(graph.TensorsLength()) if graph.Tensors(i).Type() == tflite.TensorType.UINT8}
    return check_model(_integer_model(name, digest, tensors, operators, inputs, outputs, unsigned))


def _integer_model(
    name: str,
    digest: str,
    tensors: list[Tensor],
    operators: list[Operator],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    unsigned: set[int],
) -> Model:
    unknown = [
        f"{_where(op, tensors)} ({op.kind})" for op in operators if op.kind not in READERS and op.kind != "DEQUANTIZE"
    ]
    if unknown:
        raise ModelError(
            f"{name}: no int8 kernel for {len(unknown)} operator(s): {', '.join(unknown[:40])}. Supported: "
            f"{', '.join(sorted(READERS))}. Replace them or leave them to the host"
        )
    layers = []
    renamed: dict[int, int] = {}
    for op in operators:
        if op.kind == "DEQUANTIZE" and op.outputs[0] in outputs:
            renamed[op.outputs[0]] = op.inputs[0]  # the int8 tensor is the output
            continue
        if op.kind == "DEQUANTIZE":
            raise ModelError(
                f"{name}: layer {_where(op, tensors)} goes back to float in the middle: quantise the whole model"
            )
        if op.kind == "QUANTIZE" and tensors[op.inputs[0]].dtype == "float32" and op.inputs[0] in inputs:
            inputs = tuple(op.outputs[0] if i == op.inputs[0] else i for i in inputs)
            continue
        layer = READERS[op.kind](op, tensors)
        if isinstance(layer.attributes, Pool2D) and layer.inputs[0] in unsigned:
            layer = replace(layer, attributes=replace(layer.attributes, halves_up=True))
        layers.append(layer)
    outputs = tuple(renamed.get(i, i) for i in outputs)
    model = Model(name, digest, tuple(tensors), tuple(layers), inputs, outputs, "tflite")
    for layer in layers:
        for i in (*model.activation_inputs(layer), *layer.outputs):
            if tensors[i].dtype != "int8":
                raise ModelError(
                    f"{name}: layer {layer.name!r} works on {tensors[i].dtype}; firmware runs int8: quantise activations to int8"
                )
    return model


def _where(op: Operator, tensors: list[Tensor]) -> str:
    return repr(tensors[op.outputs[0]].name) if op.outputs else "?"


def _indices(count: int, at: Any, data: bytes) -> tuple[int, ...]:
    return tuple(int(at(i)) for i in range(_bounded(count, data, "indices")))


def _operator(root: Any, op: Any, n_tensors: int, data: bytes) -> Operator:
    code_index = op.OpcodeIndex()
    if not 0 <= code_index < root.OperatorCodesLength():
        raise ModelError(f"an operator has code index {code_index}: the file has {root.OperatorCodesLength()} codes")
    code = root.OperatorCodes(code_index)
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    kind = OP_NAMES.get(number, f"operator {number}")
    inputs = tuple(i for i in _indices(op.InputsLength(), op.Inputs, data) if i != -1)
    outputs = _indices(op.OutputsLength(), op.Outputs, data)
    for i in (*inputs, *outputs):
        if not 0 <= i < n_tensors:
            raise ModelError(f"a {kind} refers to tensor {i}: the file has tensors 0 to {n_tensors - 1}")
    if not outputs:
        raise ModelError(f"a {kind} has no output")
    return Operator(kind, inputs, outputs, op.BuiltinOptions())


def _tensor(root: Any, t: Any, index: int, n_buffers: int) -> Tensor:
    raw_name = t.Name()
    name = (raw_name or b"").decode("utf-8", "replace")[:MAX_NAME] or f"tensor {index}"
    dtype = DTYPES.get(t.Type())
    if dtype is None:
        raise ModelError(f"tensor {name!r} has type {t.Type()}: supported are {', '.join(DTYPES.values())}")
    shape = check_shape(name, [t.Shape(i) for i in range(min(t.ShapeLength(), 9))])
    if not 0 <= t.Buffer() < n_buffers:
        raise ModelError(f"tensor {name!r} refers to buffer {t.Buffer()}: the file has 0 to {n_buffers - 1}")
    buffer = root.Buffers(t.Buffer())
    data = None
    if buffer is not None and buffer.DataLength() > 0:
        raw = np.asarray(buffer.DataAsNumpy())
        want = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if raw.size != want:
            raise ModelError(f"tensor {name!r} {shape} {dtype} needs {want} bytes, its buffer has {raw.size}")
        data = raw.view(dtype).reshape(shape)
    q = t.Quantization()
    quantisation = None
    if q is not None and q.ScaleLength() > 0:
        if q.ZeroPointLength() not in (0, q.ScaleLength()):
            raise ModelError(f"tensor {name!r} has {q.ScaleLength()} scales and {q.ZeroPointLength()} zero points")
        scale = np.array(q.ScaleAsNumpy(), np.float32)
        zeros = np.asarray(q.ZeroPointAsNumpy()) if q.ZeroPointLength() else np.zeros(scale.size)
        if np.abs(zeros).max() > 2**31 - 1:
            raise ModelError(f"tensor {name!r} has zero point {zeros.max()}: it must fit its type")
        zero = zeros.astype(np.int32)
        quantisation = Quantisation(scale, zero, int(q.QuantizedDimension()) if scale.size > 1 else None)
        if dtype != "float32":
            check_quantisation(name, shape, dtype, quantisation)
    if dtype == "uint8" and quantisation is not None:
        dtype = "int8"
        data = None if data is None else (data.astype(np.int16) - 128).astype(np.int8)
        quantisation = Quantisation(quantisation.scale, quantisation.zero_point - 128, quantisation.axis)
    return Tensor(name, shape, dtype, quantisation, data)
