"""Messages of gRPC in our own words and back: a request in one is an `Ask`, as one over HTTP is, and what a model gave is an answer.

What was not asked for properly is refused here, before anything is made of it; what is done with the rest belongs to rpc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from jouleflow.policy.job import Values
from jouleflow.runtime.tensors import NUMPY, encode_strings
from jouleflow.serve.fields import MAX_ELEMENTS, MAX_NAME, MAX_PRIORITY, MAX_RANK, MAX_TENSORS, MAX_TIMEOUT_US
from jouleflow.serve.oip import Ask, Decoder, Given, Wanted
from jouleflow.serve.proto import message
from jouleflow.serve.repository import ModelSpec
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.rpc_parts import check_parts
from jouleflow.serve.served import ServedModel
from jouleflow.serve.shared_memory import Extent, Span
from jouleflow.serve.tensor_data import check_shape, check_size, check_strings

LEAST_S = 1e-6  # a deadline that has passed is one too
MAX_VALUES = 1 << 20  # integers or strings that are not sent raw: each is a Python object for a moment
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def decoded(asked: Any, raw: bytes | None) -> Any:
    """The message in the bytes of a call.

    Raises RequestError when there is none, or not the one asked, or it would become too large.
    """
    if raw is None:
        raise RequestError(400, "there is no message")
    check_parts(raw, asked.DESCRIPTOR)
    try:
        return asked.FromString(raw)
    except DecodeError as error:
        raise RequestError(400, f"the message is no {asked.DESCRIPTOR.name}") from error


def ask_of(request: Any, served: ServedModel, remaining_s: float | None) -> Ask:
    """The request in a message.

    Raises RequestError naming the field and what was expected.
    """
    decoder = served.decoder
    if len(request.id) > MAX_NAME or len(request.inputs) > MAX_TENSORS or len(request.outputs) > MAX_TENSORS:
        raise RequestError(400, f"an id of at most {MAX_NAME} characters and {MAX_TENSORS} tensors are taken")
    inputs, parts = _inputs(request, decoder)
    names = [o.name for o in request.outputs] or decoder.outputs
    unknown = sorted(set(names) - set(decoder.outputs))
    if unknown or len(set(names)) != len(names):
        raise RequestError(400, f"outputs {names}: the model has {decoder.outputs}, each at most once")
    for k, output in enumerate(request.outputs):
        if "classification" in output.parameters:
            raise RequestError(400, f"outputs[{k}].parameters.classification is not supported: ask for the scores")
    timeout_s = _whole(request, "timeout", MAX_TIMEOUT_US) * 1e-6
    limits = [timeout_s] if timeout_s else []
    if remaining_s is not None:
        limits.append(max(remaining_s, LEAST_S))
    wanted = tuple(
        Wanted(o.name, True, decoder.extent_of(plain(o.parameters), f"outputs[{k}]"))
        for k, o in enumerate(request.outputs)
    ) or tuple(Wanted(n, True) for n in names)
    priority = _whole(request, "priority", MAX_PRIORITY)
    header = decoder.header(request.id, tuple(inputs), wanted, min(limits, default=0.0), priority)
    shared = decoder.shared(header) if header.in_shared else None
    sent = [decoder.shared_input(g, p) if isinstance(p, Extent) else p for g, p in zip(inputs, parts, strict=True)]
    data: list[memoryview | bytes | Span] = [sent[k] for k in header.place]
    return Ask(header, data, sum(map(len, data)), shared)


def _inputs(request: Any, decoder: Decoder) -> tuple[list[Given], list[bytes | Extent]]:
    """What a request says of its inputs, and the bytes of each or where in shared memory they are."""
    given, raws = request.inputs, request.raw_input_contents
    extents = [decoder.extent_of(plain(each.parameters), f"inputs[{k}]") for k, each in enumerate(given)]
    if raws and len(raws) != extents.count(None):
        raise RequestError(
            400, f"{len(raws)} raw_input_contents for {extents.count(None)} inputs outside shared memory"
        )
    inputs: list[Given] = []
    parts: list[bytes | Extent] = []
    raw_of = iter(raws)
    for k, each in enumerate(given):
        where, port = f"inputs[{k}]", decoder.inputs.get(each.name)
        if port is None:
            raise RequestError(
                400, f"{where}.name {each.name!r} is not an input of the model: {sorted(decoder.inputs)}"
            )
        if each.datatype != port.datatype:
            raise RequestError(400, f"{where}.datatype {each.datatype!r}: input {each.name!r} is {port.datatype}")
        shape = tuple(each.shape)
        if len(shape) > MAX_RANK or any(s < 0 for s in shape) or _product(shape) > MAX_ELEMENTS:
            raise RequestError(400, f"{where}.shape must be at most {MAX_RANK} sides >= 0 and {MAX_ELEMENTS} elements")
        check_shape(port, shape, where)
        extent = extents[k]
        if extent is not None:
            if each.HasField("contents"):
                raise RequestError(400, f"{where} is in shared memory and in the request: give one of them")
            check_size(each.datatype, shape, extent.size_bytes, where)
            inputs.append(Given(each.name, each.datatype, shape, extent.size_bytes, extent))
            parts.append(extent)
            continue
        raw = next(raw_of) if raws else _contents(each, shape, where)
        check_size(each.datatype, shape, len(raw), where)
        if each.datatype == "BYTES":
            check_strings(raw, shape, each.name)
        inputs.append(Given(each.name, each.datatype, shape, len(raw)))
        parts.append(raw)
    return inputs, parts


def plain(parameters: Any) -> dict[str, Any]:
    """Parameters as over HTTP."""
    return {k: getattr(v, v.WhichOneof("parameter_choice") or "string_param") for k, v in parameters.items()}


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _whole(request: Any, name: str, most: int) -> int:
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    value = int(parameter.int64_param or parameter.uint64_param)
    if not 0 <= value <= most:
        raise RequestError(400, f"parameters.{name} {value} must be 0 to {most}")
    return value


def _contents(tensor: Any, shape: tuple[int, ...], where: str) -> bytes:
    """The bytes of a tensor that is not among the raw ones. What would keep the loop long is refused before it is looked at."""
    field, contents = CONTENTS.get(tensor.datatype), tensor.contents
    if field is None:
        raise RequestError(400, f"{where}: {tensor.datatype} must be sent in raw_input_contents")
    given = [each.name for each, _ in contents.ListFields()]
    if given not in ([], [field]):
        raise RequestError(400, f"{where}.contents has {given}: {tensor.datatype} is sent in {field}")
    values, n_values = getattr(contents, field), _product(shape)
    if len(values) != n_values:
        raise RequestError(400, f"{where}.contents has {len(values)} values, but {list(shape)} is {n_values}")
    if tensor.datatype in ("FP32", "FP64", "BOOL"):
        return _as_sent(contents)
    if n_values > MAX_VALUES:
        raise RequestError(
            400, f"{where}: more than {MAX_VALUES} of {tensor.datatype} must be sent in raw_input_contents"
        )
    if tensor.datatype == "BYTES":
        array = np.empty(n_values, np.object_)
        array[:] = list(values)
        return encode_strings(array)
    numbers = np.fromiter(values, np.uint64 if field == "uint64_contents" else np.int64, n_values)
    dtype = NUMPY[tensor.datatype]
    info = np.iinfo(dtype.str)
    if numbers.size and (numbers.min() < info.min or numbers.max() > info.max):
        raise RequestError(400, f"{where}.contents has values outside {tensor.datatype}")
    return numbers.astype(dtype).tobytes()


def _as_sent(contents: Any) -> bytes:
    """Numbers of a fixed size, or truths, as they are in a message: a byte of field, their length in bytes by sevens of bits, and
    themselves, which is how the tensor has them too. By way of Python's numbers a message could take seconds."""
    contents.DiscardUnknownFields()
    sent: bytes = contents.SerializeToString()
    at = 1
    while at < len(sent) and sent[at] & 0x80:
        at += 1
    return sent[at + 1 :]


def answer_of(request_id: str, spec: ModelSpec, wanted: Sequence[Wanted], values: Values) -> Any:
    """The message with what a model gave: type, shape and bytes of each output, in the order wanted."""
    return message("ModelInferResponse")(
        model_name=spec.name,
        model_version=spec.version,
        id=request_id,
        outputs=[
            {"name": want.name, "datatype": datatype, "shape": shape, "parameters": _extent_parameters(want.extent)}
            for want, (datatype, shape, _) in zip(wanted, values, strict=True)
        ],
        raw_output_contents=[raw for _, _, raw in values],
    )


def _extent_parameters(extent: Extent | None) -> dict[str, dict[str, str | int]]:
    """What an answer says of an output in shared memory."""
    if extent is None:
        return {}
    return {k: {"string_param" if isinstance(v, str) else "int64_param": v} for k, v in extent.parameters.items()}
