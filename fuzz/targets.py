"""Each loader of what strangers send, for bytes that a fuzzer makes up: what it refuses it refuses with its own error, and what it takes is
what it says. Anything else that is raised is a finding. `seeds` are inputs to start from, the first of them good."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from jouleflow.errors import InputError
from jouleflow.graph.onnx_check import read_onnx
from jouleflow.runtime.tensors import Port
from jouleflow.serve.limits import Limits, load_limits
from jouleflow.serve.oip import Ask, Decoder
from jouleflow.serve.proto import message
from jouleflow.serve.repository import MODEL, SETTINGS, Repository
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.rpc_messages import ask_of
from jouleflow.serve.shared_memory import ClientRegions

PORTS = (Port("x", "FP32", (-1, 4)), Port("n", "INT8", (-1,)), Port("s", "BYTES", (-1, 2)))
MAX_ROWS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """run: whether what it is given is taken; it raises nothing. The folder is to write to."""

    run: Callable[[bytes, Path], bool]
    seeds: tuple[bytes, ...]


def _decoder() -> Decoder:
    return Decoder(PORTS, (Port("y", "FP32", (-1, 3)),), True, MAX_ROWS, ClientRegions(Limits(), on=True))


def _check(ask: Ask) -> None:
    assert len(ask.data) == len(PORTS)
    assert 1 <= ask.header.n_rows <= MAX_ROWS
    assert ask.size_bytes == sum(len(data) for data in ask.data)


def onnx_file(data: bytes, folder: Path) -> bool:
    """A model file, with what it may name of its folder."""
    path = folder / "onnx" / MODEL
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        assert read_onnx(path)
    except InputError:
        return False
    return True


def oip_request(data: bytes, _: Path) -> bool:
    """A request of the protocol over HTTP; the first two bytes say where the JSON ends, 0 at the end of all."""
    decoder, body = _decoder(), memoryview(data[2:])
    header_bytes = int.from_bytes(data[:2], "big") or None
    try:
        _check(decoder.ask(decoder.header_of(body, header_bytes), body, header_bytes))
    except RequestError:
        return False
    return True


def grpc_request(data: bytes, _: Path) -> bool:
    """A request of the protocol over gRPC. What is no message at all gRPC refuses, not we."""
    try:
        request = message("ModelInferRequest").FromString(data)
    except DecodeError:
        return False
    try:
        _check(ask_of(request, SimpleNamespace(decoder=_decoder()), None))  # type: ignore[arg-type]
    except RequestError:
        return False
    return True


def model_settings(data: bytes, folder: Path) -> bool:
    """The jouleflow.toml of a model."""
    model = folder / "models" / "m"
    model.mkdir(parents=True, exist_ok=True)
    (model / MODEL).touch()
    (model / SETTINGS).write_bytes(data)
    try:
        spec = Repository(model.parent).find("m")
        assert spec.slo_s >= 0.0
        assert 1 <= spec.priority <= 9
        assert spec.memory_bytes(1, 0.5) >= 0
    except InputError:
        return False
    return True


def server_limits(data: bytes, folder: Path) -> bool:
    """The file of `jouleflow serve --limits`."""
    path = folder / "limits.toml"
    path.write_bytes(data)
    try:
        load_limits(path)
    except InputError:
        return False
    return True


def _small_model() -> bytes:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4, dtype=np.float32).tobytes(), raw=True)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weights])
    return helper.make_model(graph).SerializeToString()


def _small_requests() -> tuple[bytes, bytes, bytes]:
    """All in JSON; with bytes after the JSON; over gRPC."""
    raw = {"x": bytes(16), "n": b"\1", "s": b"\1\0\0\0a\0\0\0\0"}
    shapes = {"x": [1, 4], "n": [1], "s": [1, 2]}
    values = {"x": [0.5] * 4, "n": [1], "s": ["a", ""]}
    ports = [{"name": p.name, "datatype": p.datatype, "shape": shapes[p.name]} for p in PORTS]
    plain = json.dumps(
        {"id": "1", "inputs": [{**p, "data": values[p["name"]]} for p in ports], "parameters": {"timeout": 1000}}
    )
    sized = [{**p, "parameters": {"binary_data_size": len(raw[p["name"]])}} for p in ports]
    head = json.dumps({"inputs": sized, "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    with_bytes = len(head).to_bytes(2, "big") + head + b"".join(raw.values())
    over_grpc = message("ModelInferRequest")(model_name="m", inputs=ports, raw_input_contents=list(raw.values()))
    return bytes(2) + plain.encode(), with_bytes, over_grpc.SerializeToString()


DEEP, LONG = b"a = " + b"[" * 5000, b"a = " + b"1" * 5000  # more than Python nests, and more digits than it reads
_PLAIN, _WITH_BYTES, _OVER_GRPC = _small_requests()
TARGETS = {
    "onnx_file": Target(onnx_file, (_small_model(),)),
    "oip_request": Target(oip_request, (_PLAIN, _WITH_BYTES)),
    "grpc_request": Target(grpc_request, (_OVER_GRPC,)),
    "model_settings": Target(
        model_settings, (b'slo_ms = 50.0\npriority = 5\nmemory_mb = "unlimited"\nmax_batch = 32\n', DEEP, LONG)
    ),
    "server_limits": Target(
        server_limits, (b"max_body_bytes = 1_000_000\nrun_s = 5.5\nmodel_memory_frac = 0.5\n", DEEP, LONG)
    ),
}
