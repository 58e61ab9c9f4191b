"""The crash tests must catch every planted mistake; the unchanged firmware must pass the same tests.

python benchmarks/mutations.py [--cuts 400]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from setting import build, model_inputs, model_path, write_json

from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.crash import CrashBench, boot_on_foreign_memory, cut_everywhere
from jouleflow.firmware.mutations import MUTATIONS, Mutation, mutated_c


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", type=int, default=400)
    a = parser.parse_args()
    built = build(model_path("kws"), "riotee", "rf_mementos_01", None, 100e-6)
    x = model_inputs("kws", built.model, 1)[0]
    another = build(model_path("kws"), "riotee", "rf_mementos_01", None, 120e-6)
    others = CrashBench(another.firmware, x)
    rows = []
    nothing = Mutation("none", "engine/engine.c", "static struct job job;", "static struct job job;")
    for mutation in (nothing, *MUTATIONS):
        with tempfile.TemporaryDirectory() as folder:
            c = mutated_c(mutation, Path(folder))
            bench = CrashBench(build_firmware(built.lowered, built.firmware.plan, built.device, c), x)
            cuts, foreign = cut_everywhere(bench, a.cuts), boot_on_foreign_memory(bench, others, 60)
        caught = not (cuts.clean and foreign.clean)
        rows.append(
            {"mutation": mutation.name, "caught": caught, "cuts": asdict(cuts), "foreign_memory": asdict(foreign)}
        )
        print(rows[-1])
    write_json("mutations", rows)
    missed = [r["mutation"] for r in rows if r["caught"] == (r["mutation"] == "none")]
    sys.exit(f"not as it must be: {missed}" if missed else 0)


if __name__ == "__main__":
    main()
