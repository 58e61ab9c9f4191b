"""How late an answer can be: the certificate against responses on random phases of recorded traces.

python benchmarks/certificate.py [--phases 1000] [--emulated 3]

4 models on `riotee`, 470 uF, 8 traces of 4 kinds; simulated on every phase, the real firmware emulated on a few of them,
the worst included. Tightness: the certificate over the latest response seen.
"""

from __future__ import annotations

import argparse

import numpy as np
from rivals import TRACES
from setting import MLPERF, data_dir, model_inputs, model_path, write_json

from jouleflow.device.load import load_system
from jouleflow.errors import Infeasible
from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.emulate import execute
from jouleflow.firmware.profiling import profile_by_emulation
from jouleflow.graph.load import load_model
from jouleflow.plan.lowering import lower
from jouleflow.plan.planner import draft_plan, finish_plan
from jouleflow.sim.response import worst_response
from jouleflow.sim.simulate import simulate
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--phases", type=int, default=1000)
    parser.add_argument("--emulated", type=int, default=3)
    a = parser.parse_args()
    rows = []
    for name in MLPERF:
        lowered, device = lower(load_model(model_path(name))), load_system("riotee").device
        draft = draft_plan(lowered, device)
        profile = profile_by_emulation(lowered, draft.plan, device)
        for trace in TRACES:
            harvest = load_trace(str(data_dir() / "harvest" / f"{trace}.csv.gz"))
            plan = finish_plan(lowered, draft, profile, device, harvest)
            try:
                bound = worst_response(lowered, plan, profile, device, harvest)
            except Infeasible as error:
                rows.append({"model": name, "trace": trace, "no_certificate": str(error)})
                print(rows[-1])
                continue
            random = np.random.default_rng(0).uniform(0, harvest.duration_s, a.phases)
            worlds = [Scenario(harvest, 1e9, float(phase_s)) for phase_s in (bound.phase_s, *random)]
            simulated = [simulate(lowered, plan, profile, device, world, 1).latency_s[0] for world in worlds]
            firmware, inputs = build_firmware(lowered, plan, device), model_inputs(name, lowered.model, 1)
            latest = [worlds[i] for i in np.argsort(simulated)[::-1][: a.emulated]]
            emulated = [execute(firmware, inputs, world, profile).run.latency_s[0] for world in latest]
            row = {
                "model": name,
                "trace": trace,
                "certificate_s": bound.worst_s,
                "latest_simulated_s": max(simulated),
                "latest_emulated_s": max(emulated),
                "phases": len(simulated),
                "violations": sum(s > bound.worst_s for s in (*simulated, *emulated)),
                "tightness": bound.worst_s / max(*simulated, *emulated),
                "charges_at_most": bound.demand.power_cycles,
            }
            rows.append(row)
            print(row, flush=True)
    tight = [r["tightness"] for r in rows if "tightness" in r]
    summary = {
        "certificates": len(tight),
        "phases": sum(r.get("phases", 0) for r in rows),
        "violations": sum(r.get("violations", 0) for r in rows),
        "median_tightness": float(np.median(tight)),
        "worst_tightness": max(tight),
    }
    print(summary)
    write_json("certificate", {"summary": summary, "cells": rows})


if __name__ == "__main__":
    main()
