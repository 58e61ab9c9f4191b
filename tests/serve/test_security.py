"""Who may ask and how much: on every method, in every field, and over redirects."""

from __future__ import annotations

import asyncio
import hmac
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.load.client import infer_request, open_loop
from jouleflow.load.run import Load, random_requests
from jouleflow.serve.access import Gate, make_access
from jouleflow.serve.app import AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.repository import Repository
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving
from tests.serve.test_chaos import SLOW, assert_adds_up, infer_body, slow

INFER = "/v2/models/double/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    with serving(folder, limits=Limits(max_body_bytes=1 << 20)) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v2",
        INFER,
        "/metrics",
        "/live.json",
        "/v2/repository/index",
        "/v2/systemsharedmemory/region/a/register",
        "/nothing",
    ],
)
@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "localhost.evil.example"}, {"Host": "localhost", "Origin": "http://evil.example"},
     {"Host": "localhost", "Origin": "null"}, {"Host": ""}],
)  # fmt: skip
def test_foreign_hosts_and_origins_are_refused_on_every_method(
    server: Running, method: str, path: str, headers: dict[str, str]
) -> None:
    assert server.ask(method, path, infer_body(), **headers)[0] == 403


def test_a_host_is_checked_on_every_request_of_a_connection(server: Running) -> None:
    """Heads that repeat are not parsed again, and must not be let in for that."""
    good = infer_request("double", {"x": np.ones((1, 4), np.float32)})
    bad = good.replace(b"Host: localhost", b"Host: evilhost1")
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(10)
        for request, status in ((good, b"200"), (good, b"200"), (bad, b"403"), (bad, b"403"), (good, b"200")):
            s.sendall(request)
            assert s.recv(65536).split(b" ")[1] == status


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": infer_body()["inputs"] * 65}, "1 to 64 tensors"),
        ({**infer_body(), "outputs": [{"name": "y"}] * 65}, "1 to 64 tensors"),
        ({"inputs": [{**infer_body()["inputs"][0], "shape": [1] * 9}]}, "at most 8 sides"),
        ({"inputs": [{**infer_body()["inputs"][0], "shape": [1 << 62, 1 << 62]}]}, "more than"),
        ({"inputs": [{**infer_body()["inputs"][0], "name": "x" * 300}]}, "at most 256"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "not JSON"),
    ],
)
def test_counts_ranks_products_and_depth_are_limited(server: Running, body: Any, message: str) -> None:
    status, _, text = server.ask("POST", INFER, body)
    assert status == 400
    assert message in json.loads(text)["error"]


@pytest.mark.parametrize(
    "path",
    ["/v2/models/%252e%252e%252fdouble", "/v2/models/..%2f..%2fetc", "/v2/models/a%00b", "/v2/models/a%5cb", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/live.js"],
)  # fmt: skip
def test_paths_lead_nowhere(server: Running, path: str) -> None:
    assert server.ask("GET", path)[0] == 404


@pytest.mark.parametrize("name", ["", "..", "a..b", "a/b", "/etc", "a\\b", "a\0", "a" * 65, "é", "a b", "%2e%2e"])
def test_names_that_no_model_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        Repository(tmp_path).find(name)


@pytest.mark.parametrize("kind", ["file", "folder", "version", "settings"])
def test_links_in_the_repository_are_not_followed(tmp_path: Path, kind: str) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "models"
    affine(outside / "m" / "model.onnx")
    (outside / "jouleflow.toml").write_text("max_batch = 7\n")
    affine(inside / "m" / "1" / "model.onnx")
    linked = inside / "linked"
    if kind == "file":
        linked.mkdir()
        (linked / "model.onnx").symlink_to(outside / "m" / "model.onnx")
    elif kind == "folder":
        linked.symlink_to(outside / "m")
    elif kind == "version":
        linked.mkdir()
        (linked / "1").symlink_to(outside / "m")
    else:
        affine(linked / "model.onnx")
        (linked / "jouleflow.toml").symlink_to(outside / "jouleflow.toml")
    with pytest.raises(InputError, match="link"):
        Repository(inside).find("linked")
    assert Repository(inside).find("m").version == "1"


def test_refused_for_now_says_when_to_ask_again_and_never_queued(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_queue = 2\nmax_batch = 1\ninstances = 1\n")
    with serving(tmp_path) as server:
        flood = threading.Thread(
            target=lambda: asyncio.run(
                open_loop("127.0.0.1", server.port, [infer_request("slow", SLOW)], np.linspace(0, 1.5, 600))
            )
        )
        flood.start()
        refused = []
        while flood.is_alive():
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1500], "data": [1.0] * 1500}]}
            refused.append(server.ask("POST", "/v2/models/slow/infer", body)[:2])
        flood.join()
        told = [headers for status, headers in refused if status == 429]
        assert told
        assert all(int(headers["retry-after"]) >= 1 for headers in told)
        assert_adds_up(server, "slow")
        hasty = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1500], "data": [1.0] * 1500}], "parameters": {"timeout": 1}}  # fmt: skip
        status, headers, _ = server.ask("POST", "/v2/models/slow/infer", hasty)
        assert status == 503
        assert int(headers["retry-after"]) >= 1


