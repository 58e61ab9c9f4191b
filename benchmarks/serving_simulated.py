"""The simulated server beside the real one: throughput, p50, p99 and share in time, from the runs of serving_utility.py.

python benchmarks/serving_simulated.py

Each pair is the same arrivals on the same box under the same policy. p50 and p99 are of all requests, each latency relative to its
model's SLO. Errors are simulated over measured less one; the aim is 10 %. Seeds of a case are put together before they are
compared, as a percentile of some hundred requests is mostly chance. Twice: with the machine's pace as it was measured around each piece, and with
one that is drawn from the profiles, which knows nothing of the minute. Beside it, piece by piece: how far a second run on the real
server is from the first, and the simulation from that first; nothing can be nearer to the server than it is to itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
from serving_utility import AGAIN, PACED
from setting import ROOT, write_json

SIMULATED = (PACED, "simulated")
FIGURES = ("throughput_hz", "p50_of_slo", "p99_of_slo", "in_time_frac")


def itself(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """How far the second run of a piece, and the simulation of it, are from its first run: of each figure the median distance and the
    share within 10 %."""
    by_piece: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if "throughput_hz" in row:
            by_piece[row["box"], row["rate_hz"], row["trace"], row["seed"], row["policy"]][row["how"]] = row
    twice = [piece for piece in by_piece.values() if AGAIN in piece]
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for how in (AGAIN, *SIMULATED):
        for f in FIGURES:
            each = np.abs([piece[how][f] / piece["measured"][f] - 1 for piece in twice])
            found[how][f] = {"median": float(np.median(each)), "within_10_percent": float(np.mean(each <= 0.10))}
            print(
                f"{f} of single pieces, {how}: {np.mean(each <= 0.10):.0%} of {len(twice)} within 10 % of the first run, median distance {np.median(each):.1%}"
            )
    return dict(found)


def compared(rows: list[dict[str, Any]], how: str) -> list[dict[str, Any]]:
    """Each case as it was measured, and as it was simulated in that way."""
    cases: dict[tuple[Any, ...], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["how"] in (how, "measured") and "throughput_hz" in row:
            cases[row["box"], row["rate_hz"], row["trace"], row["policy"]][row["how"]].append(row)
    out = []
    for (box, rate_hz, trace, policy), found in sorted(cases.items()):
        if not found["measured"] or not found[how]:
            continue
        simulated, measured = (
            {f: float(np.mean([r[f] for r in found[h]])) for f in FIGURES} for h in (how, "measured")
        )
        errors = {f: simulated[f] / measured[f] - 1 for f in FIGURES}
        case = {"box": box, "rate_hz": rate_hz, "trace": trace, "policy": policy}
        out.append({**case, "simulated": simulated, "measured": measured, "error": errors})
    return out


def tell(out: list[dict[str, Any]]) -> None:
    for box, rate_hz in sorted({(o["box"], o["rate_hz"]) for o in out}):
        print(box, f"{rate_hz:g}/s of each model: error, median (least to most) over traces")
        for policy in sorted({o["policy"] for o in out}):
            of = [o["error"] for o in out if (o["box"], o["rate_hz"], o["policy"]) == (box, rate_hz, policy)]
            if of:
                cells = (
                    f"{f} {np.median([e[f] for e in of]):+.1%} ({min(e[f] for e in of):+.1%} to {max(e[f] for e in of):+.1%})"
                    for f in FIGURES
                )
                print(f"  {policy:<8}", "  ".join(cells))
    for figure in FIGURES:
        each = np.abs([o["error"][figure] for o in out])
        print(
            f"{figure}: {np.mean(each <= 0.10):.0%} of {len(out)} cases within 10 %, median error {np.median(each):.1%}"
        )


def main() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "serving_utility.json").read_text())["results"]["rows"]
    out = {}
    for how in SIMULATED:
        print("==", how)
        out[how] = compared(rows, how)
        tell(out[how])
    write_json("serving_simulated", {"cases": out, "pieces": itself(rows)})


if __name__ == "__main__":
    main()
