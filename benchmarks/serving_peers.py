"""jouleflow's server beside its peers and beside raw ONNX Runtime, on three models, one after another on one machine.

python benchmarks/serving_peers.py [--models kws,rn20,mbv2] [--seconds 4] [--rounds 3] [--peers mosec,litserve,...] [--keep]

Peers: MLServer, BentoML, LitServe and Ray Serve, the general servers that people come from; PyTriton, as it is Triton's own core and speaks our
protocol; and mosec, as it is the fastest. FastAPI and KServe's SDK are not here: neither puts requests into
batches by itself.
They come from the registry into virtual environments of their own (jouleflow-out/peers). Each has two workers with one
ONNX Runtime thread each and batches of at most 8 (mosec, which is close, a second time with 32: that is jouleflow's default), its own fastest HTTP format, and our client: 16, 32, 64 and 128 requests in flight, of which
the best is its throughput at saturation; then its latency at 50 and 80 % of that, Poisson arrivals, five pieces, and jouleflow's at the same rates (`at_rates`, by peer and
share). jouleflow is measured a second time with
inputs that stay in shared memory: what a body costs is the difference. jouleflow and the fastest peer take turns, three rounds each, and medians are kept: neighbours of a machine
make it faster in some minutes than in others. The client's own CPU time is counted and printed: it shares the
cores.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import uvloop
from setting import OURS, ROOT, write_json

from jouleflow.demo_serve.networks import SHAPES, make_all
from jouleflow.load.answers import Answers
from jouleflow.load.client import closed_loop, infer_request, open_loop
from jouleflow.load.shared_memory import shared_inputs

OUT = ROOT / "jouleflow-out" / "peers"
RAW, SHARED = "raw", "jouleflow_shared_memory"
HERE = Path(__file__).parent / "peer_servers"
FASTEST = ("mosec", "mosec@32")  # of the peers, which is close; after the @: rows of a batch at most, if not 8
PORT = 8770
IN_FLIGHT = (16, 32, 64, 128)  # requests; a server is saturated by the number that it does most with
WARM_UP_S, PIECES = 1.0, 5
SHARES = {"at_50_percent": 0.5, "at_80_percent": 0.8}  # of a server's own throughput at saturation
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


def raw(path: Path, shape: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """Inferences a second of ONNX Runtime in process: two sessions of one thread each, each batch size."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [ort.InferenceSession(str(path), options) for _ in range(2)]
    by_batch = {}
    for batch in (1, 4, 8, 16):
        x, counts, until = np.ones((batch, *shape), np.float32), [0, 0], time.perf_counter() + seconds

        def work(k: int, x: np.ndarray = x, counts: list[int] = counts, until: float = until) -> None:
            while time.perf_counter() < until:
                sessions[k].run(None, {"x": x})
                counts[k] += len(x)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        by_batch[batch] = sum(counts) / seconds
    return {"infer_per_s": max(by_batch.values()), "by_batch": by_batch}


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


def saturated(request: bytes, seconds: float) -> dict[str, Any]:
    """The closed loop in which the server does most, and all of them by the requests in flight."""
    by_in_flight = {
        n: measured(lambda n=n: uvloop.run(closed_loop("127.0.0.1", PORT, [request], n, seconds, 1.0)))
        for n in IN_FLIGHT
    }
    return {**max(by_in_flight.values(), key=lambda row: row["infer_per_s"]), "by_in_flight": by_in_flight}


def measured(work: Callable[[], Any], n_sent: int = 0) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    answers = work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    s, n = answers.summary(), max(len(answers.status), 1)
    n_sent = n_sent or n  # more than are in the answers, where there was a warm-up
    return {
        **{k: s[k] for k in ("infer_per_s", "latency_p50_s", "latency_p99_s", "statuses")},
        "answered_frac": s["succeeded"] / n,
        "client_cpu_s_per_request": cpu_s / n_sent,
    }


def at_rate(port: int, request: bytes, rate_hz: float, seconds: float) -> dict[str, Any]:
    """Poisson arrivals at a rate, whatever the server does. p50 and p99 are medians over PIECES, as a stall of the machine, of some 0.1 s
    every ten or twenty, is all of the p99 of a few seconds; `latency_p99_s_by_piece` has each."""
    n = max(int(rate_hz * (PIECES * seconds + WARM_UP_S)), 20)
    times = np.cumsum(np.random.default_rng(0).exponential(1 / rate_hz, n))
    answers = []

    def work() -> Answers:
        answers.append(uvloop.run(open_loop("127.0.0.1", port, [request], times, warm_up_s=WARM_UP_S)))
        return answers[0]

    found = measured(work, n)
    pieces = [s for s in map(Answers.summary, pieces_of(answers[0], seconds)) if s["succeeded"]]
    if pieces:
        for key in ("latency_p50_s", "latency_p99_s"):
            found[key] = float(np.median([s[key] for s in pieces]))
    return {"rate_hz": rate_hz, **found, "latency_p99_s_by_piece": [[s["latency_p99_s"] for s in pieces]]}


def pieces_of(answers: Answers, seconds: float) -> list[Answers]:
    """The answers to what was due in each piece, of so many seconds."""
    start_s = np.array(answers.start_s)
    number = ((start_s - start_s.min()) / seconds).astype(int) if len(start_s) else start_s
    columns = start_s, np.array(answers.latency_s), np.array(answers.status)
    return [Answers(*(c[number == k].tolist() for c in columns), duration_s=seconds) for k in range(PIECES)]


