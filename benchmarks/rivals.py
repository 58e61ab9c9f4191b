"""Ways to preserve progress against each other: same kernels, board and trace, only the preservation differs.

python benchmarks/rivals.py [--charges 60] [--emulate]

Simulated (marked so) for 4 models x 8 recorded traces of 4 kinds x 4 capacitors x 2 boards, for as many inferences as so
many charges pay for, so that what is left in the store at the end counts little; --emulate runs the real firmware
instead, at 470 uF only, for 5 inferences. Latency is from one answer to the next, charging included.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from setting import MLPERF, data_dir, model_inputs, model_path, write_json

from jouleflow.device.load import load_system
from jouleflow.errors import Infeasible
from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.emulate import execute
from jouleflow.flow import Sketches
from jouleflow.graph.load import load_model
from jouleflow.plan.lowering import lower
from jouleflow.plan.planner import PLANNERS, RUNNABLE
from jouleflow.sim.simulate import simulate
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario

TRACES = (
    "rf_mementos_01",
    "rf_mementos_06",
    "rf_powercast_mobile",
    "indoor_light_loc1",
    "indoor_light_loc4",
    "solar_nrel_20181014",
    "solar_surfrad_alamosa_2016001",
    "kinetic_teng_jumping",
)
CAPACITORS_F = (100e-6, 470e-6, 1e-3, 5e-3)
OURS = ("adaptive", "tile")
DURATION_S = 30 * 86400.0


def cells(charges: float, emulate: bool) -> Iterator[dict[str, Any]]:
    for name in MLPERF:
        lowered = lower(load_model(model_path(name)))
        for board in ("riotee", "apollo4"):
            for capacitance_f in (470e-6,) if emulate else CAPACITORS_F:
                device = load_system(board).device.with_capacitance(capacitance_f)
                sketches = Sketches(lowered, device)
                n = 5 if emulate else max(20, round(charges * device.store.usable_j / sketches.at(0).profile.energy_j))
                inputs = model_inputs(name, lowered.model, 5)
                for trace in TRACES:
                    scenario = Scenario(load_trace(str(data_dir() / "harvest" / f"{trace}.csv.gz")), DURATION_S, 0.0, 0)
                    row: dict[str, Any] = {
                        "model": name,
                        "board": board,
                        "capacitance_f": capacitance_f,
                        "trace": trace,
                    }
                    for planner in RUNNABLE if emulate else PLANNERS:
                        row[planner] = one(sketches, scenario, planner, inputs if emulate else n)
                    yield row


def one(sketches: Sketches, scenario: Scenario, planner: str, inputs: Any) -> dict[str, Any]:
    """Latency, energy and failures of one cell under one planner, or why there is none."""
    try:
        start = time.perf_counter()
        lowered, device = sketches.lowered, sketches.device
        profile, plan = sketches.plan(scenario.harvest, planner)
        planning_s = time.perf_counter() - start
        if isinstance(inputs, int):
            n, run = inputs, simulate(lowered, plan, profile, device, scenario, inputs)
        else:
            n, run = len(inputs), execute(build_firmware(lowered, plan, device), inputs, scenario, profile).run
    except Infeasible as error:
        return {"infeasible": str(error)[:160]}
    if not run.complete:
        return {"infeasible": f"{run.n_inferences} of {n} answers in {DURATION_S / 86400:.0f} days"}
    return {
        "latency_s": float(np.mean(run.latency_s)),
        "energy_j": run.energy_j.spent_j / run.n_inferences,
        "power_failures": run.n_power_failures,
        "rests": run.n_rests,
        "commits": run.n_commits,
        "outputs_match_reference": run.outputs_match_reference,
        "provenance": run.provenance,
        "planning_s": planning_s,
    }


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Who is first where, and by how much."""
    ratios: dict[str, list[tuple[float, float]]] = {p: [] for p in PLANNERS if p not in OURS}
    first, second = 0, []
    for row in rows:
        done = {p: row[p] for p in PLANNERS if "latency_s" in row.get(p, {})}
        ours = min((p for p in OURS if p in done), key=lambda p: done[p]["latency_s"], default=None)
        if ours is None:
            second.append({**{k: row[k] for k in ("model", "board", "capacitance_f", "trace")}, "reason": row["tile"]})
            continue
        rivals = {p: v for p, v in done.items() if p not in OURS}
        best = min(rivals, key=lambda p: rivals[p]["latency_s"], default=None)
        if best is None or done[ours]["latency_s"] <= rivals[best]["latency_s"] * 1.001:
            first += 1
        else:
            lost_by = done[ours]["latency_s"] / rivals[best]["latency_s"] - 1
            second.append(
                {**{k: row[k] for k in ("model", "board", "capacitance_f", "trace")}, "to": best, "by": lost_by}
            )
        for p, v in rivals.items():
            ratios[p].append((v["latency_s"] / done[ours]["latency_s"], v["energy_j"] / done[ours]["energy_j"]))
    return {
        "cells": len(rows),
        "ours_first": first,
        "not_first": second,
        "rivals": {
            p: {
                "finishes": len(r),
                "median_slower": float(np.median([x for x, _ in r])) if r else None,
                "median_more_energy": float(np.median([x for _, x in r])) if r else None,
                "most_slower": max((x for x, _ in r), default=None),
                "most_energy": max((x for _, x in r), default=None),
            }
            for p, r in ratios.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--charges", type=float, default=60)
    parser.add_argument("--emulate", action="store_true")
    a = parser.parse_args()
    rows = []
    for row in cells(a.charges, a.emulate):
        rows.append(row)
        best = min(
            (p for p in PLANNERS if "latency_s" in row.get(p, {})), key=lambda p: row[p]["latency_s"], default="none"
        )
        where = f"{row['model']} {row['board']} {row['capacitance_f'] * 1e6:.0f} uF {row['trace']}"
        print(f"\r{len(rows)} {where}: {best:<10}", end="", file=sys.stderr, flush=True)
    summary = compare(rows)
    print({k: v for k, v in summary.items() if k != "not_first"})
    for cell in summary["not_first"]:
        print(cell)
    write_json("rivals_emulated" if a.emulate else "rivals", {"summary": summary, "cells": rows})


if __name__ == "__main__":
    main()
