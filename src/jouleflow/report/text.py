"""A run in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jouleflow.record.run import LayerRow, Run
from jouleflow.report.summary import (
    deadline_misses,
    energy_per_inference_j,
    nvm_lifetime_years,
    percentile_s,
    years_in_words,
)
from jouleflow.units import format_quantity as q

ENERGY_WORDS = {
    "compute_j": "computing",
    "commit_j": "commits",
    "recovery_j": "recovery",
    "reexecution_j": "lost work",
    "boot_j": "booting",
    "idle_j": "idle",
    "leaked_j": "leakage",
    "converter_j": "input converter",
    "clipped_j": "clipped (store full)",
    "stored_j": "still stored",
}
TIME_WORDS = {
    "compute_s": "computing",
    "commit_s": "commits",
    "recovery_s": "recovery",
    "reexecution_s": "lost work",
    "boot_s": "booting",
    "charging_s": "charging",
    "idle_s": "idle",
}


def layers_table(rows: Sequence[LayerRow], width: int = 200) -> Table:
    """The per-layer table: what each step costs uninterrupted and how it is cut. Narrow terminals get fewer columns."""
    cells = {
        "layer": [escape(r.name) for r in rows],
        "op": [r.op for r in rows],
        "output": ["x".join(map(str, r.out_shape)) for r in rows],
        "params": [f"{r.params:,}" for r in rows],
        "MACC": [f"{r.macs:,}" for r in rows],
        "instructions": [f"{r.instructions:,}" for r in rows],
        "cycles": [f"{r.cycles:,}" for r in rows],
        "energy": [q(r.energy_j, "J") for r in rows],
        "NVM r/w": [f"{r.nvm_read_bytes:,}/{r.nvm_write_bytes:,}" for r in rows],
        "tiles": [str(r.n_tiles) for r in rows],
        "commits": [str(r.n_commits) for r in rows],
        "charges": [f"{r.charges:.2f}" for r in rows],
    }
    if width < 140:
        for name in ("output", "params", "instructions", "NVM r/w", "tiles"):
            del cells[name]
    table = Table(title="Per layer, one uninterrupted inference", title_justify="left")
    for name in cells:
        left = name in ("layer", "op")
        table.add_column(
            name, justify="left" if left else "right", max_width=22 if left else None, overflow="ellipsis", no_wrap=True
        )
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    return table


def _shares(run: Run) -> Table:
    table = Table(title="Where energy and time went", title_justify="left")
    for name in ("energy", "", "share", "time", "", "share"):
        table.add_column(name, justify="right" if name in ("", "share") else "left")
    harvested, total = max(run.energy_j.harvested_j, 1e-30), max(run.time_s.total_s, 1e-30)
    energy = [
        (ENERGY_WORDS[f.name], getattr(run.energy_j, f.name)) for f in fields(run.energy_j) if f.name in ENERGY_WORDS
    ]
    time = [(TIME_WORDS[f.name], getattr(run.time_s, f.name)) for f in fields(run.time_s)]
    for k in range(max(len(energy), len(time))):
        cells = (
            [energy[k][0], q(energy[k][1], "J"), f"{energy[k][1] / harvested:.1%}"] if k < len(energy) else ["", "", ""]
        )
        cells += [time[k][0], q(time[k][1], "s"), f"{time[k][1] / total:.1%}"] if k < len(time) else ["", "", ""]
        table.add_row(*cells)
    return table


def print_run(run: Run, console: Console) -> None:
    """The answers, the headline, where energy and time went, prediction beside result, and the layers."""
    for k, answer in enumerate(run.answers[:10]):
        console.print(f"  inference {k + 1:>3}: {escape(answer)}  after {q(run.latency_s[k], 's')}", highlight=False)
    if len(run.answers) > 10:
        console.print(f"  ... {run.n_inferences - 10} more")
    verdict = {
        True: "[green]all equal the reference[/]",
        False: "[red]DIFFER FROM THE REFERENCE[/]",
        None: "not checked",
    }
    console.print(
        f"\n[bold]{escape(run.model)}[/] on {run.device} ({q(run.capacitance_f, 'F')}), {escape(run.harvest)}"
        f"{' [yellow](synthetic)[/]' if run.harvest_synthetic else ''}, planner {run.planner}, {run.provenance}"
    )
    p50, p99 = percentile_s(run, 50), percentile_s(run, 99)
    console.print(
        f"{run.n_inferences} inferences, outputs {verdict[run.outputs_match_reference]}, "
        f"[bold]{run.n_power_failures} power failures[/] survived, {run.n_commits} commits"
    )
    if p50 is not None and p99 is not None:
        console.print(
            f"latency p50 {q(p50, 's')}, p99 {q(p99, 's')}, max {q(max(run.latency_s), 's')}; "
            f"energy {q(energy_per_inference_j(run), 'J')} an inference; "
            f"peak SRAM {q(run.peak_sram_bytes, 'B')} of {q(run.sram_budget_bytes, 'B')}, flash {q(run.flash_bytes, 'B')}, NVM {q(run.nvm_bytes, 'B')}"
        )
    if (misses := deadline_misses(run)) is not None and run.deadline_s is not None:
        console.print(f"deadline {q(run.deadline_s, 's')}: {misses} missed")
    if (years := nvm_lifetime_years(run)) is not None:
        console.print(f"non-volatile memory lasts {years_in_words(years)} at this rate")
    if run.latency_s:
        mean = sum(run.latency_s) / len(run.latency_s)
        table = Table(title="Predicted beside result, per inference", title_justify="left")
        for name in ("", "predicted (modelled)", run.provenance, "error"):
            table.add_column(name, justify="right" if name else "left")
        for name, predicted, got, unit in (
            ("latency", run.predicted.latency_s, mean, "s"),
            ("energy", run.predicted.energy_j, energy_per_inference_j(run), "J"),
        ):
            table.add_row(name, q(predicted, unit), q(got, unit), f"{predicted / got - 1:+.1%}" if got else "")
        console.print(table)
    console.print(_shares(run))
    if run.layers:
        console.print(layers_table(run.layers, console.width))
