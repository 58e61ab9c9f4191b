"""The cost of safety: instructions on continuous power with commits and without, beside hand-tuned libraries.

The peers' figures are measured with gcc 12.2 on the same models, uninterrupted and without any safety: see `PEERS`.
"""

from __future__ import annotations

from dataclasses import replace

from setting import MLPERF, build, model_inputs, model_path, write_json

from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.machine import STOP_DONE, Machine

# Instructions of one inference, Cortex-M4, bit-exact: CMSIS-NN called directly; TinyEngine where it runs (not bit-exact).
PEERS = {
    "ad01": {"cmsis_nn": 580_096, "tinyengine": 771_905},
    "kws": {"cmsis_nn": 7_696_595},
    "resnet8": {"cmsis_nn": 29_858_797},
    "vww": {"cmsis_nn": 24_093_634, "tinyengine": 19_711_647},
}


def per_inference(firmware: object, inputs: object) -> tuple[int, int]:
    machine = Machine(firmware, inputs)  # type: ignore[arg-type]
    machine.power_on()
    if machine.run() != STOP_DONE:
        raise SystemExit("the firmware did not finish")
    n = len(machine.inputs)
    return int(machine.m.instructions) // n, int(machine.m.cycles) // n


def main() -> None:
    rows = []
    for name in MLPERF:
        built = build(model_path(name), "riotee", "rf_mementos_01")
        plan = built.firmware.plan
        inputs = model_inputs(name, built.model, 4)
        safe, cycles = per_inference(built.firmware, inputs)
        once = replace(plan, commits=plan.commits[-1:])
        bare, _ = per_inference(build_firmware(built.lowered, once, built.device), inputs)
        row = {
            "model": name,
            "commits": len(plan.commits),
            "instructions_with_commits": safe,
            "instructions_without": bare,
            "safety_cost_frac": safe / bare - 1,
            "cycles_estimated": cycles,
            "sram_bytes": built.firmware.sram_bytes,
            "flash_bytes": built.firmware.flash_bytes,
            **{f"instructions_over_{peer}": safe / count for peer, count in PEERS[name].items()},
        }
        rows.append(row)
        print(row)
    write_json("safety_cost", rows)


if __name__ == "__main__":
    main()
