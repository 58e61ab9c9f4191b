"""Each MLPerf Tiny model on real harvest traces: completes, correct, failures, where time and energy went, predicted beside.

python benchmarks/harvest_traces.py [--capacitor 470e-6] [--inferences 5]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from setting import MLPERF, build, data_dir, model_inputs, model_path, write_json

from jouleflow.errors import Infeasible
from jouleflow.firmware.emulate import execute
from jouleflow.report.summary import summary
from jouleflow.sim.simulate import predict
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario

TRACES = (
    "rf_mementos_01", "rf_mementos_06", "rf_powercast_mobile", "indoor_light_loc1", "indoor_light_loc6", "solar_nrel_20181014",
    "kinetic_teng_jumping", "kinetic_teng_running2",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--capacitor", type=float, default=470e-6)
    parser.add_argument("--inferences", type=int, default=5)
    parser.add_argument("--boards", nargs="*", default=["riotee", "apollo4"])
    a = parser.parse_args()
    rows = []
    errors: dict[str, list[float]] = {"latency": [], "energy": []}
    for name in MLPERF:
        for board in a.boards:
            for trace in TRACES:
                start = time.time()
                row: dict[str, object] = {"model": name, "board": board, "trace": trace}
                try:
                    built = build(model_path(name), board, trace, None, a.capacitor)
                    scenario = Scenario(
                        load_trace(str(data_dir() / "harvest" / f"{trace}.csv.gz")), 30 * 86400.0, 0.0, 1
                    )
                    inputs = model_inputs(name, built.model, a.inferences)
                    estimate = predict(
                        built.lowered, built.firmware.plan, built.profile, built.device, scenario, a.inferences
                    )
                    run = execute(built.firmware, inputs, scenario, built.profile, estimate).run
                    row |= summary(run)
                    mean = float(np.mean(run.latency_s)) if run.latency_s else float("nan")
                    energy = run.energy_j.spent_j / max(run.n_inferences, 1)
                    row["latency_error"] = estimate.latency_s / mean - 1
                    row["energy_error"] = estimate.energy_j / energy - 1
                    errors["latency"].append(abs(estimate.latency_s / mean - 1))
                    errors["energy"].append(abs(estimate.energy_j / energy - 1))
                    print(
                        f"{name:8} {board:8} {trace:22} n={run.n_inferences} right={run.outputs_match_reference} "
                        f"failures={run.n_power_failures} p50={np.median(run.latency_s):.3g}s mean={mean:.3g}s "
                        f"E={energy * 1e3:.3g}mJ predicted {estimate.latency_s:.3g}s {estimate.energy_j * 1e3:.3g}mJ "
                        f"({time.time() - start:.1f}s)"
                    )
                except Infeasible as error:
                    row["infeasible"] = str(error)
                    print(f"{name:8} {board:8} {trace:22} infeasible: {error}")
                rows.append(row)
    medians = {f"{k}_error_median": float(np.median(v)) for k, v in errors.items()}
    worst = {f"{k}_error_max": float(np.max(v)) for k, v in errors.items()}
    print(medians, worst)
    write_json("harvest_traces", {"runs": rows, **medians, **worst})


if __name__ == "__main__":
    main()
