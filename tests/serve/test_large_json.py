"""Large requests in JSON and large compressed bodies: read as small ones are, a piece at a time, while everything else goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jouleflow.runtime.tensors import NUMPY, Port, encode_strings
from jouleflow.serve.large_json import SLICE_BYTES
from jouleflow.serve.limits import Limits
from jouleflow.serve.oip import LARGE_JSON_BYTES, MAX_HEADER_BYTES, Ask, Decoder
from jouleflow.serve.request_error import RequestError
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving
from tests.serve.test_faults import until

ROWS, SIDE = 4096, 4
X = np.random.default_rng(0).normal(size=(ROWS, SIDE))
INFER = "/v2/models/double/infer"


def decoder(datatype: str = "FP32", shape: tuple[int, ...] = (-1, SIDE), max_rows: int = ROWS) -> Decoder:
    return Decoder((Port("x", datatype, shape),), (Port("y", "FP32", (-1,)),), True, max_rows)


def ask_large(of: Decoder, raw: bytes) -> Ask:
    body = memoryview(raw)
    return of.ask(asyncio.run(of.header_of_large(body)), body, None)


def infer_json(data: Any, shape: tuple[int, ...], datatype: str = "FP32", indent: int | None = None) -> bytes:
    spec = {"name": "x", "data": data, "datatype": datatype, "shape": list(shape)}  # the shape is known last
    return json.dumps({"inputs": [spec], "id": '"data":['}, indent=indent).encode()


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "UINT8", "BOOL"])
@pytest.mark.parametrize("shape", [(9000,), (300, 30), (3, 50, 60), (40, 3, 25, 3), (9000, 1)])
@pytest.mark.parametrize("indent", [None, 1])
def test_numbers_are_read_as_from_a_small_request(datatype: str, shape: tuple[int, ...], indent: int | None) -> None:
    x = np.asarray(np.random.default_rng(1).integers(0, 2, shape), NUMPY[datatype])
    if datatype in ("FP32", "FP64"):
        x *= np.random.default_rng(2).normal(size=shape)
    of = decoder(datatype, (-1, *shape[1:]), shape[0])
    for data in (x.tolist(), x.ravel().tolist()):
        raw = infer_json(data, shape, datatype, indent)
        assert len(raw) > SLICE_BYTES
        body = memoryview(raw)
        small = of.ask(of.header_of(body, None), body, None)
        large = ask_large(of, raw)
        assert bytes(large.data[0]) == bytes(small.data[0]) == x.tobytes()
        assert (large.header.n_rows, large.size_bytes) == (shape[0], x.nbytes)
        assert (large.header.id, large.header.kind) == (small.header.id, small.header.kind)


def test_so_are_strings_with_anything_in_them() -> None:
    words = [
        "",
        '"data":[1,2',
        "\\",
        'a"b\\',
        "],[",
        "{}",
        "é\n\u2028",
        "x" * (5 * SLICE_BYTES),
        "\\" * 9001,
        '"' * 9001,
    ]
    texts = np.array(words * 200, np.object_)[np.random.default_rng(0).permutation(2000)][:1000].reshape(500, 2)
    of = decoder("BYTES", (-1, 2))
    large = ask_large(of, infer_json(texts.tolist(), (500, 2), "BYTES"))
    assert bytes(large.data[0]) == encode_strings(texts)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"[[", b"["), (b"]]", b"]"), (b"], [", b", "), (b"], [", b"]["), (b"], [", b"], [], ["), (b"], [", b"], [1, "), (b"], [", b", 1], ["),
        (b"], [", b"]], [["), (b"], [", b"], [{}, "), (b"], [", b'], ["a", '), (b"], [", b"], [true, "), (b", 0.", b", [0.5], 0."),
        (b", 0.", b", 1e39, 0."), (b", 0.", b" 0."), (b", 0.", b",, 0."), (b", 0.", b", " + b"[" * 9 + b"0."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [1, 900, -1])
def test_what_is_not_a_tensor_is_refused(old: bytes, new: bytes, place: int) -> None:
    parts = infer_json(X.tolist(), X.shape).split(old)
    at = place % len(parts) if len(parts) > 2 else 1
    with pytest.raises(RequestError) as error:
        ask_large(decoder(), old.join(parts[:at]) + new + old.join(parts[at:]))
    assert error.value.status == 400


def test_numbers_must_be_as_many_as_the_shape_says() -> None:
    for data in (X.tolist()[:-1], X.tolist() + X.tolist()[:1], X.ravel().tolist()[:-1], X.T.tolist()):
        with pytest.raises(RequestError, match="shape"):
            ask_large(decoder(), infer_json(data, X.shape))


def test_what_no_request_could_need_is_refused_unread() -> None:
    of = decoder(max_rows=8)
    with pytest.raises(RequestError, match="8 rows") as error:
        ask_large(of, b"no JSON" + b" " * int(of.max_json_bytes))
    assert error.value.status == 413
    with pytest.raises(RequestError, match="besides the data"):
        ask_large(decoder(), b'{"id": 1, "more": [%s1]}' % (b"1," * MAX_HEADER_BYTES))
    many = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [9, 4], "data": [%s1]}]}' % (b"1," * 50_000)
    with pytest.raises(RequestError, match="at most 8"):
        ask_large(of, many)


@pytest.mark.parametrize("text", [b"x", rb"\\"])
def test_a_string_that_would_be_read_in_one_go_is_refused(text: bytes) -> None:
    """The rest of it is not looked at."""
    raw = b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 1], "data": ["%s"]}]}' % (text * (3 << 20))
    with pytest.raises(RequestError, match="send it as binary data") as error:
        ask_large(decoder("BYTES", (-1, 1)), raw)
    assert error.value.status == 413
    short = raw.replace(text * (3 << 20), b"x" * (1 << 20))
    assert len(ask_large(decoder("BYTES", (-1, 1)), short).data[0]) == 4 + (1 << 20)


def wide_server(tmp_path: Path, **limits: Any) -> Any:
    affine(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text(f"max_batch = {ROWS}\n")
    return serving(tmp_path, limits=Limits(**limits))


def head_of(raw: bytes, more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n" % (INFER.encode(), more, len(raw))


def held(server: Running) -> asyncio.Lock:
    """The turn to read, taken: who is to read waits for it."""
    asyncio.run_coroutine_threadsafe(server.app.server.reading.turn.acquire(), server.loop).result(10)
    return server.app.server.reading.turn


def test_the_loop_turns_while_a_large_request_is_read(tmp_path: Path) -> None:
    raw = infer_json(X.tolist(), X.shape)
    with wide_server(tmp_path) as server:
        reading = server.app.server.reading

        async def turns() -> int:
            while not reading.n_bytes:
                await asyncio.sleep(0)
            n = 0
            while reading.n_bytes:
                n += 1
                await asyncio.sleep(0)
            return n

        counted = asyncio.run_coroutine_threadsafe(turns(), server.loop)
        status, _, text = server.ask("POST", INFER, raw)
        assert status == 200
        np.testing.assert_allclose(json.loads(text)["outputs"][0]["data"], 2 * X.ravel() + 1, atol=1e-5)
        assert counted.result(10) > 2 * len(raw) // SLICE_BYTES, "a turn for each slice: it is looked for, and read"


@pytest.mark.parametrize("encoding", [b"", b"Content-Encoding: gzip\r\n"])
def test_others_are_answered_first_and_those_of_its_connection_in_order(tmp_path: Path, encoding: bytes) -> None:
    raw = infer_json(X.tolist(), X.shape)
    sent = gzip.compress(raw) if encoding else raw
    small = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with wide_server(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(20)
        turn = held(server)
        s.sendall(head_of(sent, encoding) + sent + small)
        assert until(lambda: server.app.server.reading.n_bytes == len(sent))
        assert server.ask("GET", "/v2/health/live")[0] == 200
        assert server.ask("POST", INFER, infer_json(X[:1].tolist(), (1, SIDE)))[0] == 200
        server.inside(turn.release)
        text = b""
        while b'{"live":true}' not in text:
            text += s.recv(1 << 16)
        assert text.count(b"HTTP/1.1 200") == 2
        assert text.index(b'"outputs"') < text.index(b'{"live":true}')


def test_who_goes_away_is_not_read_for(tmp_path: Path) -> None:
    raw = infer_json(X.tolist(), X.shape)
    with wide_server(tmp_path) as server:
        reading, turn = server.app.server.reading, held(server)
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(head_of(raw) + raw)
            assert until(lambda: reading.n_bytes == len(raw))
        assert until(lambda: not reading.n_bytes), "though it was not its turn yet"
        server.inside(turn.release)
        assert server.ask("POST", INFER, raw)[0] == 200
        stats = json.loads(server.ask("GET", "/v2/models/double/stats")[2])["model_stats"][0]["jouleflow"]
        assert stats["accepted"] == stats["completed"] == 1


def test_what_waits_to_be_read_is_bounded(tmp_path: Path) -> None:
    raw = infer_json(X.tolist(), X.shape)
    with wide_server(tmp_path, max_waiting_bytes=2 * len(raw)) as server:
        turn, sockets = held(server), [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        for s in sockets:
            s.settimeout(20)
            s.sendall(head_of(raw) + raw)
        assert until(lambda: server.app.server.reading.n_bytes == 2 * len(raw))
        status, headers, _ = server.ask("POST", INFER, raw)
        assert (status, headers["retry-after"]) == (503, "1")
        server.inside(turn.release)
        assert [s.recv(12) for s in sockets] == [b"HTTP/1.1 200"] * 2
        assert until(lambda: not server.app.server.reading.n_bytes)
        for s in sockets:
            s.close()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", [b"", b"Content-Encoding: gzip\r\n"])
def test_a_stop_waits_for_what_is_being_read(tmp_path: Path, encoding: bytes) -> None:
    raw = infer_json(X.tolist(), X.shape)
    sent = gzip.compress(raw) if encoding else raw
    with socket.socket() as s:
        s.settimeout(20)
        with wide_server(tmp_path) as server:
            s.connect(("127.0.0.1", server.port))
            turn = held(server)
            s.sendall(head_of(sent, encoding) + sent)
            reading, loop = server.app.server.reading, server.loop
            assert until(lambda: reading.n_bytes == len(sent))

            def release() -> None:
                assert until(lambda: reading.closed)
                loop.call_soon_threadsafe(turn.release)

            releasing = threading.Thread(target=release)
            releasing.start()
        releasing.join(20)
        assert s.recv(12) == b"HTTP/1.1 200"


def test_a_model_that_is_loaded_again_meanwhile_takes_it(tmp_path: Path) -> None:
    raw = infer_json(X.tolist(), X.shape)
    with wide_server(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(20)

        async def load_while_it_is_read() -> None:
            reading = server.app.server.reading
            while not reading.turn.locked():
                await asyncio.sleep(0)
            await server.app.server.load("double")

        old = server.app.server.models["double"]
        loading = asyncio.run_coroutine_threadsafe(load_while_it_is_read(), server.loop)
        s.sendall(head_of(raw) + raw)
        assert s.recv(12) == b"HTTP/1.1 200"
        loading.result(20)
        assert server.app.server.models["double"] is not old


def test_a_body_that_inflates_is_bounded_on_the_way(tmp_path: Path) -> None:
    with wide_server(tmp_path, max_body_bytes=1 << 20) as server:
        for body, status in ((bytes(9 << 20), 413), (b" " * (1 << 20) + b" ", 413), (b" " * LARGE_JSON_BYTES, 400)):
            assert server.ask("POST", INFER, gzip.compress(body), content_encoding="gzip")[0] == status
        whole = gzip.compress(infer_json(X.tolist(), X.shape))
        assert server.ask("POST", INFER, whole[:-20], content_encoding="gzip")[0] == 400
        assert until(lambda: not server.app.server.reading.n_bytes)
