"""gRPC requests that nobody would send, and bytes that are not HTTP: a reason each, and the server goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jouleflow.runtime.tensors import Port
from jouleflow.serve.limits import Limits
from jouleflow.serve.oip import Decoder
from jouleflow.serve.proto import message
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.rpc_messages import ask_of
from jouleflow.serve.shared_memory import OFFSET, REGION, SIZE, ClientRegions
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving

PORTS = (Port("x", "FP32", (-1, 4)), Port("n", "INT8", (-1,)), Port("s", "BYTES", (-1, 2)))
SERVED = SimpleNamespace(
    decoder=Decoder(PORTS, (Port("y", "FP32", (-1, 3)),), True, 8, ClientRegions(Limits(), on=True))
)
int64 = st.integers(-(2**63), 2**63 - 1)
contents = st.fixed_dictionaries(
    {},
    optional={
        "fp32_contents": st.lists(st.floats(width=32), max_size=9),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
        "bytes_contents": st.lists(st.binary(max_size=5), max_size=5),
    },
)
values = (
    st.fixed_dictionaries({"int64_param": int64})
    | st.fixed_dictionaries({"string_param": st.text(max_size=5)})
    | st.just({})
)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "n", "s", "y", ""]),
        "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "FP16", ""]),
        "shape": st.lists(st.integers(-1, 4) | int64, max_size=10),
        "contents": contents,
        "parameters": st.dictionaries(st.sampled_from([REGION, SIZE, OFFSET]), values, max_size=1),
    }
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=4), "raw_input_contents": st.lists(st.binary(max_size=40), max_size=4)},
    optional={
        "id": st.text(max_size=300),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["y", "z"])}), max_size=3),
        "parameters": st.dictionaries(
            st.sampled_from(["timeout", "priority"]), st.fixed_dictionaries({"int64_param": int64})
        ),
    },
)


@settings(max_examples=400, deadline=None)
@given(requests)
def test_any_message_is_an_ask_or_a_reason(fields: dict) -> None:
    refused = None
    try:
        ask = ask_of(message("ModelInferRequest")(**fields), SERVED, None)  # type: ignore[arg-type]
    except RequestError as error:
        refused = error
    if refused is not None:
        assert refused.status == 400
        assert str(refused)
        return
    assert len(ask.data) == len(PORTS)
    assert 1 <= ask.header.n_rows <= 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    with serving(folder, limits=Limits(max_body_bytes=4096)) as running:
        yield running


LINES = st.sampled_from(
    [b"POST /v2/models/double/infer HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n", b"Host: localhost\r\n", b"Content-Length: 5\r\n",
     b"Content-Length: 99999\r\n", b"Transfer-Encoding: chunked\r\n", b"Inference-Header-Content-Length: -3\r\n", b"\r\n", b"5\r\nhello\r\n",
     b"0\r\n\r\n", b"ffffffffffff\r\n", b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b"{}", b"\x00\xff"]
)  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES | st.binary(max_size=12), max_size=12))
def test_any_bytes_leave_the_server_standing(server: Running, parts: list[bytes]) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(0.02)
        s.sendall(b"".join(parts))
        try:
            while s.recv(65536):
                pass
        except OSError:
            pass
    assert server.ask("GET", "/v2/health/live")[0] == 200
