"""The protocol over HTTP: what clients rely on, and what is refused with a reason while the server goes on."""

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.serve.app import AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.oip import MAX_HEADER_BYTES
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving

X = np.arange(8, dtype=np.float32).reshape(2, 4)
ASK = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.tolist()}]}
INFER = "/v2/models/double/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    affine(folder / "fixed" / "model.onnx", batch=3)
    affine(folder / "many" / "1" / "model.onnx")
    affine(folder / "many" / "2" / "model.onnx", factor=3.0)
    with serving(folder, limits=Limits(max_body_bytes=1 << 20)) as running:
        yield running


def binary(x: np.ndarray, **more: object) -> tuple[bytes, dict[str, str]]:
    spec = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"inputs": [spec], "parameters": {"binary_data_output": True}, **more}).encode()
    return head + x.tobytes(), {"inference_header_content_length": str(len(head))}


def test_json(server: Running) -> None:
    status, _, body = server.ask("POST", INFER, ASK)
    answer = json.loads(body)
    assert status == 200
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "double", "1")
    assert answer["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [2, 4], "data": (2 * X + 1).ravel().tolist()}
    ]


def test_binary(server: Running) -> None:
    body, headers = binary(X)
    status, got, content = server.ask("POST", INFER, body, **headers)
    assert status == 200
    size = int(got["inference-header-content-length"])
    head = json.loads(content[:size])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 32}
    np.testing.assert_array_equal(np.frombuffer(content[size:], np.float32).reshape(2, 4), 2 * X + 1)