def one_round(
    peer: str, name: str, models: Path, x: np.ndarray, seconds: float, rates_hz: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """A server from start to stop: at saturation, at shares of that, and at the rates of others, by peer and share. error: why there is
    nothing."""
    server = Server(peer, name, models, PORT)
    try:
        with ready_request(server, name, x) as request:
            row = saturated(request, seconds)
            for share, frac in SHARES.items():
                row[share] = at_rate(PORT, request, frac * row["infer_per_s"], seconds)
            row["at_rates"] = {
                other: {share: at_rate(PORT, request, hz, seconds) for share, hz in shares.items()}
                for other, shares in rates_hz.items()
            }
        row["error"] = None
    except (RuntimeError, TimeoutError, OSError) as error:
        row = {"error": str(error) or type(error).__name__}
    finally:
        server.stop()
    print(name, peer, {k: row.get(k) for k in ("infer_per_s", "latency_p99_s", "statuses", "error")}, flush=True)
    return row


def median_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Every number of the rounds that went well as its median; everything else is the first round's."""
    well = [row for row in rounds if not row["error"]] or rounds[:1]

    def merged(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: merged([v[key] for v in values if key in v]) for key in values[0] if key != "statuses"}
        if isinstance(values[0], list):
            return [each for v in values for each in v]
        numbers = [v for v in values if isinstance(v, float)]
        return float(np.median(numbers)) if len(numbers) == len(values) else values[0]

    return {
        **merged(well),
        "statuses": well[0].get("statuses"),
        "rounds_infer_per_s": [r.get("infer_per_s") for r in rounds],
    }


def rates_of(row: dict[str, Any]) -> dict[str, float]:
    """At which rates a server was asked, by share of what it does; nothing when it did not get there."""
    return {} if row["error"] else {share: row[share]["rate_hz"] for share in SHARES}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Each server's throughput at saturation, p50 and p99 at shares of it, and jouleflow's at the same rates."""

    def latencies(at: dict[str, Any] | None) -> str:
        if not at or at["latency_p50_s"] is None:
            return "-"
        note = "" if at["answered_frac"] > 0.999 else f" ({at['answered_frac']:.0%})"
        return f"{1e3 * at['latency_p50_s']:.1f} / {1e3 * at['latency_p99_s']:.1f}{note}"

    ours = [f"jouleflow {share}" for share in ("at 50 %", "at 80 %")]
    rows = [["model", "server", "infer/s", "at 50 %", "at 80 %", *ours]]
    for name, servers in results.items():
        there = servers["jouleflow"].get("at_rates", {})
        for server, row in servers.items():
            if row["error"]:
                rows.append([name, server, "-"])
                continue
            own = [latencies(row.get(share)) for share in SHARES]
            rows.append([name, server, f"{row['infer_per_s']:,.0f}", *own, *(latencies(there.get(server, {}).get(share)) for share in SHARES)])  # fmt: skip
    widths = [max(len(r[k]) for r in rows if k < len(r)) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=False)).rstrip() for r in rows]
    return "\n".join(["p50 / p99 in ms (share answered, where not all were)", *lines])


def with_others(results: dict[str, dict[str, Any]], before: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """These results, and those of before of models and peers that are not in them; jouleflow's at the rates of those peers too."""
    merged = {**before, **{name: {**before.get(name, {}), **rows} for name, rows in results.items()}}
    for name in set(results) & set(before):
        rates = [rows[name].get("jouleflow", {}).get("at_rates", {}) for rows in (before, results)]
        merged[name]["jouleflow"] = {**merged[name]["jouleflow"], "at_rates": {**rates[0], **rates[1]}}
    return merged


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="kws,rn20,mbv2")
    parser.add_argument("--peers", default=",".join(dict.fromkeys((*PACKAGES, *FASTEST))))
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="of jouleflow and the fastest peer, in turn")
    parser.add_argument("--keep", action="store_true", help="what the JSON has of models and peers not measured now")
    a = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    models = make_all(OUT / "models")
    peers = [peer for peer in a.peers.split(",") if peer]
    near = [peer for peer in peers if peer in FASTEST]
    results: dict[str, Any] = {}
    for name in a.models.split(","):
        x = np.random.default_rng(0).normal(size=(1, *SHAPES[name])).astype(np.float32)
        rows = results[name] = dict[str, Any]()
        rates_hz: dict[str, dict[str, float]] = {}
        near_hz: dict[str, dict[str, float]] = {}
        for peer in [peer for peer in peers if peer not in FASTEST]:
            rows[peer] = one_round(peer, name, models, x, a.seconds, {})
            rates_hz[peer] = rates_of(rows[peer])
        rounds: dict[str, list[dict[str, Any]]] = {peer: [] for peer in (RAW, *near, "jouleflow", SHARED)}
        for k in range(max(a.rounds, 1)):
            for peer, found in rounds.items():
                if peer == RAW:
                    found.append({**raw(models / name / "model.onnx", SHAPES[name], 1.0), "error": None})
                    print(name, RAW, round(found[-1]["infer_per_s"]), flush=True)
                    continue
                others = {**(rates_hz if k == 0 else {}), **near_hz} if peer == "jouleflow" else {}
                found.append(one_round(peer, name, models, x, a.seconds, others))
                if peer in FASTEST:
                    near_hz[peer] = rates_of(found[-1])
        rows |= {peer: median_of(found) for peer, found in rounds.items()}
    if a.keep:
        path = ROOT / "benchmarks" / "results" / "serving_peers.json"
        results = with_others(results, json.loads(path.read_text())["results"])
    print(table(results))
    write_json("serving_peers", results)


if __name__ == "__main__":
    main()
