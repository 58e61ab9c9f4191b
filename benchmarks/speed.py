"""How fast the tools are: emulation with the power supply on, in million instructions a second; simulation, in seconds of world a
second; planning, in seconds a model. And how well predictions hold: simulated against emulated.

Wall times: on a busy machine they are too low; take the best of a few runs.
"""

from __future__ import annotations

import time

import numpy as np
from setting import MLPERF, build, data_dir, model_inputs, model_path, write_json

from jouleflow.firmware.emulate import execute
from jouleflow.flow import sketch
from jouleflow.sim.simulate import simulate
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario

ROUNDS = 3


def main() -> None:
    harvest = load_trace(str(data_dir() / "harvest" / "rf_mementos_01.csv.gz"))
    world = Scenario(harvest, 1e9)
    rows = []
    for name in MLPERF:
        built = build(model_path(name), "riotee", "rf_mementos_01")
        inputs = model_inputs(name, built.model, 5)
        plan, profile, device = built.firmware.plan, built.profile, built.device
        rates, factors, planning = [], [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            run = execute(built.firmware, inputs, world, profile, check_reference=False).run
            rates.append(run.instructions / (time.perf_counter() - start) / 1e6)
            start = time.perf_counter()
            model = simulate(built.lowered, plan, profile, device, world, 50)
            factors.append(sum(model.latency_s) / (time.perf_counter() - start))
        drawn = sketch(built.lowered, device)
        for planner in ("tile", "adaptive"):
            start = time.perf_counter()
            drawn.plan(harvest, planner)
            planning.append(time.perf_counter() - start)
        same = simulate(built.lowered, plan, profile, device, world, 5)
        row = {
            "model": name,
            "emulated_million_instructions_per_s": max(rates),
            "power_failures": run.n_power_failures,
            "simulated_world_s_per_s": max(factors),
            "planning_s": max(planning),
            "latency_error_frac": float(np.mean(same.latency_s) / np.mean(run.latency_s) - 1),
            "energy_error_frac": same.energy_j.spent_j / run.energy_j.spent_j - 1,
        }
        rows.append(row)
        print(row, flush=True)
    write_json("speed", rows)


if __name__ == "__main__":
    main()
