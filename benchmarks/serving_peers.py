"""jouleflow's server beside its peers and beside raw ONNX Runtime, on three models, on one machine.

python benchmarks/serving_peers.py [--models kws,rn20,mbv2] [--seconds 2] [--rounds 3] [--peers mosec,litserve,...] [--keep]

Peers (`peers.py`): MLServer, BentoML, LitServe and Ray Serve, the general servers that people come from; PyTriton, as it is Triton's own core and speaks our
protocol; and mosec, as it is the fastest. FastAPI and KServe's SDK are not here: neither puts requests into
batches by itself.
Each has batches of at most 8 (mosec, which is close, a second time with 32: that is jouleflow's default), its own fastest HTTP format, and our client: 16, 32, 64 and 128 requests in flight, of which
the best is its throughput at saturation; then its latency at 50 and 80 % of that, Poisson arrivals in pieces, and jouleflow's at the same rates (`at_rates`, by peer and
share). jouleflow is measured a second time with inputs that stay in shared memory: what a body costs is the difference.
Neighbours of a machine make it twice as fast in some minutes as in others. So mosec, jouleflow and raw ONNX Runtime are there at the same time, each idle while another is measured, and take turns
of seconds: medians are of as many pieces of each, and `lower_p99` counts the pairs of neighbouring pieces in which jouleflow's p99 was the lower one. The others are far behind, and come one after
another. The client's own CPU time is counted: it shares the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import uvloop
from peers import OUT, PACKAGES, SHARED, Server, ready_request
from setting import ROOT, write_json

from jouleflow.demo_serve.networks import SHAPES, make_all
from jouleflow.load.client import closed_loop, open_loop

FASTEST = ("mosec", "mosec@32")  # of the peers, which is close
RAW, OURSELVES = "raw", "jouleflow"
PORT = 8770  # and those after it
IN_FLIGHT = (16, 32, 64, 128)  # requests; a server is saturated by the number that it does most with
WARM_UP_S, PIECES = 1.0, 5
SHARES = {"at_50_percent": 0.5, "at_80_percent": 0.8}  # of a server's own throughput at saturation
Row = dict[str, Any]


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


def in_flight(port: int, request: bytes, n: int, seconds: float) -> Row:
    return measured(lambda: uvloop.run(closed_loop("127.0.0.1", port, [request], n, seconds, 1.0)))


def at_rate(port: int, request: bytes, rate_hz: float, seconds: float, seed: int) -> Row:
    """Poisson arrivals at a rate for some seconds after a warm-up, whatever the server does."""
    n = max(int(rate_hz * (seconds + WARM_UP_S)), 20)
    times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate_hz, n))
    found = measured(lambda: uvloop.run(open_loop("127.0.0.1", port, [request], times, warm_up_s=WARM_UP_S)), n)
    return {"rate_hz": rate_hz, **found}


def medians(pieces: list[Row]) -> Row:
    """Every number as its median; a stall of the machine, of some 0.1 s every ten or twenty, is all of the p99 of one piece."""
    merged = dict(pieces[0])
    for key in merged:
        numbers = [p[key] for p in pieces if isinstance(p[key], float)]
        if numbers:
            merged[key] = float(np.median(numbers))
    return merged


def by_piece(pieces: list[Row]) -> Row:
    return {**medians(pieces), "latency_p99_s_by_piece": [p["latency_p99_s"] for p in pieces]}


def saturated(by_in_flight: dict[int, list[Row]]) -> Row:
    """The closed loop in which the server does most, and all of them by the requests in flight."""
    each = {n: medians(rounds) for n, rounds in by_in_flight.items()}
    best = max(each, key=lambda n: each[n]["infer_per_s"])
    rounds_hz = [row["infer_per_s"] for row in by_in_flight[best]]
    return {**each[best], "by_in_flight": each, "rounds_infer_per_s": rounds_hz, "error": None}


def alone(peer: str, name: str, models: Path, x: np.ndarray, seconds: float) -> Row:
    """A server from start to stop, at saturation and at shares of that. error: why there is nothing."""
    server = Server(peer, name, models, PORT)
    try:
        with ready_request(server, name, x) as request:
            row = saturated({n: [in_flight(PORT, request, n, seconds)] for n in IN_FLIGHT})
            for share, frac in SHARES.items():
                hz = frac * row["infer_per_s"]
                row[share] = by_piece([at_rate(PORT, request, hz, seconds, k) for k in range(PIECES)])
    except (RuntimeError, TimeoutError, OSError) as error:
        row = {"error": str(error) or type(error).__name__}
    finally:
        server.stop()
    told(name, peer, row)
    return row


def told(name: str, peer: str, row: Row) -> None:
    print(name, peer, {k: row.get(k) for k in ("infer_per_s", "latency_p99_s", "statuses", "error")}, flush=True)


def in_turns(
    near: Iterable[str],
    name: str,
    models: Path,
    x: np.ndarray,
    seconds: float,
    rounds: int,
    rates_hz: dict[str, dict[str, float]],
) -> dict[str, Row]:
    """Near peers, jouleflow and raw ONNX Runtime, all there at the same time. rates_hz: of the other peers, by peer and share: jouleflow is asked at them, too."""
    with contextlib.ExitStack() as stack:
        asked: dict[str, tuple[int, bytes]] = {}
        for k, peer in enumerate([*near, OURSELVES, SHARED]):
            server = Server(peer, name, models, PORT + k)
            stack.callback(server.stop)
            asked[peer] = PORT + k, stack.enter_context(ready_request(server, name, x))
        closed: dict[str, dict[int, list[Row]]] = {peer: {n: [] for n in IN_FLIGHT} for peer in asked}
        raws = []
        for _ in range(rounds):
            raws.append(raw(models / name / "model.onnx", SHAPES[name], 1.0))
            for n in IN_FLIGHT:
                for peer, (port, request) in asked.items():
                    closed[peer][n].append(in_flight(port, request, n, seconds))
        rows = {peer: saturated(runs) for peer, runs in closed.items()}
        for peer, row in rows.items():
            told(name, peer, row)

        def pieces(peers: list[str], hz: float, n: int) -> dict[str, list[Row]]:
            turns = [(peer, at_rate(*asked[peer], hz, seconds, k)) for k in range(n) for peer in peers]
            return {peer: [row for who, row in turns if who == peer] for peer in peers}

        ours: dict[str, dict[str, Row]] = {}
        for share, frac in SHARES.items():
            for peer in near:
                both = pieces([peer, OURSELVES], frac * rows[peer]["infer_per_s"], rounds * PIECES)
                rows[peer][share], at = by_piece(both[peer]), by_piece(both[OURSELVES])
                pairs = zip(both[OURSELVES], both[peer], strict=True)
                at["lower_p99"] = sum(a["latency_p99_s"] < b["latency_p99_s"] for a, b in pairs)
                ours.setdefault(peer, {})[share] = at
            for peer in (OURSELVES, SHARED):
                rows[peer][share] = by_piece(pieces([peer], frac * rows[peer]["infer_per_s"], PIECES)[peer])
            for peer, shares in rates_hz.items():
                ours.setdefault(peer, {})[share] = by_piece(pieces([OURSELVES], shares[share], PIECES)[OURSELVES])
        rows[OURSELVES]["at_rates"] = ours
    by_batch = {n: float(np.median([r["by_batch"][n] for r in raws])) for n in raws[0]["by_batch"]}
    rounds_hz = [r["infer_per_s"] for r in raws]
    rows[RAW] = {
        "infer_per_s": float(np.median(rounds_hz)),
        "by_batch": by_batch,
        "rounds_infer_per_s": rounds_hz,
        "error": None,
    }
    return rows


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
    parser.add_argument("--seconds", type=float, default=2, help="of a piece")
    parser.add_argument("--rounds", type=int, default=3, help="of those that take turns")
    parser.add_argument("--keep", action="store_true", help="what the JSON has of models and peers not measured now")
    parser.add_argument("--name", default="serving_peers", help="of the JSON")
    a = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    models = make_all(OUT / "models")
    peers = [peer for peer in a.peers.split(",") if peer]
    path = ROOT / "benchmarks" / "results" / f"{a.name}.json"
    before = json.loads(path.read_text())["results"] if a.keep else {}
    results: dict[str, dict[str, Row]] = {}
    for name in a.models.split(","):
        x = np.random.default_rng(0).normal(size=(1, *SHAPES[name])).astype(np.float32)
        rows = {peer: alone(peer, name, models, x, a.seconds) for peer in peers if peer not in FASTEST}
        rates_hz = {
            peer: {share: row[share]["rate_hz"] for share in SHARES} for peer, row in rows.items() if not row["error"]
        }
        near = [peer for peer in peers if peer in FASTEST]
        results[name] = {**rows, **in_turns(near, name, models, x, a.seconds, max(a.rounds, 1), rates_hz)}
        write_json(a.name, with_others(results, before))  # after each model: it takes minutes, and may be cut short
    print(table(with_others(results, before)))


if __name__ == "__main__":
    main()
