"""The simulated server beside the real one: throughput, p50, p99 and share in time, from the runs of serving_utility.py.

python benchmarks/serving_simulated.py

Each pair is the same arrivals on the same box under the same policy. p50 and p99 are of all requests, each latency relative to its
model's SLO. Errors are simulated over measured less one; the aim is 10 %. Seeds of a case are put together before they are
compared, as a percentile of some hundred requests is mostly chance; once by trace, and once all traces of a rate together. Twice: with a pace of the
machine that is drawn from the profiles, which knows nothing of the minute, and with that made faster or slower by what requests cost in each piece.
Beside it, piece by piece and by rate: how far a second run on the real
server is from the first, and the simulation from that first, of the pieces that had one; nothing can be nearer to the server than it is to itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from serving_utility import AGAIN, PACED, PIECE, cost, piece
from setting import ROOT, write_json

SIMULATED = (PACED, "simulated")
FIGURES = ("throughput_hz", "in_time_frac", "p50_of_slo", "p99_of_slo", "j_per_request_modelled")
BY_TRACE = ("box", "rate_hz", "trace", "policy")
BY_RATE = ("box", "rate_hz", "policy")


def measured_twice(rows: list[dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """The pieces that the real server had twice under a policy: of each its rows, by how they came about."""
    by_piece: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        by_piece[*piece(row), row["policy"]][row["how"]] = row
    return [each for each in by_piece.values() if AGAIN in each]


def itself(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """How far the second run of a piece, and the simulation of it, are from its first run: of each figure the median distance and the
    share within 10 %."""
    twice = measured_twice(rows)
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for how in (AGAIN, *SIMULATED):
        for f in FIGURES:
            each = np.abs([found_of[how][f] / found_of["measured"][f] - 1 for found_of in twice])
            found[how][f] = {"median": float(np.median(each)), "within_10_percent": float(np.mean(each <= 0.10))}
            print(
                f"{f} of single pieces, {how}: {np.mean(each <= 0.10):.0%} of {len(twice)} within 10 % of the first run, median distance {np.median(each):.1%}"
            )
    return dict(found)


def compared(rows: list[dict[str, Any]], how: str, by: Sequence[str]) -> list[dict[str, Any]]:
    """Each case as it was measured, and as it was simulated in that way, with the error of each figure. by: what makes a case."""
    cases: dict[tuple[Any, ...], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["how"] in (how, "measured"):
            cases[tuple(row[k] for k in by)][row["how"]].append(row)
    out = []
    for case, found in sorted(cases.items()):
        if found["measured"] and found[how]:
            simulated, measured = (
                {f: float(np.mean([r[f] for r in found[h]])) for f in FIGURES} for h in (how, "measured")
            )
            errors = {f: simulated[f] / measured[f] - 1 for f in FIGURES}
            out.append(
                {**dict(zip(by, case, strict=True)), "simulated": simulated, "measured": measured, "error": errors}
            )
    return out


def tell(out: list[dict[str, Any]]) -> None:
    for case in out:
        told = (f"{f} {case['error'][f]:+.1%} of {case['measured'][f]:.3g}" for f in FIGURES)
        print(*(case[k] for k in BY_TRACE if k in case), ", ".join(told))
    for figure in FIGURES:
        each = np.array([abs(case["error"][figure]) for case in out])
        print(
            f"{figure}: {np.mean(each <= 0.10):.0%} of {len(out)} cases within 10 %, median error {np.median(each):.1%}, worst {each.max():.1%}"
        )


def figures_of(row: dict[str, Any]) -> dict[str, Any]:
    """What says which row it is, and its figures."""
    keys = (*PIECE, "how", "policy", *FIGURES[:-1])
    return {**{k: row[k] for k in keys}, FIGURES[-1]: cost(row)}


def main() -> None:
    told = json.loads((ROOT / "benchmarks" / "results" / "serving_utility.json").read_text())["results"]
    rows = [figures_of(r) for r in told["rows"] if "throughput_hz" in r]
    out = {}
    for by in (BY_TRACE, BY_RATE):
        for how in SIMULATED:
            print("==", how, "by", *by)
            out[f"{how}, by {', '.join(by)}"] = found = compared(rows, how, by)
            tell(found)
    twice = [row for each in measured_twice(rows) for row in each.values()]
    for how in (
        AGAIN,
        *SIMULATED,
    ):  # of a third of the pieces: how far by rate the server is from itself, and the simulation from it there
        print("==", how, "by", *BY_RATE, "of pieces measured twice")
        out[f"{how}, by {', '.join(BY_RATE)}, of pieces measured twice"] = found = compared(twice, how, BY_RATE)
        tell(found)
    boxes = dict.fromkeys(row["box"] for row in rows if row["how"] == AGAIN)
    write_json(
        "serving_simulated",
        {"cases": out, "pieces": {box: itself([r for r in rows if r["box"] == box]) for box in boxes}},
    )


if __name__ == "__main__":
    main()
