"""Clients that people have against one server, unchanged: tritonclient (HTTP, gRPC, asyncio), kserve (REST, gRPC), and curl.

python benchmarks/serving_clients.py [--port 8780]

The clients come from the registry into a virtual environment of their own (jouleflow-out/clients). Each small program in
benchmarks/clients asks the three demo models and leaves what came back; every answer is compared with ONNX Runtime in this process. What
was typed and what came back is printed and kept in docs/transcripts/serving_clients.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import onnxruntime as ort
from setting import OURS, ROOT

from jouleflow.demo_serve.networks import SHAPES, make_all

OUT = ROOT / "jouleflow-out" / "clients"
HERE = Path(__file__).parent / "clients"
TRANSCRIPT = ROOT / "docs" / "transcripts" / "serving_clients.md"
PACKAGES = ["tritonclient[http,grpc]", "kserve"]
CLIENTS = ("triton_http.py", "triton_grpc.py", "triton_aio.py", "kserve_rest.py", "kserve_grpc.py", "plain_curl.sh")
TOLERANCE = 1e-4  # of the largest value: requests that came together share a batch, which is summed in another order


def python_of_clients() -> Path:
    """The interpreter of the clients' environment, made when it is not there."""
    folder = OUT / "venv"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print("installing", *PACKAGES, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (folder / "ready").touch()
    return python


def versions(python: Path) -> str:
    """The clients' versions, as a line."""
    code = "from importlib.metadata import version as v; print(', '.join(f'{n} {v(n)}' for n in ('tritonclient', 'kserve', 'grpcio')))"
    said = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return f"{said}, {subprocess.run(['curl', '--version'], capture_output=True, text=True, check=True).stdout[:11].strip()}"


def make_inputs(folder: Path) -> dict[str, np.ndarray]:
    """One row for each model, as array, as JSON and as JSON with bytes after it; the rows by model."""
    random, rows = np.random.default_rng(0), {}
    for name, shape in SHAPES.items():
        x = rows[name] = random.normal(size=(1, *shape)).astype(np.float32)
        spec: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": list(x.shape)}
        np.save(folder / f"{name}_x.npy", x)
        (folder / f"{name}_x.json").write_text(json.dumps({"inputs": [{**spec, "data": x.ravel().tolist()}]}))
        binary = {**spec, "parameters": {"binary_data_size": x.nbytes}}
        head = json.dumps({"inputs": [binary], "parameters": {"binary_data_output": True}}) + "\n"
        (folder / f"{name}_x.bin").write_bytes(head.encode() + x.tobytes())
    return rows


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime says in this process."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return np.asarray(
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    )


def answers_of(client: str, folder: Path, name: str) -> np.ndarray:
    """answers[k] to the one row of a model that a client left behind."""
    if client != "plain_curl.sh":
        return np.load(folder / f"{name}_y.npy")[:, 0]
    said = json.loads((folder / f"{name}_y.json").read_text())["outputs"][0]
    raw, length = (folder / f"{name}_y.bin").read_bytes(), ""
    for line in (folder / f"{name}_head.txt").read_text().lower().splitlines():
        if line.startswith("inference-header-content-length:"):
            length = line.partition(":")[2]
    return np.stack([np.array(said["data"], np.float32), np.frombuffer(raw[int(length) :], np.float32)])


def agreement(answers: np.ndarray, expected: np.ndarray) -> str:
    """How far the answers are from what was expected, in words.

    Raises SystemExit when that is more than rounding.
    """
    apart = float(np.abs(answers - expected).max() / np.abs(expected).max())
    if not apart <= TOLERANCE:
        sys.exit(
            f"an answer is {apart:.2g} of the largest value away from ONNX Runtime's: at most {TOLERANCE:g} is rounding"
        )
    n_same = int((answers == expected).all(axis=1).sum())
    return f"{len(answers)} answers, {n_same} bit for bit those of ONNX Runtime, the others within {apart:.1g}" if apart else (
        f"{len(answers)} answers, all bit for bit those of ONNX Runtime"
    )  # fmt: skip


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5):
                return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.25)
    server.kill()
    sys.exit("the server did not start")


def session(
    client: str, python: Path, addresses: list[str], folder: Path, environment: dict[str, str]
) -> tuple[str, str]:
    """What was typed, and what came back."""
    tool = "bash" if client.endswith(".sh") else "python"
    typed = [tool, f"benchmarks/clients/{client}", *addresses]
    run = [str(python) if tool == "python" else tool, str(HERE / client), *addresses]
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        sys.exit(f"{client} failed:\n{done.stdout}{done.stderr}")
    return shlex.join(typed), done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--port", type=int, default=8780, help="of HTTP; gRPC and control take the next two")
    port = parser.parse_args().port
    python, folder = python_of_clients(), OUT / "session"
    folder.mkdir(parents=True, exist_ok=True)
    models, rows = make_all(OUT / "models"), make_inputs(folder)
    expected = {name: reference(models / name / "model.onnx", x)[0] for name, x in rows.items()}
    addresses = [f"127.0.0.1:{port + k}" for k in range(3)]
    flags = ["--http", addresses[0], "--grpc", addresses[1], "--admin", addresses[2]]
    environment = {**os.environ, "JOULEFLOW_ADMIN_TOKEN": token_hex(), "PYTHONPATH": OURS}
    text = [
        "# Clients that people have, against one server", "",
        f"Written by `benchmarks/serving_clients.py`: {versions(python)}. The programs are in `benchmarks/clients`; the models are those of `make demo-serve`, "
        "and each answer is compared with ONNX Runtime in another process.", "",
        "```", f"$ JOULEFLOW_ADMIN_TOKEN=... jouleflow serve models {shlex.join(flags)}", "```", "",
    ]  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "jouleflow", "serve", str(models), *flags], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(f"http://{addresses[0]}", server)
        for client in CLIENTS:
            typed, said = session(client, python, addresses, folder, environment)
            compared = [f"{name}: {agreement(answers_of(client, folder, name), expected[name])}" for name in SHAPES]
            part = [f"## {client}", "", "```", f"$ {typed}", said, "```", "", *(f"- {line}" for line in compared), ""]
            print("\n".join(part), flush=True)
            text += part
    finally:
        server.terminate()
        server.wait(60)
    TRANSCRIPT.parent.mkdir(parents=True, exist_ok=True)
    TRANSCRIPT.write_text("\n".join(text))


if __name__ == "__main__":
    main()
