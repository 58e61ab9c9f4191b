"""The least SRAM at which each MLPerf Tiny model runs, and runs at 64, 32 and 16 kB, all proven on the emulator."""

from __future__ import annotations

from setting import MLPERF, build, data_dir, model_inputs, model_path, write_json

from jouleflow.errors import Infeasible
from jouleflow.firmware.emulate import execute
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario


def least_bytes(path: object, board: str) -> int:
    """The budget that the planner names when 1 kB is asked for."""
    try:
        build(path, board, "rf_mementos_01", 1024)  # type: ignore[arg-type]
    except Infeasible as error:
        return int((error.nearest or "").removeprefix("--sram ").removesuffix("B"))
    return 1024


def main() -> None:
    rows = []
    trace = load_trace(str(data_dir() / "harvest" / "rf_powercast_mobile.csv.gz"))
    for name in MLPERF:
        least = least_bytes(model_path(name), "riotee")
        for budget in (131072, 65536, 32768, 16384, 8192, 4096, least):
            if budget < least:
                continue
            built = build(model_path(name), "riotee", "rf_powercast_mobile", budget)
            inputs = model_inputs(name, built.model, 2)
            run = execute(built.firmware, inputs, Scenario(trace, 30 * 86400.0, 0.0, 1), built.profile).run
            bare = execute(built.firmware, inputs, None, built.profile).run
            row = {
                "model": name,
                "budget_bytes": budget,
                "least": budget == least,
                "peak_sram_bytes": run.peak_sram_bytes,
                "right": run.outputs_match_reference,
                "complete": run.complete,
                "failures": run.n_power_failures,
                "latency_s": run.latency_s,
                "energy_j_per_inference": run.energy_j.spent_j / max(run.n_inferences, 1),
                "instructions_uninterrupted": bare.instructions // 2,
                "nvm_bytes": run.nvm_bytes,
            }
            rows.append(row)
            print(row)
    write_json("sram_budgets", rows)


if __name__ == "__main__":
    main()
