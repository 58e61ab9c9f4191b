"""Goodput from half of capacity to ten times it: each policy of ours on the real server, the same simulated, and two peers.

python benchmarks/serving_overload.py [--seconds 4] [--peers mosec,litserve]

One model of some 3 ms a row and a small input (so that the client can send ten times too much), SLO 50 ms, Poisson arrivals,
all on one machine. Capacity is what a policy answers in a closed loop just before, as the machine is faster in some minutes than in others; that of `bcedge`
for the peers, which come after it. Peers know no deadlines: theirs is the share that happened to be in time. Simulated figures come from the
latencies that the server itself had learned, and are marked so. The cores that the server's own process and the client took are there
too: both share the machine with the model.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from serving_peers import OUT, Server, http, infer_request
from setting import write_json

from jouleflow.demo_serve.networks import SHAPES, kws
from jouleflow.load.client import closed_loop, open_loop
from jouleflow.load.local_server import LocalServer, local_server
from jouleflow.policy.policies import POLICIES
from jouleflow.profile.latencies import Latencies
from jouleflow.runtime.meter import cpu_s
from jouleflow.sim.serving import SimModel, simulate_serving

PORT, SLO_S, MAX_BATCH = 8780, 0.05, 16
LOADS = (0.5, 0.8, 1.0, 1.5, 3.0, 10.0)
PEER_LOADS = (0.5, 0.8, 1.0, 1.5, 3.0)
NAME = "overload"


def models() -> Path:
    """The folder with the one model, made when it is not there."""
    folder = OUT / "overload"
    path = folder / NAME / "model.onnx"
    if not path.exists():
        kws(path, 800)
    (folder / NAME / "jouleflow.toml").write_text(f"slo_ms = {SLO_S * 1e3}\nmax_batch = {MAX_BATCH}\n")
    return folder


def get(url: str) -> Any:
    """JSON, once the server is ready to give it."""
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                raw = answer.read()
            return json.loads(raw) if raw else None
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def arrivals(rate_hz: float, seconds: float) -> np.ndarray:
    return np.cumsum(np.random.default_rng(0).exponential(1 / rate_hz, int(rate_hz * seconds)))


def at_load(
    server: LocalServer, policy: str, load: float, capacity_hz: float, seconds: float, request: bytes
) -> dict[str, Any]:
    """A share of capacity, on the server and simulated."""
    times = arrivals(load * capacity_hz, seconds)
    pids = (server.pid, os.getpid())
    start_s, spent_s = time.monotonic(), [-(cpu_s(pid) or 0.0) for pid in pids]
    s = uvloop.run(open_loop(server.host, server.port, [request], times)).summary(SLO_S)
    span_s = time.monotonic() - start_s
    server_cores, client_cores = (
        (was_s + (cpu_s(pid) or 0.0)) / span_s for was_s, pid in zip(spent_s, pids, strict=True)
    )
    learned = get(f"{server.url}/v2/models/stats")["model_stats"][0]["jouleflow"]["latency_s_by_rows"]
    model = SimModel(Latencies(tuple(map(int, learned)), tuple(learned.values())), SLO_S, MAX_BATCH, 2)
    sim = simulate_serving({NAME: model}, {NAME: times}, 2, policy).models[NAME]
    samples = get(f"{server.url}/live.json")["samples"][-int(seconds) :]
    joules = [sample["j_per_request"] for sample in samples if sample["j_per_request"]]
    return {
        "policy": policy, "capacity_hz": capacity_hz, "load": load, "goodput_per_capacity": s["slo_attained_frac"] * load,
        "slo_attained_frac": s["slo_attained_frac"], "latency_p50_s": s["latency_p50_s"], "latency_p99_s": s["latency_p99_s"],
        "rejection_p99_s": s["rejection_p99_s"], "statuses": s["statuses"], "server_cores": server_cores, "client_cores": client_cores,
        "j_per_request_modelled": float(np.mean(joules)) if joules else None,
        "simulated_slo_attained_frac": sim.in_time_frac,
        "simulated_latency_p99_s": float(np.percentile(sim.latency_s, 99)) if len(sim.latency_s) else None,
    }  # fmt: skip


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
        with local_server(models(), ("--policy", policy)) as server:
            get(f"{server.url}/v2/health/ready")
            closed = closed_loop(server.host, server.port, [ours], 16, 4, 1.0)
            capacity_hz = uvloop.run(closed).summary()["infer_per_s"]
            print("capacity", round(capacity_hz), flush=True)
            for load in LOADS:
                row = at_load(server, policy, load, capacity_hz, a.seconds, ours)
                rows.append(row)
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
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
    write_json(a.name, {"slo_s": SLO_S, "rows": rows})


if __name__ == "__main__":
    main()
