"""BCEdge's utility of each policy: six models mixed, Poisson and recorded arrivals, simulated and on the real server.

python benchmarks/serving_utility.py [--seconds 6] [--seeds 5] [--boxes six,six_two_threads [--keep]] [--resimulate [--reprofile]]

The utility is log(throughput / (latency / SLO)) of the answers in time, by model and second (sim/oracle.py). A shared
machine is half again as fast in some minutes as in others, so for each piece of arrivals all policies take turns, each on a server
of its own that is idle meanwhile, and started anew for each trace (by where its memory happens to lie one is some per cent slower than the next); the first two then have a second turn, so that serving_simulated.py can say how far the real server is from itself. What is simulated
comes from the profiles of a box together, one taken in the middle of each trace's pieces, as minutes differ too; once with the pace of the
machine drawn from them, the same course for all policies, and once with that course made as fast as rows of each model alone say that the machine was, which are measured
between any two turns, and piece by piece faster or slower by what requests cost in each policy's turn. The
oracle is the best of fixed choices for the arrivals as they came, as far as a search from several starts finds it: a lower bound. The second box is the same models with two threads a batch, as
an operator might set it: then two batches at once fight for the cores, which no policy is told. --resimulate computes what is simulated in the JSON there is anew, from the profiles of the same run, or with --reprofile from ones that are measured now.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import monotonic
from typing import Any

import numpy as np
import uvloop
from serving_models import SLO_MS, make_repository
from setting import ROOT, data_dir, write_json

from jouleflow.load.answers import Answers
from jouleflow.load.client import open_loop
from jouleflow.load.local_server import LocalServer, local_server
from jouleflow.load.requests import measure_requests
from jouleflow.load.run import Load, random_requests
from jouleflow.load.told import energy_of_all
from jouleflow.policy.policies import POLICIES
from jouleflow.profile.interference import Pairwise, fit_interference
from jouleflow.profile.merging import merge_profiles
from jouleflow.profile.serving import ServingProfile, load_profile, save_profile
from jouleflow.runtime.colocation import Wanted, profile_models, rows_alone
from jouleflow.serve.repository import Repository
from jouleflow.sim.box import energy_j, sim_models
from jouleflow.sim.oracle import find_oracle, windowed_utility
from jouleflow.sim.pace import Pace
from jouleflow.sim.serving import simulate_serving
from jouleflow.trace.arrivals import load_arrivals, make_arrivals

OUT = ROOT / "jouleflow-out" / "utility"
TRACES = {
    "poisson": "",
    "twitter": "twitter_day01_per_second.csv",
    "azure_code": "azure_llm_code.csv",
    "azure_conv": "azure_llm_conv_first_half.csv",
}
RATES_HZ = (30.0, 100.0, 200.0)  # of each model
FEWER_SEEDS = (0, 1, 3)
PACED = "simulated at its pace"
AGAIN, N_AGAIN = "measured again", 2  # policies that are measured a second time on a piece, others each time
RIVALS = ("delay", "aimd", "deeprt")
CONTENDED_HZ = (60.0, 120.0)
CONTENDED = Pairwise(
    {(m, m): 2.5 for m in SLO_MS}
)  # a made-up box, to see what the learned policy is for: batches of one model disturb each other badly
Rows = list[dict[str, Any]]


def arrivals(trace: str, rate_hz: float, seconds: float, seed: int) -> dict[str, np.ndarray]:
    """Of each model: Poisson, or a piece of a recorded trace from a random place, with that mean rate over the whole trace."""
    random = np.random.default_rng(seed)
    found = {}
    for name in SLO_MS:
        if not TRACES[trace]:
            found[name] = make_arrivals("poisson", rate_hz, seconds, random)
            continue
        times = WHOLE.setdefault(
            (trace, rate_hz), load_arrivals(data_dir() / "requests" / TRACES[trace], np.random.default_rng(0), rate_hz)
        )
        start_s = random.uniform(0, times[-1] - seconds)
        found[name] = times[(times >= start_s) & (times < start_s + seconds)] - start_s
    return found


WHOLE: dict[tuple[str, float], np.ndarray] = {}


def wanted_of(folder: Path) -> list[Wanted]:
    repository = Repository(folder)
    found = (repository.find(name) for name in repository.names())
    return [
        Wanted(s.name, s.path, s.settings.max_batch, s.settings.instances or 2, s.settings.threads, s.slo_s, 5)
        for s in found
    ]


def profile_path(name: str) -> Path:
    return OUT / f"{name}.json"


def profile_box(box: str, trace: str, budget_s: float) -> ServingProfile:
    """Measured now; whatever an earlier run kept is not used."""
    folder, cells = OUT / box, OUT / "cells" / box
    shutil.rmtree(cells, ignore_errors=True)
    wanted = wanted_of(folder)
    found = measure_requests(uvloop.run(profile_models(wanted, cells, budget_s)), folder, wanted)
    save_profile(found, profile_path(f"{box}_{trace}"))
    return found


def simulated(
    profile: ServingProfile, times: dict[str, np.ndarray], seconds: float, interference: Any, paces: Mapping[str, Pace]
) -> dict[str, Any]:
    """Figures of every policy that has a pace. seconds: of the load."""
    models, out = sim_models(profile), dict[str, Any]()
    for policy, pace in paces.items():
        o = simulate_serving(models, times, profile.n_cores, policy, interference, pace)
        done = sum(len(m.latency_s) for m in o.models.values())
        out[policy] = figures(
            {n: (m.arrival_s, m.latency_s, m.n_requests) for n, m in o.models.items()},
            seconds,
            {
                "provenance": "modelled",
                "source": f"busy core seconds at the profile's power of a core ({profile.energy}: {profile.energy_source})",
                "j_per_request_modelled": energy_j(profile, o) / done if done else None,
            },
        )
    return out


def oracle(
    profile: ServingProfile, times: dict[str, np.ndarray], seconds: float, interference: Any, pace: Pace
) -> dict[str, Any]:
    best = find_oracle(sim_models(profile), times, profile.n_cores, seconds, interference, pace=pace)
    return {
        "utility": best.value, "exhaustive": best.exhaustive, "claim": best.claim, "choices": dict(best.choices),
    }  # fmt: skip


def drawn_pace(case: Mapping[str, Any], profile: ServingProfile) -> Pace:
    return Pace(profile.pace_spread(), zlib.crc32(repr(sorted(case.items())).encode()))


def simulated_rows(case: dict[str, Any], profile: ServingProfile, interference: Any, a: argparse.Namespace) -> Rows:
    """Of a piece, with one pace for all policies that is drawn; and the oracle where that was asked for."""
    times = arrivals(case["trace"], case["rate_hz"], a.seconds, case["seed"])
    pace = drawn_pace(case, profile)
    found = simulated(profile, times, a.seconds, interference, dict.fromkeys(POLICIES, pace))
    if case["seed"] < a.oracle and case["box"] == "six":
        found["oracle"] = oracle(profile, times, a.seconds, interference, pace)
    return [{**case, "how": "simulated", "policy": policy, **got} for policy, got in found.items()]


def paced_rows(
    measured_rows: Rows, drawn_rows: Rows, profile: ServingProfile, interference: Any, seconds: float
) -> Rows:
    """Of pieces that were measured, each at its pace: the drawn one as fast in the mean as rows alone were around the pieces of its rate, whatever the
    policy, times what a request took of the cores, measured over simulated, beside the mean of that over all pieces of the rate under the policy. So
    minutes are told apart, and what is wrong of a load or a policy stays wrong."""
    costs: dict[tuple[str, float], dict[tuple[Any, ...], float]] = {}
    alone: dict[float, list[float]] = {}
    drawn = {(*piece(r), r["policy"]): r for r in drawn_rows}
    for r in measured_rows:
        found = cost(r) / cost(drawn[*piece(r), r["policy"]])
        costs.setdefault((r["policy"], r["rate_hz"]), {})[piece(r)] = found
        alone.setdefault(r["rate_hz"], []).extend(
            s / profile.latencies(n).of(1) for n, s in r.get("alone_s", {}).items()
        )

    def rows_of(case: dict[str, Any]) -> Rows:
        pace = drawn_pace(case, profile)
        spread = pace.spread or (1.0,)
        at_rate = alone[case["rate_hz"]]
        faster = fmean(at_rate) / fmean(spread) if at_rate else 1.0  # runs of before did not measure rows alone
        paces = {
            policy: replace(pace, spread=tuple(s * faster * each[piece(case)] / fmean(each.values()) for s in spread))
            for (policy, rate_hz), each in costs.items()
            if rate_hz == case["rate_hz"]
        }
        times = arrivals(case["trace"], case["rate_hz"], seconds, case["seed"])
        found = simulated(profile, times, seconds, interference, paces)
        return [{**case, "how": PACED, "policy": policy, **got} for policy, got in found.items()]

    return side_by_side(rows_of, pieces_of(measured_rows))


def pieces_of(rows: Rows) -> list[dict[str, Any]]:
    return [dict(zip(PIECE, each, strict=True)) for each in dict.fromkeys(map(piece, rows))]


def side_by_side(rows_of: Callable[[dict[str, Any]], Rows], cases: list[dict[str, Any]]) -> Rows:
    """The rows of all cases, computed on all cores: in children that are forked, each with every so many-th case."""
    n, context = os.cpu_count() or 1, multiprocessing.get_context("fork")
    found: dict[int, Rows] = {}
    done = context.SimpleQueue()

    def work(first: int) -> None:
        for k in range(first, len(cases), n):
            rows = None
            try:
                rows = rows_of(cases[k])
            finally:
                done.put((k, rows))

    children = [context.Process(target=work, args=(first,)) for first in range(n)]
    for child in children:
        child.start()
    while len(found) < len(cases):
        k, rows = done.get()
        if rows is None:
            sys.exit(f"{cases[k]} could not be simulated")
        found[k] = rows
        print(*cases[k].values(), "simulated", flush=True)
    for child in children:
        child.join()
    return [row for k in range(len(cases)) for row in found[k]]


def piece(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[k] for k in PIECE)


def cost(row: Mapping[str, Any]) -> float:
    """What a request took of the cores, as joules: both are modelled from CPU time."""
    return float(row["energy"]["j_per_request_modelled"])


def all_simulated(measured_rows: Rows, parts: dict[str, ServingProfile], a: argparse.Namespace) -> Rows:
    """Of all pieces that were measured, each box from what its profiles say together; and of the contended box, with the models of the first."""
    rows: Rows = []
    measured_rows = [r for r in measured_rows if r["how"] == "measured"]
    boxes = list(dict.fromkeys(r["box"] for r in measured_rows))
    for box in boxes:
        of_box = [r for r in measured_rows if r["box"] == box]
        profile = merge_profiles([parts[f"{box}_{trace}"] for trace in dict.fromkeys(r["trace"] for r in of_box)])
        interference = fit_interference(profile.cells)
        drawn = side_by_side(
            lambda case, profile=profile, interference=interference: simulated_rows(case, profile, interference, a),
            pieces_of(of_box),
        )
        rows += drawn + paced_rows(of_box, drawn, profile, interference, a.seconds)
        if box == "six":
            rows += contended_rows(profile, TRACES, dict.fromkeys(r["seed"] for r in of_box), a)
    return rows


def contended_rows(profile: ServingProfile, traces: Iterable[str], seeds: Iterable[int], a: argparse.Namespace) -> Rows:
    """On the box whose batches disturb each other."""
    cases = [
        {"box": "contended", "trace": trace, "rate_hz": rate_hz, "seed": seed}
        for rate_hz, trace, seed in itertools.product(CONTENDED_HZ, traces, seeds)
    ]
    return side_by_side(lambda case: simulated_rows(case, profile, CONTENDED, a), cases)


def results() -> dict[str, Any]:
    """Of the JSON there is."""
    return dict(json.loads((ROOT / "benchmarks" / "results" / "serving_utility.json").read_text())["results"])


def resimulate(a: argparse.Namespace) -> tuple[Rows, dict[str, ServingProfile]]:
    """The rows of the JSON there is, with all that is simulated computed anew."""
    told = results()
    a.seconds = told["seconds"]
    rows: Rows = [r for r in told["rows"] if not r["how"].startswith("simulated")]
    parts: dict[str, ServingProfile] = {}
    for box, trace in dict.fromkeys((r["box"], r["trace"]) for r in rows):
        path = profile_path(f"{box}_{trace}")
        if a.reprofile:
            parts[path.stem] = profile_box(box, trace, a.profile_seconds)
        elif told["profiles"].get(path.name) != digest(path):
            sys.exit(f"{path} is of another run than the JSON: measure again, or with --reprofile")
        else:
            parts[path.stem] = load_profile(path)
    return rows + all_simulated(rows, parts, a), parts


PIECE = ("box", "trace", "rate_hz", "seed")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def figures(
    models: dict[str, tuple[np.ndarray, np.ndarray, int]], seconds: float, energy: Mapping[str, Any]
) -> dict[str, Any]:
    """Utility, share in time, throughput and percentiles over all models, and the energy as it is known: its keys end in how. seconds:
    of the load."""
    utility = np.mean(
        [windowed_utility(at, late, SLO_MS[n] / 1e3, seconds) for n, (at, late, count) in models.items() if count]
    )
    met = sum(int((late <= SLO_MS[n] / 1e3).sum()) for n, (_, late, _) in models.items())
    asked = sum(count for _, _, count in models.values())
    relative = np.concatenate([late / (SLO_MS[n] / 1e3) for n, (_, late, _) in models.items()] or [np.zeros(1)])
    each = {
        n: {
            "p50_s": float(np.median(late)),
            "p99_s": float(np.percentile(late, 99)),
            "throughput_hz": len(late) / seconds,
        }
        for n, (_, late, _) in models.items()
        if len(late)
    }
    return {
        "utility": float(utility), "in_time_frac": met / asked, "throughput_hz": sum(e["throughput_hz"] for e in each.values()),
        "p50_of_slo": float(np.median(relative)), "p99_of_slo": float(np.percentile(relative, 99)), "energy": dict(energy), "models": each,
    }  # fmt: skip


async def drive(server: LocalServer, times: dict[str, np.ndarray]) -> tuple[float, dict[str, Answers]]:
    requests = {n: REQUESTS.setdefault(n, random_requests(Load(server.url, n, None), "localhost")) for n in times}
    start_s = monotonic() + 0.05
    answers = await asyncio.gather(
        *(open_loop(server.host, server.port, requests[n], t) for n, t in times.items() if len(t))
    )
    return start_s, dict(zip((n for n, t in times.items() if len(t)), answers, strict=True))


REQUESTS: dict[str, list[bytes]] = {}


def live(server: LocalServer) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server.url}/live.json", timeout=10) as answer:
        return json.loads(answer.read())


def measured(server: LocalServer, times: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    before = live(server)
    start_s, answers = uvloop.run(drive(server, times))
    energy = energy_of_all(before, live(server))
    models = {}
    for n, a in answers.items():
        good = np.array(a.status) == 200
        models[n] = ((np.array(a.start_s) - start_s)[good].clip(0), np.array(a.latency_s)[good], len(a.status))
    return figures(models, seconds, energy)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, help="of a piece; 6, or as in the JSON there is")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--oracle", type=int, default=1, help="seeds that get an oracle")
    parser.add_argument("--profile-seconds", type=float, default=60)
    parser.add_argument("--boxes", default="six,six_two_threads")
    parser.add_argument("--keep", action="store_true", help="what the JSON has of boxes that are not measured now")
    parser.add_argument("--resimulate", action="store_true", help="only what is simulated, of the JSON there is")
    parser.add_argument(
        "--reprofile", action="store_true", help="with --resimulate, from a profile that is measured now"
    )
    a = parser.parse_args()
    kept = others(a.boxes.split(",")) if a.keep else {}
    rows, parts = resimulate(a) if a.resimulate else measure(a, kept)
    rows = keep(rows, parts, a.seconds, kept)
    for box in dict.fromkeys(r["box"] for r in rows):
        for how in ("simulated", "measured"):
            for rate_hz in sorted({*RATES_HZ, *CONTENDED_HZ}):
                line = {p: s for p in (*POLICIES, "oracle") if (s := summary(rows, box, how, p, rate_hz)) is not None}
                if line:
                    best = max(line[p][0] for p in RIVALS)
                    print(
                        box,
                        how,
                        rate_hz,
                        line,
                        f"bcedge over the best of {RIVALS}: {line['bcedge'][0] / best - 1:+.1%}",
                    )


def others(boxes: Iterable[str]) -> dict[str, Any]:
    """What the JSON has of other boxes."""
    told, names = results(), {f"{box}_{trace}" for box in boxes for trace in TRACES}
    gone = {*boxes, *(["contended"] if "six" in boxes else [])}
    return {
        "rows": [r for r in told["rows"] if r["box"] not in gone],
        "front": {name: x for name, x in told["front"].items() if name not in names},
        "profiles": {file: x for file, x in told["profiles"].items() if Path(file).stem not in names},
    }


def measure(a: argparse.Namespace, kept: dict[str, Any]) -> tuple[Rows, dict[str, ServingProfile]]:
    """Everything, anew; the JSON is written after each trace."""
    a.seconds = a.seconds or 6.0
    make_repository(OUT / "six")
    make_repository(OUT / "six_two_threads", threads=2)
    rows: Rows = []
    parts: dict[str, ServingProfile] = {}
    turns = itertools.count()
    for box, trace in itertools.product(a.boxes.split(","), TRACES):
        pieces = [
            {"box": box, "trace": trace, "rate_hz": rate_hz, "seed": seed} for rate_hz, seed in cases(box, a.seeds)
        ]
        with contextlib.ExitStack() as running:
            alone = running.enter_context(rows_between(wanted_of(OUT / box)))
            servers = dict[str, LocalServer]()
            for policy in POLICIES:
                servers[policy] = running.enter_context(local_server(OUT / box, ("--policy", policy)))
            for n, case in enumerate(pieces):
                if n == len(pieces) // 2:
                    parts[f"{box}_{trace}"] = profile_box(box, trace, a.profile_seconds)
                times, turn = arrivals(trace, case["rate_hz"], a.seconds, case["seed"]), next(turns)
                before = alone()
                for k in range(len(servers) + N_AGAIN):
                    policy = list(servers)[(k + turn) % len(servers)]
                    got, after = measured(servers[policy], times, a.seconds), alone()
                    told = {"how": "measured" if k < len(servers) else AGAIN, "policy": policy}
                    rows.append({**case, **told, **got, "alone_s": {n: (before[n] + after[n]) / 2 for n in after}})
                    before = after
            for policy, server in servers.items():
                rows.append({"box": box, "trace": trace, "how": "counted", "policy": policy, **learned(server)})
        keep(rows, parts, a.seconds, kept)
        print(box, trace, {p: summary(rows, box, "measured", p) for p in POLICIES}, flush=True)
    return rows + all_simulated(rows, parts, a), parts


@contextlib.contextmanager
def rows_between(wanted: list[Wanted]) -> Iterator[Callable[[], dict[str, float]]]:
    """Says how many seconds a row of each model takes now, alone: the machine's pace, whatever the server makes of it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = contextlib.AsyncExitStack()
        measure = runner.run(stack.enter_async_context(rows_alone(wanted, os.cpu_count() or 1)))
        try:
            yield lambda: runner.run(measure())
        finally:
            runner.run(stack.aclose())


