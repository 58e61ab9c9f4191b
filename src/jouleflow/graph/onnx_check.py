"""ONNX files as untrusted input: what is checked before any of it is used.

Every TensorProto of the file is walked (initialisers, attributes, subgraphs, functions, sparse ones), external data is
opened only beneath the model's folder, and graphs must be in order with every name written once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from jouleflow.errors import InputError, ModelError
from jouleflow.graph.check import MAX_ELEMENTS, MAX_FILE_BYTES
from jouleflow.graph.onnx_wire import check_wire

MAX_DEPTH = 8
DOMAINS = ("", "ai.onnx", "com.microsoft")


def parse_onnx(data: bytes, name: str) -> ModelProto:
    """The parsed file, checked.

    Raises ModelError.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ModelError(f"{name} has {len(data)} bytes: at most {MAX_FILE_BYTES} are allowed")
    check_wire(data, name)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelError(f"{name} is not ONNX, or is truncated: export it again") from error
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{name} holds no graph: it is not an ONNX model, or is truncated")
    if model.functions:
        raise ModelError(f"{name} defines {len(model.functions)} function(s): export it with functions inlined")
    if model.training_info:
        raise ModelError(f"{name} holds training information: export it for inference")
    external_size_bytes = 0
    for tensor in _tensors(model.graph, 0):
        _check_tensor(tensor, len(data), name)
        if tensor.data_location == TensorProto.EXTERNAL:
            external_size_bytes += prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if external_size_bytes > MAX_FILE_BYTES:
        raise ModelError(
            f"{name} claims {external_size_bytes} bytes in other files: at most {MAX_FILE_BYTES} are allowed"
        )
    _check_order(model.graph, name)
    return model


def _tensors(graph: GraphProto, depth: int) -> Iterator[TensorProto]:
    if depth > MAX_DEPTH:
        raise ModelError(f"graphs are nested more than {MAX_DEPTH} deep: export a flat graph")
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute, depth)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Those of its subgraphs too, whose depth has been checked."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _attribute_tensors(attribute: AttributeProto, depth: int) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for sparse in (
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        *attribute.sparse_tensors,
    ):
        yield sparse.values
        yield sparse.indices
    for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        yield from _tensors(graph, depth + 1)


def _check_tensor(tensor: TensorProto, file_bytes: int, name: str) -> None:
    dims = [int(d) for d in tensor.dims]
    if len(dims) > 8 or any(d < 0 for d in dims) or prod(dims) > MAX_ELEMENTS:
        raise ModelError(
            f"{name}: tensor {tensor.name[:80]!r} has dims {dims[:9]}: sides >= 0 and at most {MAX_ELEMENTS} elements"
        )
    if tensor.data_type not in helper.get_all_tensor_dtypes():
        raise ModelError(f"{name}: tensor {tensor.name[:80]!r} has unknown type {tensor.data_type}")
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(f"{name}: tensor {tensor.name[:80]!r} holds strings: not supported")
    external = tensor.data_location == TensorProto.EXTERNAL
    if not external and prod(dims) > 8 * file_bytes:
        raise ModelError(
            f"{name}: tensor {tensor.name[:80]!r} claims {prod(dims)} elements in a file of {file_bytes} bytes: damaged"
        )


def _check_order(graph: GraphProto, name: str) -> None:
    for kind, names in (("initializer", [i.name for i in graph.initializer]), ("input", [i.name for i in graph.input])):
        seen: set[str] = set()
        for given in names:
            if not given or given in seen:
                raise ModelError(f"{name}: {kind} {given[:80]!r} is unnamed or there twice: every name must be unique")
            seen.add(given)
    written = {i.name for i in graph.initializer} | {i.name for i in graph.input}
    for node in _nodes(graph):
        if node.domain not in DOMAINS:
            raise ModelError(
                f"{name}: node {node.name[:80]!r} is of custom domain {node.domain[:80]!r}: only standard operators run"
            )
    for node in graph.node:
        for value in node.input:
            if value and value not in written:
                raise ModelError(
                    f"{name}: node {node.name[:80]!r} ({node.op_type[:40]}) reads {value[:80]!r} before it is written (a cycle?)"
                )
        for value in node.output:
            if value and value in written:
                raise ModelError(
                    f"{name}: {value[:80]!r} is written twice: the graph must be in single-assignment form"
                )
            if value:
                written.add(value)


