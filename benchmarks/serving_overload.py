"""Goodput from half of capacity to ten times it: each policy of ours on the real server, the same simulated, and two peers.

python benchmarks/serving_overload.py [--seconds 3] [--rounds 5] [--peers mosec,litserve]

One model of some 3 ms a row and a small input (so that the client can send ten times too much), SLO 50 ms, Poisson arrivals,
all on one machine; then one of some 11 ms a row, SLO 150 ms, under the two policies that it is mostly about, as what a refusal costs weighs less beside it. Capacity is what a policy answers in a closed loop just before each round of its loads, with as many requests in flight as it does most with (too many are refused, and come again at once), as the machine is faster in some minutes than in others; the last one of `bcedge`
is that of the peers, which come after it. Peers know no deadlines: theirs is the share that happened to be in time. A peer queues without bound, so that at 10x it is asked for a shorter time, as often
as at 3x: it is then through with all of it well before the client gives up (120 s), and what it holds at once is bounded by the client's 1,000 connections (what waits for one of them waits
nevertheless, and that counts). A shorter time flatters a peer, if anything: the first requests find no queue. Simulated figures come from the
latencies that the server itself had learned, and are marked so. Energy is modelled alike for all: the CPU time of the server's processes, from the first request to the last answer, times the power that is assumed of a core. The cores that they took are there too, and those
of the server's own loop and the client: all share the machine with the model.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from peers import OUT, Server, request_for
from serving_process import family
from setting import write_json

from jouleflow.demo_serve.networks import SHAPES, kws
from jouleflow.load.client import closed_loop, infer_request, open_loop
from jouleflow.load.local_server import LocalServer, local_server
from jouleflow.policy.policies import POLICIES
from jouleflow.profile.latencies import Latencies
from jouleflow.runtime.meter import ASSUMED_CORE_W, cpu_s
from jouleflow.sim.serving import SimModel, simulate_serving

PORT, MAX_BATCH = 8780, 16
LOADS = (0.5, 0.8, 1.0, 1.5, 3.0, 10.0)
PEER_MOST = (
    3.0  # times its capacity that a peer is asked for the whole time; more only as long as that makes no more requests
)
IN_FLIGHT = (4, 8, 16)
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


def cpu_by_process_s(pids: list[int]) -> dict[int, float]:
    return {pid: spent_s for pid in pids if (spent_s := cpu_s(pid)) is not None}


def under_load(pid: int, port: int, request: bytes, times: np.ndarray, slo_s: float) -> dict[str, Any]:
    """What became of requests, and what they cost the server's processes and the client: one method for us and for peers. pid: of the
    server's first process."""
    start_s, before_s = time.monotonic(), cpu_by_process_s([*family(pid), os.getpid()])
    s = uvloop.run(open_loop("127.0.0.1", port, [request], times)).summary(slo_s)
    after_s, span_s = cpu_by_process_s([*family(pid), os.getpid()]), time.monotonic() - start_s
    spent_s = {each: used_s - before_s.get(each, 0.0) for each, used_s in after_s.items()}
    client_s = spent_s.pop(os.getpid())
    energy_j, n_in_time = sum(spent_s.values()) * ASSUMED_CORE_W, round(s["slo_attained_frac"] * s["requests"])
    keys = ("slo_attained_frac", "latency_p50_s", "latency_p99_s", "rejection_p99_s", "statuses")
    return {
        **{k: s[k] for k in keys}, "all_cores": sum(spent_s.values()) / span_s, "server_cores": spent_s.get(pid, 0.0) / span_s,
        "client_cores": client_s / span_s, "j_per_request_modelled": energy_j / s["succeeded"] if s["succeeded"] else None,
        "j_per_request_in_time_modelled": energy_j / n_in_time if n_in_time else None,
    }  # fmt: skip


def capacity(server: LocalServer, request: bytes) -> float:
    """Answers a second with the number of requests in flight that it does most with."""
    runs = [uvloop.run(closed_loop(server.host, server.port, [request], n, 3, 1.0)).summary() for n in IN_FLIGHT]
    return max(run["infer_per_s"] for run in runs)


