"""The numbers of a run that people and machines ask for first."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from jouleflow.record.run import Run

YEAR_S = 365.25 * 86400


def percentile_s(run: Run, q: float) -> float | None:
    """A percentile of the latencies, None when no inference finished."""
    return float(np.percentile(run.latency_s, q)) if run.latency_s else None


def deadline_misses(run: Run) -> int | None:
    """Inferences later than the deadline, None without one."""
    return None if run.deadline_s is None else sum(t > run.deadline_s for t in run.latency_s)


def energy_per_inference_j(run: Run) -> float:
    """Drawn from the store per finished inference, with everything that failures cost."""
    return run.energy_j.spent_j / max(run.n_inferences, 1)


def nvm_lifetime_years(run: Run) -> float | None:
    """Years until the most written byte reaches its endurance at this rate, None when unknown."""
    if run.nvm_endurance_writes is None or not run.latency_s or run.nvm_max_writes_per_byte <= 0:
        return None
    return run.nvm_endurance_writes / run.nvm_max_writes_per_byte * float(np.mean(run.latency_s)) / YEAR_S


def years_in_words(years: float) -> str:
    """Rounded for reading: a wear-out time is an order of magnitude."""
    if years >= 1e6:
        return "> 1 million years"
    return f"{float(f'{years:.2g}'):,.0f} years" if years >= 10 else f"{years:.2g} years"


def summary(run: Run) -> dict[str, Any]:
    """The run for `--json`: plain values, units in the keys."""
    return {
        "planner": run.planner,
        "model": run.model,
        "model_sha256": run.model_sha256,
        "device": run.device,
        "harvest": run.harvest,
        "harvest_synthetic": run.harvest_synthetic,
        "capacitance_f": run.capacitance_f,
        "provenance": run.provenance,
        "complete": run.complete,
        "n_inferences": run.n_inferences,
        "outputs_match_reference": run.outputs_match_reference,
        "n_power_failures": run.n_power_failures,
        "n_commits": run.n_commits,
        "latency_s": {
            "p50": percentile_s(run, 50),
            "p99": percentile_s(run, 99),
            "max": max(run.latency_s) if run.latency_s else None,
        },
        "deadline_s": run.deadline_s,
        "deadline_misses": deadline_misses(run),
        "energy_j": {f.name.removesuffix("_j"): getattr(run.energy_j, f.name) for f in fields(run.energy_j)},
        "energy_per_inference_j": energy_per_inference_j(run),
        "energy_imbalance_frac": run.energy_j.imbalance_frac,
        "time_s": {f.name.removesuffix("_s"): getattr(run.time_s, f.name) for f in fields(run.time_s)},
        "predicted": {
            "latency_s": run.predicted.latency_s,
            "energy_j": run.predicted.energy_j,
            "n_power_failures": run.predicted.n_power_failures,
            "provenance": run.predicted.provenance,
        },
        "peak_sram_bytes": run.peak_sram_bytes,
        "sram_budget_bytes": run.sram_budget_bytes,
        "nvm_bytes": run.nvm_bytes,
        "nvm_lifetime_years": nvm_lifetime_years(run),
        "flash_bytes": run.flash_bytes,
        "instructions": run.instructions,
        "cycles": run.cycles,
        "cycles_are": "estimated, zero wait states",
        "seed": run.seed,
        "revision": run.revision,
    }
