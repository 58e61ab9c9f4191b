"""Goodput from half of capacity to ten times it: each policy of ours on the real server, the same simulated, and two peers.

python benchmarks/serving_overload.py [--seconds 4] [--peers mosec,litserve]

One model of some 3 ms a row and a small input (so that the client can send ten times too much), SLO 50 ms, Poisson arrivals,
all on one machine; then one of some 11 ms a row, SLO 150 ms, under the two policies that it is mostly about, as what a refusal costs weighs less beside it. Capacity is what a policy answers in a closed loop just before, as the machine is faster in some minutes than in others; that of `bcedge`
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
from dataclasses import dataclass
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

PORT, MAX_BATCH = 8780, 16
LOADS = (0.5, 0.8, 1.0, 1.5, 3.0, 10.0)
PEER_LOADS = (0.5, 0.8, 1.0, 1.5, 3.0)
LARGE_POLICIES = ("bcedge", "table")


@dataclass(frozen=True, slots=True)
class Model:
    """A network of depthwise and pointwise layers, so many channels wide."""

    name: str
    width: int
    slo_s: float

    def folder(self) -> Path:
        """A repository with it alone, made when it is not there."""
        folder = OUT / self.name
        path = folder / self.name / "model.onnx"
        if not path.exists():
            kws(path, self.width)
        (folder / self.name / "jouleflow.toml").write_text(f"slo_ms = {self.slo_s * 1e3}\nmax_batch = {MAX_BATCH}\n")
        return folder


SMALL, LARGE = Model("overload", 800, 0.05), Model("overload_large", 1500, 0.15)


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
    server: LocalServer, model: Model, policy: str, load: float, capacity_hz: float, seconds: float, request: bytes
) -> dict[str, Any]:
    """A share of capacity, on the server and simulated."""
    times = arrivals(load * capacity_hz, seconds)
    pids = (server.pid, os.getpid())
    start_s, spent_s = time.monotonic(), [-(cpu_s(pid) or 0.0) for pid in pids]
    s = uvloop.run(open_loop(server.host, server.port, [request], times)).summary(model.slo_s)
    span_s = time.monotonic() - start_s
    server_cores, client_cores = (
        (was_s + (cpu_s(pid) or 0.0)) / span_s for was_s, pid in zip(spent_s, pids, strict=True)
    )
    learned = get(f"{server.url}/v2/models/stats")["model_stats"][0]["jouleflow"]["latency_s_by_rows"]
    known = SimModel(Latencies(tuple(map(int, learned)), tuple(learned.values())), model.slo_s, MAX_BATCH, 2)
    sim = simulate_serving({model.name: known}, {model.name: times}, 2, policy).models[model.name]
    samples = get(f"{server.url}/live.json")["samples"][-int(seconds) :]
    joules = [sample["j_per_request"] for sample in samples if sample["j_per_request"]]
    return {
        "model": model.name, "policy": policy, "capacity_hz": capacity_hz, "load": load, "goodput_per_capacity": s["slo_attained_frac"] * load,
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
    rows, policies = [], a.policies.split(",")
    capacities_hz = {}
    for model, chosen in ((SMALL, policies), (LARGE, [p for p in policies if p in LARGE_POLICIES])):
        ours = infer_request(model.name, {"x": x})
        for policy in chosen:
            with local_server(model.folder(), ("--policy", policy)) as server:
                get(f"{server.url}/v2/health/ready")
                closed = closed_loop(server.host, server.port, [ours], 16, 4, 1.0)
                capacities_hz[model.name, policy] = capacity_hz = uvloop.run(closed).summary()["infer_per_s"]
                print("capacity", round(capacity_hz), flush=True)
                for load in LOADS:
                    row = at_load(server, model, policy, load, capacity_hz, a.seconds, ours)
                    rows.append(row)
                    print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    peers_hz = capacities_hz.get((SMALL.name, "bcedge"), 0.0)
    for peer in filter(None, a.peers.split(",")):
        server = Server(peer, SMALL.name, SMALL.folder(), PORT, SHAPES["kws"])
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
                answers = uvloop.run(open_loop("127.0.0.1", PORT, [request], arrivals(load * peers_hz, a.seconds)))
                s = answers.summary(SMALL.slo_s)
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
    for model, policy in capacities_hz:
        print(model, policy, kept([r for r in rows if (r.get("model"), r.get("policy")) == (model, policy)]))
    write_json(a.name, {"slo_s": {m.name: m.slo_s for m in (SMALL, LARGE)}, "rows": rows})


def kept(rows: list[dict[str, Any]]) -> str:
    """Of the peak at the highest loads: goodput as it is, and a core that the client leaves."""
    whole = {r["load"]: r["goodput_per_capacity"] for r in rows}
    a_core = {r["load"]: r["goodput_per_capacity"] / (2 - r["client_cores"]) for r in rows}
    return ", ".join(
        f"{load:g}x: {whole[load] / max(whole.values()):.0%} of the peak, {a_core[load] / max(a_core.values()):.0%} of it a core that the client leaves"
        for load in LOADS[-2:]
    )


if __name__ == "__main__":
    main()
