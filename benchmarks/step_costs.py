"""The planner's first guess of a step's cycles beside emulated ones, per kind of step: the errors that `plan/cost.py` speaks of.

Each model is cut for four capacitors, so that the same step is seen in different tiles.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from setting import MLPERF, model_path, write_json

from jouleflow.device.load import load_system
from jouleflow.flow import sketch
from jouleflow.graph.load import load_model
from jouleflow.plan.cost import step_cycles
from jouleflow.plan.lowering import lower


def main() -> None:
    errors: dict[str, list[float]] = defaultdict(list)
    for name in MLPERF:
        lowered = lower(load_model(model_path(name)))
        for capacitance_f in (100e-6, 470e-6, 1e-3, 5e-3):
            drawn = sketch(lowered, load_system("riotee").device.with_capacitance(capacitance_f))
            for op, step, profiled in zip(lowered.ops, drawn.draft.tiling.steps, drawn.profile.steps, strict=True):
                kind = f"{op.kind}, {step.variant}"
                errors[kind].append(step_cycles(op, step, {}) / float(profiled.cycles.sum()) - 1)
    rows = {
        kind: {
            "steps": len(e),
            "median_error_frac": float(np.median(np.abs(e))),
            "worst_error_frac": float(np.abs(e).max()),
        }
        for kind, e in sorted(errors.items())
    }
    for kind, row in rows.items():
        print(
            f"{kind:<28} {row['steps']:>4} steps, median {row['median_error_frac']:.1%}, worst {row['worst_error_frac']:.1%}"
        )
    write_json("step_costs", rows)


if __name__ == "__main__":
    main()