def test_compressed_and_chunked(server: Running) -> None:
    raw = json.dumps(ASK).encode()
    assert server.ask("POST", INFER, gzip.compress(raw), content_encoding="gzip")[0] == 200
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for k in range(0, len(raw), 50):
            s.sendall(b"%x\r\n%s\r\n" % (len(raw[k : k + 50]), raw[k : k + 50]))
        s.sendall(b"0\r\n\r\n")
        assert s.recv(4096).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    parts = []
    for k in range(5):
        raw = json.dumps({**ASK, "id": str(k)}).encode()
        parts.append(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(b"".join(parts))
        s.settimeout(10)
        text = b""
        while text.count(b'"id":') < 5:
            text += s.recv(65536)
    assert [text.find(b'"id":"%d"' % k) for k in range(5)] == sorted(text.find(b'"id":"%d"' % k) for k in range(5))


def test_metadata_and_health(server: Running) -> None:
    assert server.ask("GET", "/v2/health/live")[0] == server.ask("GET", "/v2/health/ready")[0] == 200
    assert json.loads(server.ask("GET", "/v2")[2])["name"] == "jouleflow"
    model = json.loads(server.ask("GET", "/v2/models/double")[2])
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert server.ask("GET", "/v2/models/double/ready")[0] == 200
    assert json.loads(server.ask("GET", "/v2/models/fixed/config")[2])["max_batch_size"] == 0


def test_the_highest_version_is_served(server: Running) -> None:
    answer = json.loads(server.ask("POST", "/v2/models/many/infer", ASK)[2])
    assert answer["model_version"] == "2"
    assert answer["outputs"][0]["data"][1] == 4.0
    assert server.ask("POST", "/v2/models/many/versions/2/infer", ASK)[0] == 200
    assert server.ask("POST", "/v2/models/many/versions/1/infer", ASK)[0] == 404


def test_a_fixed_batch_is_served_at_that_size(server: Running) -> None:
    x = np.ones((3, 4), np.float32)
    body, headers = binary(x)
    assert server.ask("POST", "/v2/models/fixed/infer", body, **headers)[0] == 200
    body, headers = binary(X)
    status, _, text = server.ask("POST", "/v2/models/fixed/infer", body, **headers)
    assert status == 400
    assert b"takes [3, 4]" in text


def test_health_is_told_in_the_status_and_as_json(server: Running) -> None:
    for path, answer in (
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/double/ready", {"name": "double", "ready": True}),
        ("/v2/models/many/versions/2/ready", {"name": "many", "ready": True}),
    ):
        status, headers, body = server.ask("GET", path)
        assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", answer)
        assert server.ask("HEAD", path)[::2] == (200, b"")


def test_the_right_method_is_named(server: Running) -> None:
    for path, allowed in (("/v2", "GET, HEAD"), (INFER, "POST"), ("/metrics", "GET, HEAD")):
        for method in ("DELETE", "OPTIONS", "TRACE"):
            status, headers, _ = server.ask(method, path)
            assert (status, headers["allow"]) == (405, allowed)


def test_null_outputs_are_all_outputs(server: Running) -> None:
    for outputs in (None, []):
        answer = json.loads(server.ask("POST", INFER, {**ASK, "outputs": outputs})[2])
        assert [o["name"] for o in answer["outputs"]] == ["y"]


def test_a_full_server_says_when_to_come_back(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with (
        serving(tmp_path, limits=Limits(max_connections=1)) as server,
        socket.create_connection(("127.0.0.1", server.port)),
    ):
        status, headers, _ = server.ask("GET", "/v2")
        assert (status, headers["retry-after"]) == (503, "1")


def test_counts_add_up(server: Running) -> None:
    before = json.loads(server.ask("GET", "/v2/models/double/stats")[2])["model_stats"][0]["jouleflow"]
    for _ in range(5):
        server.ask("POST", INFER, ASK)
    after = json.loads(server.ask("GET", "/v2/models/double/stats")[2])["model_stats"][0]["jouleflow"]
    assert after["accepted"] - before["accepted"] == after["completed"] - before["completed"] == 5
    text = server.ask("GET", "/metrics")[2].decode()
    assert text.endswith("# EOF\n")
    assert f'jouleflow_requests_total{{end="completed",model="double",version="1"}} {after["completed"]}.0' in text


def one(**changes: object) -> dict:
    return {"inputs": [{**ASK["inputs"][0], **changes}]}  # type: ignore[index,dict-item]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [NaN, 1, 2, 3]}]}', "not JSON"),
        (b"[1]", "must be a JSON object"),
        ({}, "inputs must be a list"),
        ({"inputs": ASK["inputs"] * 2}, "inputs ['x', 'x'] given"),
        (one(name="z"), "'z' is not an input"),
        (one(datatype="INT8"), "input 'x' is FP32"),
        (one(shape=[2, 5]), "takes [-1, 4]"),
        (one(shape=[0, 4]), "takes [-1, 4]"),
        (one(shape=[2, 4, 1]), "takes [-1, 4]"),
        (one(shape=[-2, 4]), "integers >= 0"),
        (one(shape=[1 << 40, 4]), "more than"),
        (one(shape="2,4"), "list of at most"),
        (one(data=[1, 2, 3]), "shape says [2, 4]"),
        (one(data=[["a"] * 4] * 2), "FP32 values only"),
        (one(data=[[1, 2], [3]]), "not a list of FP32"),
        (one(data=None), "is missing"),
        (one(parameters={"binary_data_size": 32}), "give one of them"),
        (one(parameters={"shared_memory_region": "r"}), "--shared-memory"),
        ({**ASK, "outputs": [{"name": "q"}]}, "not an output"),
        ({**ASK, "outputs": [{"name": "y"}, {"name": "y"}]}, "name one twice"),
        ({**ASK, "outputs": {}}, "outputs must be a list"),
        ({**ASK, "outputs": ""}, "outputs must be a list"),
        (one(data=[[True, 1, 2, 3], [0.5, 0, 0, 0]]), "FP32 values only"),
        (one(data=[[1e39, 0, 0, 0], [0, 0, 0, 0]]), "outside FP32"),
        ({**ASK, "parameters": {"timeout": -1}}, "microseconds"),
        ({**ASK, "id": 7}, "id must be a string"),
        (one(shape=[64, 4], data=[0.0] * 256), "at most 32"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(server: Running, body: object, message: str) -> None:
    status, _, text = server.ask("POST", INFER, body)  # type: ignore[arg-type]
    assert status == 400
    assert message in json.loads(text)["error"]
    assert server.ask("POST", INFER, ASK)[0] == 200


def test_binary_sizes_must_agree(server: Running) -> None:
    body, headers = binary(X)
    for wrong, more in (
        (body[:-1], headers),
        (body + b"x", headers),
        (body, {"inference_header_content_length": str(len(body) + 1)}),
        (body, {"inference_header_content_length": "-1"}),
    ):
        assert server.ask("POST", INFER, wrong, **more)[0] == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/none/infer", 404),
        ("/v2/models/../double/infer", 404),
        ("/v2/models/%2e%2e%2fdouble", 404),
        ("/v2/models/double", 405),
        ("/nothing", 404),
        ("/v2/repository/models/double/unload", 403),
        ("/v2/repository/index", 403),
        ("/" + "a" * 5000, 414),
    ],
)
def test_addresses_that_are_not_there(server: Running, path: str, status: int) -> None:
    assert server.ask("POST", path, ASK)[0] == status


def test_limits(server: Running) -> None:
    assert server.ask("POST", INFER, b"x" * (1 << 20) + b"x")[0] == 413
    assert server.ask("POST", INFER, gzip.compress(b"0" * (8 << 20)), content_encoding="gzip")[0] == 413
    assert server.ask("POST", INFER, b"x", content_encoding="br")[0] == 415
    assert server.ask("GET", "/v2", None, filler="x" * 20_000)[0] == 431
    assert server.ask("DELETE", "/v2")[0] == 405


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "localhost", "Origin": "http://evil.example"}])
def test_foreign_hosts_and_origins_are_refused(server: Running, headers: dict[str, str]) -> None:
    assert server.ask("GET", "/v2", **headers)[0] == 403


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_ends_the_connection_only(server: Running, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(10)
        s.sendall(raw)
        answer = b""
        while chunk := s.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 4")
    assert server.ask("GET", "/v2")[0] == 200


def test_slow_senders_are_ended(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path, limits=Limits(header_s=0.5, body_s=0.5, idle_s=0.5)) as server:
        for start in (
            b"POST / HTTP/1.1\r\nHo",
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1",
            b"",
        ):
            with socket.create_connection(("127.0.0.1", server.port)) as s:
                s.settimeout(10)
                s.sendall(start)
                answer = s.recv(4096)
                assert answer.startswith(b"HTTP/1.1 408") or (start == b"" and answer == b"")


def test_beyond_this_machine_needs_a_token(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with pytest.raises(InputError, match="JOULEFLOW_TOKEN"), serving(tmp_path, settings=AppSettings(http="0.0.0.0:0")):
        pass
    with serving(tmp_path, settings=AppSettings(http="0.0.0.0:0", token="secret")) as server:
        status, headers, _ = server.ask("GET", "/v2")
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert server.ask("GET", "/v2", authorization="Bearer wrong")[0] == 401
        assert server.ask("GET", "/v2", authorization="Bearer secret")[0] == 200


def test_control_is_on_its_own_listener(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with (
        pytest.raises(InputError, match="JOULEFLOW_ADMIN_TOKEN"),
        serving(tmp_path, settings=AppSettings(http="127.0.0.1:0", admin="127.0.0.1:0")),
    ):
        pass
    with serving(tmp_path, settings=AppSettings(http="127.0.0.1:0", admin="127.0.0.1:0", admin_token="root")) as server:
        port, token = server.app.ports["admin"], {"authorization": "Bearer root"}
        assert server.ask("POST", "/v2/repository/models/double/unload", port=port)[0] == 401
        assert server.ask("POST", "/v2/repository/models/double/unload", port=port, **token)[0] == 200
        assert server.ask("POST", INFER, ASK)[0] == 404
        assert (
            json.loads(server.ask("POST", "/v2/repository/index", port=port, **token)[2])[0]["state"] == "UNAVAILABLE"
        )
        assert server.ask("POST", "/v2/repository/models/double/load", port=port, **token)[0] == 200
        assert server.ask("POST", INFER, ASK)[0] == 200
        assert server.ask("POST", "/v2/repository/models/nothing/load", port=port, **token)[0] == 400


def test_control_takes_what_triton_clients_send_and_ignores_nothing(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    affine(tmp_path / "other.onnx")
    with serving(tmp_path, settings=AppSettings(http="127.0.0.1:0", admin="127.0.0.1:0", admin_token="root")) as server:

        def control(path: str, body: object) -> tuple[int, bytes]:
            port = server.app.ports["admin"]
            return server.ask("POST", f"/v2/repository/{path}", body, port=port, authorization="Bearer root")[::2]  # type: ignore[arg-type,return-value]

        assert control("models/double/unload", {"parameters": {"unload_dependents": False}})[0] == 200
        assert control("models/double/unload", b"")[0] == 404
        assert [m["name"] for m in json.loads(control("index", {"ready": True})[1])] == ["other"]
        assert [m["name"] for m in json.loads(control("index", {"ready": False})[1])] == ["double", "other"]
        for path, body, message in (
            ("models/double/load", {"parameters": {"config": "{}"}}, b"nothing of it is taken from a request"),
            ("models/double/load", b"[1]", b"must be a JSON object"),
            ("models/double/load", b"x", b"not JSON"),
            ("models/other/unload", {"parameters": {"force": True}}, b"unload_dependents"),
            ("index", {"ready": 1}, b"must be true or false"),
        ):
            status, text = control(path, body)
            assert status == 400, path
            assert message in text
        assert control("models/double/load", {"parameters": {}})[0] == 200
        assert control("models/double/load", b"")[0] == 200


def test_large_bodies_on_one_connection(tmp_path: Path) -> None:
    affine(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text("max_batch = 4096\n")
    import http.client

    with serving(tmp_path, limits=Limits(max_body_bytes=1 << 20)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        random = np.random.default_rng(0)
        for rows in (4096, 1, 4095, 7, 4096, 4096):
            x = random.normal(size=(rows, 4)).astype(np.float32)
            body, headers = binary(x)
            connection.request(
                "POST", INFER, body, {"Inference-Header-Content-Length": headers["inference_header_content_length"]}
            )
            answer = connection.getresponse()
            content = answer.read()
            size = int(answer.headers["inference-header-content-length"])
            got = np.frombuffer(content[size:], np.float32).reshape(rows, 4)
            np.testing.assert_array_equal(got, 2 * x + 1)
        with socket.create_connection(("127.0.0.1", server.port)) as s:  # gives up in the middle
            s.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(70_000))
        assert server.ask("GET", "/v2/health/ready")[0] == 200


def test_only_the_json_before_binary_tensors_is_bounded(tmp_path: Path) -> None:
    affine(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text("max_batch = 4096\n")
    with serving(tmp_path) as server:
        x = np.arange(16384.0).reshape(4096, 4)
        long = json.dumps(one(shape=[4096, 4], data=x.tolist()), indent=8).encode()
        assert len(long) > MAX_HEADER_BYTES
        status, _, content = server.ask("POST", INFER, long)
        assert status == 200
        assert json.loads(content)["outputs"][0]["data"] == (2 * x + 1).ravel().tolist()
        status, _, content = server.ask("POST", INFER, long, inference_header_content_length=str(len(long)))
        assert status == 400
        assert b"Inference-Header-Content-Length" in content


def plain(body: bytes, *lines: str) -> bytes:
    """A request to infer, as bytes."""
    head = [f"POST {INFER} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join((*head, "", "")).encode() + body


def everything(s: socket.socket) -> bytes:
    """What comes until the server closes."""
    s.settimeout(10)
    text = b""
    while piece := s.recv(65536):
        text += piece
    return text


@pytest.mark.parametrize("after", [b"\x00 what is this\r\n\r\n", plain(b"{}", "Content-Length: 7")])
def test_what_is_due_is_answered_before_an_error(server: Running, after: bytes) -> None:
    """The request before the error is not yet answered when that comes; others are in its batch."""
    good, others = json.dumps({**ASK, "id": "first"}).encode(), []
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        for _ in range(3):
            others.append(socket.create_connection(("127.0.0.1", server.port)))
            others[-1].sendall(plain(json.dumps(ASK).encode(), "Connection: close"))
        s.sendall(plain(good) + after)
        text = everything(s)
    assert text.startswith(b"HTTP/1.1 200")
    assert text.count(b"HTTP/1.1 ") == 2
    assert b'"id":"first"' in text.partition(b"HTTP/1.1 400")[0]
    for other in others:
        assert everything(other).startswith(b"HTTP/1.1 200")
        other.close()
    counts = server.app.server.find("double").tally.counts
    assert counts["accepted"] == sum(counts[end] for end in ("completed", "rejected", "expired", "cancelled", "failed"))


@pytest.mark.parametrize("n_first", [10, 160, 10_000])
def test_an_offer_to_speak_another_protocol_is_passed_over(server: Running, n_first: int) -> None:
    raw = json.dumps(ASK).encode()
    asked = plain(raw, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    twice = asked + plain(raw, "Connection: close")
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(twice[:n_first])
        server.inside(lambda: None)
        s.sendall(twice[n_first:])
        text = everything(s)
    assert text.count(b"HTTP/1.1 200") == text.count(b"HTTP/1.1 ") == 2


def test_a_connection_that_says_nothing_holds_nothing(server: Running) -> None:
    raw = json.dumps({**ASK, "parameters": {"padding": "x" * 100_000}}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        for request in (plain(raw), plain(json.dumps(ASK).encode())):
            s.sendall(request)
            assert s.recv(65536).startswith(b"HTTP/1.1 200")
            held = server.inside(
                lambda: [(c.last_request, c.now, len(c.waiting)) for _, cs in server.app._listeners for c in cs.open]
            )
            assert held == [(None, None, 0)] * len(held)


def test_a_length_of_many_digits_is_told_so(server: Running) -> None:
    status, _, body = server.ask("POST", INFER, ASK, inference_header_content_length="1" * 5000)
    assert status == 400
    assert b"digits" in body


def test_an_index_does_not_make_the_server_unready(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    admin = AppSettings(http="127.0.0.1:0", admin="127.0.0.1:0", admin_token="secret")
    with serving(tmp_path, settings=admin) as running:
        affine(tmp_path / "half" / "a.onnx")
        affine(tmp_path / "half" / "b.onnx")
        port = running.app.ports["admin"]
        rows = json.loads(running.ask("POST", "/v2/repository/index", port=port, authorization="Bearer secret")[2])
        assert {row["name"]: row["state"] for row in rows} == {"double": "READY", "half": "UNAVAILABLE"}
        assert next(row["reason"] for row in rows if row["name"] == "half") not in ("", "unloaded")
        assert running.ask("GET", "/v2/health/ready")[0] == 200