def at_load(
    server: LocalServer, model: Model, policy: str, load: float, capacity_hz: float, seconds: float, request: bytes
) -> dict[str, Any]:
    """A share of capacity, on the server and simulated."""
    times = arrivals(load * capacity_hz, seconds)
    found = under_load(server.pid, server.port, request, times, model.slo_s)
    learned = get(f"{server.url}/v2/models/stats")["model_stats"][0]["jouleflow"]["latency_s_by_rows"]
    known = SimModel(Latencies(tuple(map(int, learned)), tuple(learned.values())), model.slo_s, MAX_BATCH, 2)
    sim = simulate_serving({model.name: known}, {model.name: times}, 2, policy).models[model.name]
    return {
        "model": model.name, "policy": policy, "capacity_hz": capacity_hz, "load": load,
        "goodput_per_capacity": found["slo_attained_frac"] * load, **found,
        "simulated_slo_attained_frac": sim.in_time_frac,
        "simulated_latency_p99_s": float(np.percentile(sim.latency_s, 99)) if len(sim.latency_s) else None,
    }  # fmt: skip


def peer_rows(peer: str, x: np.ndarray, capacity_hz: float, seconds: float) -> Iterator[dict[str, Any]]:
    """A peer at each load, and an error where it did not get so far."""
    server = Server(peer, SMALL.name, SMALL.folder(), PORT, SHAPES["kws"])
    try:
        request = request_for(peer, SMALL.name, x)
        server.ready(request)
        for load in LOADS:
            for_s = seconds * min(1.0, PEER_MOST / load)
            found = under_load(server.child.pid, PORT, request, arrivals(load * capacity_hz, for_s), SMALL.slo_s)
            found.pop("server_cores")  # its first process is not what listens
            goodput = found["slo_attained_frac"] * load
            yield {"peer": peer, "load": load, "seconds": for_s, "goodput_per_capacity": goodput, **found}
    except (RuntimeError, TimeoutError, OSError) as error:
        yield {"peer": peer, "error": str(error) or type(error).__name__}
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5, help=f"of {', '.join(LARGE_POLICIES)}")
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
                for _ in range(a.rounds if policy in LARGE_POLICIES else 1):
                    capacities_hz[model.name, policy] = capacity_hz = capacity(server, ours)
                    print("capacity", round(capacity_hz), flush=True)
                    for load in LOADS:
                        row = at_load(server, model, policy, load, capacity_hz, a.seconds, ours)
                        rows.append(row)
                        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    small_hz = {policy: hz for (name, policy), hz in capacities_hz.items() if name == SMALL.name}
    peers_hz = small_hz.get("bcedge", max(small_hz.values()))
    for peer in filter(None, a.peers.split(",")):
        for row in peer_rows(peer, x, peers_hz, a.seconds):
            rows.append(row)
            print(row, flush=True)
    for model, policy in capacities_hz:
        print(model, policy, kept([r for r in rows if (r.get("model"), r.get("policy")) == (model, policy)]))
    print(table(rows))
    write_json(a.name, {"slo_s": {m.name: m.slo_s for m in (SMALL, LARGE)}, "rows": rows})


def table(rows: list[dict[str, Any]]) -> str:
    """Goodput, cores and joules at each load."""

    def cell(row: dict[str, Any]) -> str:
        joules = (row["j_per_request_modelled"], row["j_per_request_in_time_modelled"])
        mj = " / ".join("-" if j is None else f"{1e3 * j:.3g}" for j in joules)
        return f"{row['load']:g}x {row['goodput_per_capacity']:.2f}, {row['all_cores']:.2f} cores, {mj} mJ"

    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        who = (row.get("model", SMALL.name), row.get("policy") or row["peer"])
        lines.setdefault(who, []).append(row["error"] if "error" in row else cell(row))
    words = "load, goodput over capacity, cores of the server's processes, mJ a request answered / in time (modelled)"
    return "\n".join([words, *(f"{model} {who}: {'; '.join(cells)}" for (model, who), cells in lines.items())])


def kept(rows: list[dict[str, Any]]) -> str:
    """Of the peak at the highest loads: goodput a second as it is, and a core that the client leaves; means over the rounds."""

    def mean(load: float, share: Callable[[dict[str, Any]], float]) -> float:
        at = [r for r in rows if r["load"] == load]
        return float(np.mean([r["goodput_per_capacity"] * r["capacity_hz"] * share(r) for r in at]))

    whole = {load: mean(load, lambda _: 1.0) for load in LOADS}
    a_core = {load: mean(load, lambda r: 1 / (2 - r["client_cores"])) for load in LOADS}
    return ", ".join(
        f"{load:g}x: {whole[load] / max(whole.values()):.0%} of the peak, {a_core[load] / max(a_core.values()):.0%} of it a core that the client leaves"
        for load in LOADS[-2:]
    )


if __name__ == "__main__":
    main()