def cases(box: str, n_seeds: int) -> list[tuple[float, int]]:
    """Rates and seeds of each trace."""
    if box != "six":
        return [(hz, seed) for hz in CONTENDED_HZ for seed in range(min(n_seeds, 2))]
    return [
        (hz, seed) for hz, fewer in zip(RATES_HZ, FEWER_SEEDS, strict=True) for seed in range(max(n_seeds - fewer, 1))
    ]


def learned(server: LocalServer) -> dict[str, int]:
    """How many decisions a net made, and how often the table's was taken."""
    with urllib.request.urlopen(f"{server.url}/v2/models/stats", timeout=10) as answer:
        stats = [m["jouleflow"] for m in json.loads(answer.read())["model_stats"]]
    return {k: sum(s.get(k, 0) for s in stats) for k in ("learned_decisions", "table_fallbacks")}


def summary(rows: Rows, box: str, how: str, policy: str, rate_hz: float | None = None) -> tuple[float, float] | None:
    found = [
        r for r in rows if (r["box"], r["how"], r["policy"]) == (box, how, policy) and rate_hz in (None, r["rate_hz"])
    ]
    if not found:
        return None
    return round(float(np.mean([r["utility"] for r in found])), 3), round(
        float(np.mean([r.get("in_time_frac", 1.0) for r in found])), 3
    )


def keep(rows: Rows, profiles: dict[str, ServingProfile], seconds: float, kept: dict[str, Any]) -> Rows:
    """With what --resimulate must know: how long the pieces are, and which profiles they were simulated from. Returns all rows."""
    costs = {
        b: {n: {"front_s": m.front_s, "client_s": m.client_s} for n, m in p.models.items()} for b, p in profiles.items()
    }
    digests = {path.name: digest(path) for path in map(profile_path, profiles)}
    rows = kept.get("rows", []) + rows
    costs, digests = kept.get("front", {}) | costs, kept.get("profiles", {}) | digests
    write_json("serving_utility", {"seconds": seconds, "rows": rows, "front": costs, "profiles": digests})
    return rows


if __name__ == "__main__":
    main()
