"""Crash safety of the MLPerf Tiny firmwares: cuts at every NVM byte, nested cuts, random kills, write-after-read checks.

python benchmarks/crash_safety.py [model ...] [--cuts 20000] [--kills 1000] [--nested 1000]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict

from setting import MLPERF, build, model_inputs, model_path, write_json

from jouleflow.firmware.crash import CrashBench, cut_everywhere, cut_nested, kill_randomly


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--cuts", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--nested", type=int, default=1000)
    parser.add_argument("--board", default="riotee")
    a = parser.parse_args()
    for name in a.models or MLPERF:
        start = time.time()
        built = build(model_path(name), a.board, "rf_mementos_01")
        bench = CrashBench(built.firmware, model_inputs(name, built.model, 1)[0])
        n_commits = len(built.firmware.plan.commits)

        def show(done: int, of: int, name: str = name) -> None:
            print(f"\r{name}: {done}/{of} cuts", end="", file=sys.stderr, flush=True)

        cuts = cut_everywhere(bench, a.cuts, show)
        nested = cut_nested(bench, a.nested)
        kills = kill_randomly(bench, a.kills, 1.5 * bench.golden.instructions / max(n_commits, 1))
        row = {
            "model": name,
            "board": a.board,
            "commits": n_commits,
            "nvm_bytes_written": len(bench.golden),
            "cuts": asdict(cuts),
            "nested_3": asdict(nested),
            "random_kills": asdict(kills),
            "write_after_read_hazards": bench.hazards,
            "seconds": round(time.time() - start, 1),
        }
        print(row)
        write_json(f"crash_safety_{name}", row)


if __name__ == "__main__":
    main()