def test_shared_memory_and_control_are_off(server: Running) -> None:
    assert server.ask("POST", "/v2/cudasharedmemory/status", b"{}")[0] == 404
    regions = "/v2/systemsharedmemory"
    for method, path in (("GET", "/status"), ("GET", "/region/a/status"), ("POST", "/region/a/register"), ("POST", "/region/a/unregister"), ("POST", "/unregister")):  # fmt: skip
        status, _, text = server.ask(method, regions + path, b"{}")
        assert (status, "--shared-memory" in json.loads(text)["error"]) == (400, True), path
    assert "system_shared_memory" not in json.loads(server.ask("GET", "/v2")[2])["extensions"]
    for path in ("/v2/repository/models/double/load", "/v2/repository/models/double/unload", "/v2/repository/index"):
        assert server.ask("POST", path, b"{}")[0] == 403
    assert "model_repository" not in json.loads(server.ask("GET", "/v2")[2])["extensions"]


def test_the_tokens_of_the_listeners_are_not_each_others(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    settings = AppSettings(http="127.0.0.1:0", admin="127.0.0.1:0", token="asks", admin_token="rules")
    with serving(tmp_path, settings=settings) as server:
        admin = server.app.ports["admin"]
        assert server.ask("GET", "/v2", authorization="Bearer rules")[0] == 401
        assert server.ask("GET", "/v2", port=admin, authorization="Bearer asks")[0] == 401
        assert server.ask("GET", "/v2", port=admin, authorization="Bearer rules")[0] == 200


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was sent, all of it is compared with all of the token, by what takes as long wherever they differ: nothing looks before."""
    compared, compare = [], hmac.compare_digest

    def recorded(sent: bytes, wanted: bytes) -> bool:
        compared.append((sent, wanted))
        return compare(sent, wanted)

    monkeypatch.setattr(hmac, "compare_digest", recorded)
    right = b"Bearer a-token-of-some-length"
    wrong = [right[:n] for n in range(len(right))] + [
        right + b"x",
        b"x" + right,
        right.lower(),
        right[:-1] + b"\xe9",
        bytes(300),
    ]
    gate = Gate(make_access("127.0.0.1", (), "a-token-of-some-length", False))
    for sent in (*wrong, right):
        refused = gate.refusal({b"host": b"localhost", b"authorization": sent})
        assert (refused is None) == (sent == right)
    assert compared == [(sent.decode("latin-1").encode(), right) for sent in (*wrong, right)]


def test_errors_name_no_folder_of_ours(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    (tmp_path / "broken.onnx").write_bytes(os.urandom(100))
    with serving(tmp_path) as server:
        assert "broken" in server.app.server.problems
        for path in ("/live.json", "/metrics", "/v2/models/broken", "/v2/models/double/config"):
            assert str(tmp_path) not in server.ask("GET", path)[2].decode()


def test_a_load_follows_no_redirect_with_its_token() -> None:
    heard: list[str] = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization", ""))
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{listener.server_port}/other")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        with pytest.raises(InputError, match="302"):
            random_requests(Load(f"http://127.0.0.1:{listener.server_port}", "m", None, token="secret"), "h")
    finally:
        listener.shutdown()
    assert heard == ["Bearer secret"]
