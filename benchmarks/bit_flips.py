"""Memory that changes by itself: bits flipped in NVM after a cut anywhere, and in the weights. How often it goes unnoticed.

python benchmarks/bit_flips.py [--runs 300]
"""

from __future__ import annotations

import argparse

from setting import build, model_inputs, model_path, write_json

from jouleflow.firmware.crash import CrashBench, flip_nvm_bits, flip_weight_bits

# All in SRAM; and staged through 16 kB, where units have their own checks.
CASES = (("ad01", None), ("kws", None), ("kws", 16 * 1024), ("resnet8", 16 * 1024))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=300)
    runs = parser.parse_args().runs
    rows = []
    for name, sram in CASES:
        built = build(model_path(name), "riotee", "rf_mementos_01", sram)
        one_input = model_inputs(name, built.model, 1)[0]
        bench = CrashBench(built.firmware, one_input)
        for n_bits in (1, 2, 8, 64):
            r = flip_nvm_bits(bench, runs, n_bits)
            row = {
                "model": name,
                "sram_bytes": sram or built.device.memory("sram").size_bytes,
                "memory": "nvm",
                "bits": n_bits,
                "runs": runs,
                "wrong_answers": r.n_wrong,
                "found_and_computed_again": r.n_regressed,
                "told": r.n_faults,
                "stuck": r.n_stuck,
                "without_effect": runs - r.n_wrong - r.n_regressed - r.n_faults - r.n_stuck,
            }
            rows.append(row)
            print(row, flush=True)
        answered = flip_weight_bits(built.firmware, one_input, 20, 1)
        row = {
            "model": name,
            "memory": "weights",
            "bits": 1,
            "runs": len(answered),
            "never_told": answered.count(-1),
            "slices": built.firmware.n_weight_slices,
            "most_answers_before_told": max(answered),
        }
        rows.append(row)
        print(row, flush=True)
    write_json("bit_flips", rows)


if __name__ == "__main__":
    main()
