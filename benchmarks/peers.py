"""The servers that ours is compared with: how each is installed, started, asked and stopped.

Each is in a virtual environment of its own (jouleflow-out/peers), from the registry, with two workers of one ONNX Runtime thread each.
A name may say how many rows a batch has at most, where it is not 8: `mosec@32`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import uvloop
from setting import OURS, ROOT

from jouleflow.demo_serve.networks import SHAPES
from jouleflow.load.client import closed_loop, infer_request
from jouleflow.load.shared_memory import shared_inputs

OUT = ROOT / "jouleflow-out" / "peers"
SHARED = "jouleflow_shared_memory"
HERE = Path(__file__).parent / "peer_servers"
PACKAGES = {
    "mosec": ["mosec"],
    "litserve": ["litserve"],
    "ray": ["ray[serve]"],
    "bentoml": ["bentoml"],
    "mlserver": ["mlserver", "uvloop==0.21.0"],
    "pytriton": ["nvidia-pytriton"],
}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, made when it is not there."""
    folder = OUT / "venvs" / peer
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing {peer}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "onnxruntime", "numpy", *PACKAGES[peer]], check=True)
        (folder / "ready").touch()
    return python


def plain_name(peer: str) -> str:
    """Which server a peer is, whatever its settings."""
    return peer.partition("@")[0]


def http(path: str, body: bytes, kind: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def request_for(peer: str, name: str, x: np.ndarray) -> bytes:
    """A request in the peer's own format."""
    peer = plain_name(peer)
    if peer == "jouleflow":
        return infer_request(name, {"x": x})
    if peer == "pytriton":
        return infer_request("peer", {"x": x})
    if peer == "mosec":
        return http("/inference", x.tobytes(), "application/octet-stream")
    if peer == "ray":
        return http("/", x.tobytes(), "application/octet-stream")
    if peer == "litserve":
        return http("/predict", json.dumps({"x": base64.b64encode(x.tobytes()).decode()}).encode(), "application/json")
    if peer == "bentoml":
        return http("/predict", json.dumps({"x": x.tolist()}).encode(), "application/json")
    # mlserver speaks the same protocol, but over HTTP takes JSON only
    spec = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    return http("/v2/models/peer/infer", json.dumps({"inputs": [spec]}).encode(), "application/json")


def command_of(peer: str, name: str, models: Path, port: int) -> tuple[list[str], Path]:
    peer = plain_name(peer)
    if peer in ("jouleflow", SHARED):
        return [
            sys.executable,
            "-m",
            "jouleflow",
            "serve",
            str(models),
            "--http",
            f"127.0.0.1:{port}",
            "--grpc",
            "",
            *(["--shared-memory"] if peer == SHARED else []),
        ], ROOT
    python = str(python_of(peer))
    if peer == "mosec":
        return [python, "mosec_server.py", "--port", str(port), "--address", "127.0.0.1", "--timeout", "60000"], HERE
    if peer == "bentoml":
        return [
            python,
            "-m",
            "bentoml",
            "serve",
            "bento_server:Infer",
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
        ], HERE
    if peer == "mlserver":
        folder = OUT / "mlserver"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "http_port": port,
            "grpc_port": port + 1,
            "metrics_port": port + 2,
            "parallel_workers": 2,
            "debug": False,
        }
        model = {"name": "peer", "implementation": "mlserver_model.Infer", "max_batch_size": 8, "max_batch_time": 0.002}
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(Path(python).with_name("mlserver")), "start", str(folder)], HERE
    return [python, f"{peer}_server.py"], HERE


class Server:
    """A peer that serves one model while the block lasts."""

    def __init__(self, peer: str, name: str, models: Path, port: int, shape: tuple[int, ...] | None = None) -> None:
        self.peer, self.port = peer, port
        command, folder = command_of(peer, name, models, port)
        path = models / name / "model.onnx"
        environment = {
            **os.environ, "PEER_MODEL": str(path), "PEER_SHAPE": ",".join(map(str, shape or SHAPES[name])), "PEER_PORT": str(port),
            "PYTHONPATH": str(HERE) if peer not in ("jouleflow", SHARED) else OURS, "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "1",
            "PEER_BATCH": peer.partition("@")[2] or "8",
        }  # fmt: skip
        self.log = (OUT / f"{peer}.log").open("w")
        self.child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def ready(self, request: bytes) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if self.child.poll() is not None:
                break
            try:
                answers = uvloop.run(closed_loop("127.0.0.1", self.port, [request], 1, 0.2, 0.0))
                if answers.status and set(answers.status) == {200}:
                    return
            except (OSError, TimeoutError):
                pass
            time.sleep(0.5)
        raise RuntimeError(f"{self.peer} does not answer; see {self.log.name}")

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.child.pid, sign)
            except ProcessLookupError:
                break
            time.sleep(2)
        self.child.wait()
        self.log.close()
        if self.peer == "ray":
            subprocess.run(
                [str(python_of("ray").with_name("ray")), "stop", "--force"], capture_output=True, check=False
            )


@contextlib.contextmanager
def ready_request(server: Server, name: str, x: np.ndarray) -> Iterator[bytes]:
    """The request to send to a server, once it answers."""
    if server.peer != SHARED:
        request = request_for(server.peer, name, x)
        server.ready(request)
        yield request
        return
    server.ready(infer_request(name, {"x": x}))
    with shared_inputs(f"http://127.0.0.1:{server.port}", "", [{"x": x}]) as extents:
        yield infer_request(name, {"x": x}, extents=extents[0])
