"""Goodput from half of capacity to ten times it: each policy of ours on the real server, the same simulated, and two peers.

python benchmarks/serving_overload.py [--seconds 4] [--peers mosec,litserve]

One model of some 3 ms a row and a small input (so that the client can send ten times too much), SLO 50 ms, Poisson arrivals,
all on one machine. Peers know no deadlines: theirs is the share that happened to be in time. Simulated figures come from the
latencies that the server itself had learned, and are marked so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from typing import Any

import numpy as np
import uvloop
from serving_peers import OUT, ROOT, Server, http, infer_request
from setting import write_json

from jouleflow.demo_serve.networks import SHAPES, kws
from jouleflow.load.client import closed_loop, open_loop
from jouleflow.policy.policies import POLICIES
from jouleflow.profile.latencies import Latencies
from jouleflow.sim.serving import SimModel, simulate_serving

PORT, SLO_S, MAX_BATCH = 8780, 0.05, 16
LOADS = (0.5, 0.8, 1.0, 1.5, 3.0, 10.0)
PEER_LOADS = (0.5, 0.8, 1.0, 1.5, 3.0)
NAME = "overload"


def start(policy: str) -> subprocess.Popen[bytes]:
    folder = OUT / "overload"
    path = folder / NAME / "model.onnx"
    if not path.exists():
        kws(path, 800)
    (folder / NAME / "jouleflow.toml").write_text(f"slo_ms = {SLO_S * 1e3}\nmax_batch = {MAX_BATCH}\n")
    command = [
        sys.executable,
        "-m",
        "jouleflow",
        "serve",
        str(folder),
        "--http",
        f"127.0.0.1:{PORT}",
        "--grpc",
        "",
        "--policy",
        policy,
    ]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})
    for _ in range(200):
        try:
            get("/v2/health/ready")
            return child
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not start")


def get(path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as answer:
        raw = answer.read()
    return json.loads(raw) if raw else None


def arrivals(rate_hz: float, seconds: float) -> np.ndarray:
    return np.cumsum(np.random.default_rng(0).exponential(1 / rate_hz, int(rate_hz * seconds)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--peers", default="mosec,litserve")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--name", default="serving_overload", help="of the JSON")
    a = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(0).normal(size=(1, *SHAPES["kws"])).astype(np.float32)
    ours = infer_request(NAME, {"x": x})
    rows, capacity_hz = [], 0.0
    for policy in a.policies.split(","):
        child = start(policy)
        try:
            if not capacity_hz:
                patient = infer_request(NAME, {"x": x})
                capacity_hz = uvloop.run(closed_loop("127.0.0.1", PORT, [patient], 16, 4, 1.0)).summary()["infer_per_s"]
                print("capacity", round(capacity_hz), flush=True)
            for load in LOADS:
                times = arrivals(load * capacity_hz, a.seconds)
                answers = uvloop.run(open_loop("127.0.0.1", PORT, [ours], times))
                s = answers.summary(SLO_S)
                learned = get("/v2/models/stats")["model_stats"][0]["jouleflow"]["latency_s_by_rows"]
                latencies = Latencies(tuple(map(int, learned)), tuple(learned.values()))
                model = SimModel(latencies, SLO_S, MAX_BATCH, 2)
                sim = simulate_serving({NAME: model}, {NAME: times}, 2, policy).models[NAME]
                joules = [
                    p["j_per_request"] for p in get("/live.json")["samples"][-int(a.seconds) :] if p["j_per_request"]
                ]
                row = {
                    "policy": policy, "load": load, "goodput_per_capacity": s["slo_attained_frac"] * load,
                    "slo_attained_frac": s["slo_attained_frac"], "latency_p50_s": s["latency_p50_s"], "latency_p99_s": s["latency_p99_s"],
                    "rejection_p99_s": s["rejection_p99_s"], "statuses": s["statuses"],
                    "j_per_request_modelled": float(np.mean(joules)) if joules else None,
                    "simulated_slo_attained_frac": sim.in_time_frac,
                    "simulated_latency_p99_s": float(np.percentile(sim.latency_s, 99)) if len(sim.latency_s) else None,
                }  # fmt: skip
                rows.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)
    for peer in filter(None, a.peers.split(",")):
        server = Server(peer, NAME, OUT / "overload", PORT, SHAPES["kws"])
        try:
            import base64

            body = json.dumps({"x": base64.b64encode(x.tobytes()).decode()}).encode()
            request = (
                http("/inference", x.tobytes(), "application/octet-stream")
                if peer == "mosec"
                else http("/predict", body, "application/json")
            )
            server.ready(request)
            for load in PEER_LOADS:
                answers = uvloop.run(open_loop("127.0.0.1", PORT, [request], arrivals(load * capacity_hz, a.seconds)))
                s = answers.summary(SLO_S)
                row = {
                    "peer": peer,
                    "load": load,
                    "goodput_per_capacity": s["slo_attained_frac"] * load,
                    **{k: s[k] for k in ("slo_attained_frac", "latency_p99_s", "statuses")},
                }
                rows.append(row)
                print(row, flush=True)
        except (RuntimeError, TimeoutError, OSError) as error:
            rows.append({"peer": peer, "error": str(error)})
        finally:
            server.stop()
    write_json(a.name, {"capacity_hz": capacity_hz, "slo_s": SLO_S, "rows": rows})


if __name__ == "__main__":
    main()