def external_bytes(tensor: TensorProto, folder: Path) -> bytes:
    """The bytes of a tensor that are kept in another file, which must lie beneath the model's folder.

    Refuses absolute paths, "..", backslashes, NUL, symbolic and hard links, and ranges outside the file: ModelError.
    """
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    parts = location.split("/")
    if (
        not location
        or location.startswith("/")
        or "\\" in location
        or "\0" in location
        or ".." in parts
        or ":" in location
    ):
        raise ModelError(
            f"external data {location[:80]!r} of {tensor.name[:80]!r} must be a plain relative path in the model's folder"
        )
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
    except ValueError as error:
        raise ModelError(f"external data of {tensor.name[:80]!r} has a bad offset or length") from error
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for k, part in enumerate(parts):
            # O_NONBLOCK: a pipe must not make us wait
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECTORY if k + 1 < len(parts) else 0)
            try:
                inner = os.open(part, flags, dir_fd=handle)
            except OSError as error:
                raise ModelError(
                    f"external data {location[:80]!r} cannot be opened beneath the model's folder (a link, or absent)"
                ) from error
            os.close(handle)
            handle = inner
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ModelError(
                f"external data {location[:80]!r} must be a regular file with one name (hard links are refused)"
            )
        length = status.st_size - offset if length < 0 else length
        if offset < 0 or length < 0 or offset + length > status.st_size or length > MAX_FILE_BYTES:
            raise ModelError(
                f"external data {location[:80]!r}: bytes {offset} to {offset + length} are outside its {status.st_size}"
            )
        return os.pread(handle, length, offset)
    finally:
        os.close(handle)


def tensor_array(tensor: TensorProto, folder: Path | None) -> NDArray[np.generic]:
    """The values of a checked tensor.

    Raises ModelError when the bytes do not match the shape.
    """
    if tensor.data_location == TensorProto.EXTERNAL:
        if folder is None:
            raise ModelError(f"{tensor.name[:80]!r} keeps its data in another file, which is not allowed here")
        inside = TensorProto()
        inside.CopyFrom(tensor)
        inside.ClearField("external_data")
        inside.data_location = TensorProto.DEFAULT
        inside.raw_data = external_bytes(tensor, folder)
        tensor = inside
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"tensor {tensor.name[:80]!r} {list(tensor.dims)} has bytes that do not match its shape"
        ) from error


def attributes_of(node: NodeProto) -> dict[str, object]:
    """Attributes of a node by name.

    Raises ModelError for a damaged one.
    """
    try:
        return {a.name: helper.get_attribute_value(a) for a in node.attribute}
    except (ValueError, TypeError) as error:
        raise ModelError(f"node {node.name[:80]!r} has a damaged attribute") from error


def with_own_data(proto: ModelProto, folder: Path) -> bool:
    """Takes external data into the initialisers, so that no other library opens files that the model names. True if there were any.

    Raises ModelError for external data anywhere else.
    """
    changed = False
    for tensor in proto.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            changed = True
            data = external_bytes(tensor, folder)
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = data
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(proto.graph, 0)):
        raise ModelError("an attribute keeps its data in another file: only weights may; export it again")
    return changed


__all__ = ["attributes_of", "external_bytes", "parse_onnx", "tensor_array", "with_own_data"]


def read_onnx(path: Path) -> bytes:
    """The bytes of a checked model with its external data inside: what runs, and what its hash is of.

    Raises InputError for a file that is too large, ModelError for one that is not a valid model, OSError.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path.name} has {path.stat().st_size} bytes: at most {MAX_FILE_BYTES} are allowed")
    data = path.read_bytes()
    proto = parse_onnx(data, path.name)
    return proto.SerializeToString() if with_own_data(proto, path.parent) else data
