"""Plain curl against a real server: health, metadata, inference in JSON and in bytes, and what is wrong."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from tests.runtime.models import affine
from tests.serve.conftest import Running, serving

CURL = shutil.which("curl")
pytestmark = pytest.mark.skipif(CURL is None, reason="no curl on this machine: apt-get install curl")

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/double/infer"
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    with serving(folder) as running:
        yield running


def curl(server: Running, path: str, *options: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of what curl was answered. body: what it reads where an option says `@-`."""
    assert CURL is not None
    command = [CURL, "-sS", "-q", "--noproxy", "*", "-i", "--max-time", "30", *options]
    raw = subprocess.run([*command, f"http://127.0.0.1:{server.port}{path}"], input=body, capture_output=True, timeout=60, check=True).stdout  # fmt: skip
    if raw.startswith(b"HTTP/1.1 100 "):  # it asked whether to send its body
        raw = raw.partition(b"\r\n\r\n")[2]
    head, _, content = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, content


def in_bytes(x: np.ndarray) -> tuple[bytes, int]:
    """The body that asks for x doubled with its tensors as bytes, and how long its JSON is."""
    tensor = {"name": "x", "datatype": "FP32", "shape": x.shape, "parameters": {"binary_data_size": x.nbytes}}
    head = json.dumps({"id": "7", "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + x.tobytes(), len(head)


def test_health_and_metadata(server: Running) -> None:
    for path, said in (("/v2/health/live", {"live": True}), ("/v2/health/ready", {"ready": True})):
        status, headers, content = curl(server, path)
        assert (status, headers["content-type"], json.loads(content)) == (200, "application/json", said)
    assert curl(server, "/v2/models/double/ready")[0] == 200
    status, headers, content = curl(server, "/v2/models/double", "--head")
    assert (status, content) == (200, b"")
    assert int(headers["content-length"]) > 0
    metadata = json.loads(curl(server, "/v2/models/double")[2])
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert "binary_tensor_data" in json.loads(curl(server, "/v2")[2])["extensions"]


def test_inference_in_json(server: Running) -> None:
    asked = {"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": X.shape, "data": X.tolist()}]}
    status, _, content = curl(server, INFER, "-d", json.dumps(asked))
    answer = json.loads(content)
    assert (status, answer["id"], answer["model_name"]) == (200, "7", "double")
    (y,) = answer["outputs"]
    assert (y["name"], y["datatype"], y["shape"]) == ("y", "FP32", [2, 4])
    np.testing.assert_array_equal(y["data"], (2 * X + 1).ravel())


@pytest.mark.parametrize("asks_first", [False, True])  # whether it may send its body, as curl does with large ones
def test_inference_in_bytes(server: Running, asks_first: bool) -> None:
    body, n_header = in_bytes(X)
    options = ["--data-binary", "@-", "-H", f"{LENGTH}: {n_header}", *["-H", "Expect: 100-continue"][: 2 * asks_first]]
    status, headers, content = curl(server, INFER, *options, body=body)
    assert status == 200
    n_header = int(headers[LENGTH.lower()])
    (y,) = json.loads(content[:n_header])["outputs"]
    assert y["parameters"] == {"binary_data_size": X.nbytes}
    np.testing.assert_array_equal(np.frombuffer(content[n_header:], np.float32).reshape(y["shape"]), 2 * X + 1)


@pytest.mark.parametrize(
    ("path", "options", "status", "message"),
    [
        (INFER, ["-d", '{"inputs": []}'], 400, "inputs must be a list"),
        (INFER, ["-d", "{]"], 400, "JSON"),
        (INFER, ["-d", "{}", "-H", f"{LENGTH}: 9"], 400, LENGTH),
        ("/v2/models/none/infer", ["-d", "{}"], 404, "no model 'none' in service"),
        ("/v2", ["-X", "DELETE"], 405, "DELETE is not answered here"),
        (INFER, ["-d", "{}", "-H", "Host: elsewhere"], 403, "host"),
    ],
)
def test_what_is_wrong_is_told(server: Running, path: str, options: list[str], status: int, message: str) -> None:
    answered, headers, content = curl(server, path, *options)
    assert (answered, headers["content-type"]) == (status, "application/json")
    assert message in json.loads(content)["error"]
    assert curl(server, "/v2/health/ready")[0] == 200
