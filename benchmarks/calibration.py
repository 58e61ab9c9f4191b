"""Estimates beside published measurements on boards.

Energy: a board file's active power times the published time of an inference, beside the published energy of the same
submission (STMicroelectronics, MLPerf Tiny v1.0). The power was taken from image classification, so that row is no test.
Cycles: ours on an STM32L4R5, with zero wait states and with its flash modelled, beside published ones of other run times: not a
test of the model, which would need the same code on the board. The same model gave 0.85 to 0.97 of the hardware's cycles for
CMSIS-NN, so a board would show some 3 to 18 % more than the estimate.
"""

from __future__ import annotations

import csv

import numpy as np
from setting import MLPERF, build, data_dir, model_inputs, model_path, write_json

from jouleflow.device.load import load_system
from jouleflow.firmware.machine import STM32L4_FLASH, STOP_DONE, FlashModel, Machine

BENCHMARK = {"ad01": "ad", "kws": "kws", "resnet8": "ic", "vww": "vww"}
SYSTEMS = {"stm32l4r5": "NUCLEO_L4R5ZI", "stm32u575": "NUCLEO-U575ZI-Q"}
OTHERS = {
    ("plumerai", "NUCLEO_L4R5ZI"): "Plumerai",
    ("STMicroelectronics", "NUCLEO_L4R5ZI"): "X-CUBE-AI",
    ("OctoML", "microtvm_cmsis_nn/NUCLEO_L4R5ZI"): "microTVM + CMSIS-NN",
}


def cycles(built: object, inputs: object, flash: FlashModel | None) -> int:
    machine = Machine(built.firmware, inputs, flash=flash)  # type: ignore[attr-defined, arg-type]
    machine.power_on()
    if machine.run() != STOP_DONE:
        raise SystemExit("the firmware did not finish")
    return int(machine.m.cycles)


def main() -> None:
    with (data_dir() / "device_tables" / "mcu_latency_energy_mlperf_tiny.csv").open() as file:
        published = [r for r in csv.DictReader(file) if r["results_round"] == "v1.0" and r["division"] == "closed"]
    energy = []
    for board, system in SYSTEMS.items():
        power_w = load_system(board).device.points[0].active_w
        for r in published:
            if (r["submitter"], r["system"]) != ("STMicroelectronics", system) or not r["energy_uj_per_inf"]:
                continue
            estimated_j = power_w / float(r["energy_run_inf_per_s"])
            error = estimated_j / (float(r["energy_uj_per_inf"]) * 1e-6) - 1
            energy.append({"board": board, "benchmark": r["benchmark"], "error_frac": error})
            print(energy[-1])
    tests = [abs(e["error_frac"]) for e in energy if e["benchmark"] != "ic"]
    print({"median_energy_error_frac": float(np.median(tests)), "worst": max(tests)})
    rows = []
    for name in MLPERF:
        built = build(model_path(name), "stm32l4r5", "rf_mementos_01")
        inputs = model_inputs(name, built.model, 1)
        row: dict[str, object] = {
            "model": name,
            "cycles_estimated_zero_wait_states": cycles(built, inputs, None),
            "cycles_estimated_5_wait_states": cycles(built, inputs, STM32L4_FLASH),
        }
        for r in published:
            other = OTHERS.get((r["submitter"], r["system"]))
            if other and r["benchmark"] == BENCHMARK[name]:
                row[f"cycles_measured_{other}"] = round(120e6 / float(r["perf_inf_per_s"]))
        rows.append(row)
        print(row)
    summary = {"median_energy_error_frac": float(np.median(tests)), "worst_energy_error_frac": max(tests)}
    write_json("calibration", {"summary": summary, "energy": energy, "cycles": rows})


if __name__ == "__main__":
    main()
