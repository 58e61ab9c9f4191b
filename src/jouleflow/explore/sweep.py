"""Many worlds at once: capacitor x SRAM x board x trace x planner, simulated in parallel, one line of a file a cell.

The file is the state: what it holds is not computed again, so an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jouleflow.device.load import load_system
from jouleflow.errors import Infeasible, InputError
from jouleflow.explore.workers import files_at_hand, read_files, workers
from jouleflow.flow import Sketches
from jouleflow.graph.load import load_model
from jouleflow.plan.lowering import lower
from jouleflow.plan.planner import check_planner
from jouleflow.sim.simulate import simulate
from jouleflow.trace.load import load_trace
from jouleflow.trace.trace import Scenario, Trace

CELLS_FILE = "cells.jsonl"
# A world runs through its trace once, and for at least so many charges: otherwise a large store would answer from its first
# one alone, and a fast board would see the beginning of the trace only.
LEAST_CHARGES = 15
MOST_INFERENCES = 5000


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to try: every combination. None in sram_bytes is all that a board has. n_inferences: at least so many in each
    world, more where they would not use up some charges."""

    model: str
    systems: tuple[str, ...]
    harvests: tuple[str, ...]
    capacitances_f: tuple[float, ...]
    sram_bytes: tuple[int | None, ...] = (None,)
    planners: tuple[str, ...] = ("tile",)
    n_inferences: int = 20
    duration_s: float = 30 * 86400.0

    def __post_init__(self) -> None:
        for name in ("systems", "harvests", "capacitances_f", "sram_bytes", "planners"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name} {list(values)} must name at least one value, and none twice")
        for planner in self.planners:
            check_planner(planner)
        if self.n_inferences < 1:
            raise InputError(f"--count {self.n_inferences} must be at least 1")


@dataclass(frozen=True, slots=True)
class Cell:
    """One world and what came of it. Without latency_s it is infeasible, and why says so.

    latency_s: mean time from one answer to the next. first_s: from an empty store to the first answer.
    """

    key: str
    system: str
    harvest: str
    capacitance_f: float
    sram_bytes: int | None
    planner: str
    latency_s: float | None = None
    p99_s: float | None = None
    first_s: float | None = None
    energy_j: float | None = None
    n_power_failures: int = 0
    n_inferences: int = 0
    why: str = ""


def _key(model_sha256: str, sweep: Sweep, part: tuple[Any, ...]) -> str:
    text = json.dumps([model_sha256, sweep.n_inferences, sweep.duration_s, *part])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_cells(folder: Path) -> list[Cell]:
    """The cells that a folder holds; a last line that was cut off is left out.

    Raises InputError for a file that is not ours.
    """
    path = folder / CELLS_FILE
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    cells = []
    for number, line in enumerate(lines):
        try:
            cells.append(Cell(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if number == len(lines) - 1:
                break
            raise InputError(
                f"{path}, line {number + 1}: not a cell of a sweep ({error}); give another --out"
            ) from error
    return cells


def _line(cell: Cell) -> str:
    return json.dumps(asdict(cell)) + "\n"


def _write_cells(cells: Iterable[Cell], folder: Path) -> None:
    fresh = folder / (CELLS_FILE + ".new")
    fresh.write_text("".join(map(_line, cells)))
    fresh.replace(folder / CELLS_FILE)


def run_sweep(
    sweep: Sweep,
    folder: Path,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    cluster: str | None = None,
) -> list[Cell]:
    """All cells of a sweep, those that the folder already holds included. Ctrl-C keeps what is done.

    progress hears (cells done, cells in all). cluster: the address of a Ray cluster to work on instead of this machine.
    Raises InputError when there is no such cluster.
    """
    lowered = lower(load_model(sweep.model))
    sha = lowered.model.sha256
    wanted = list(_groups(sweep))
    known = {cell.key: cell for cell in load_cells(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    _write_cells(known.values(), folder)  # without a last line that was cut off
    mine: dict[str, None] = {}
    todo = []
    for place, worlds in wanted:
        keys = [_key(sha, sweep, (*place, *world)) for world in worlds]
        mine.update(dict.fromkeys(keys))
        missing = [(key, world) for key, world in zip(keys, worlds, strict=True) if key not in known]
        if missing:
            todo.append((place, missing))
    total = len(mine)
    progress(total - sum(len(m) for _, m in todo), total)
    (folder / "sweep.json").write_text(json.dumps(asdict(sweep), indent=1))
    shipped = read_files([sweep.model, *sweep.harvests]) if cluster else {}
    with workers(jobs, cluster) as submit, (folder / CELLS_FILE).open("a") as file:
        pending = {submit(_run_group, sweep, place, missing, shipped) for place, missing in todo}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                for cell in future.result():
                    known[cell.key] = cell
                    file.write(_line(cell))
                file.flush()
            progress(sum(key in known for key in mine), total)
    return [known[key] for key in mine]


Place = tuple[str, float, int | None]
World = tuple[str, str]


def _groups(sweep: Sweep) -> Iterator[tuple[Place, list[World]]]:
    """Board, capacitor and SRAM share one profile; traces and planners stand on it."""
    for place in itertools.product(sweep.systems, sweep.capacitances_f, sweep.sram_bytes):
        yield place, list(itertools.product(sweep.harvests, sweep.planners))


def _run_group(sweep: Sweep, place: Place, worlds: list[tuple[str, World]], shipped: dict[str, bytes]) -> list[Cell]:
    """shipped: the contents of files, where this machine may not have them."""
    system, capacitance_f, sram_bytes = place
    device = load_system(system).device.with_capacitance(capacitance_f)
    with files_at_hand(shipped) as path_of:
        lowered = lower(load_model(path_of(sweep.model)))
        sketches = Sketches(lowered, device, sram_bytes)
        blank = [Cell(key, system, harvest, capacitance_f, sram_bytes, planner) for key, (harvest, planner) in worlds]
        return [_run_cell(cell, sweep, sketches, load_trace(path_of(cell.harvest))) for cell in blank]


def _run_cell(cell: Cell, sweep: Sweep, sketches: Sketches, harvest: Trace) -> Cell:
    scenario = Scenario(harvest, sweep.duration_s)
    lowered, device = sketches.lowered, sketches.device
    try:
        profile, plan = sketches.plan(scenario.harvest, cell.planner)
        enough = min(round(LEAST_CHARGES * device.store.usable_j / profile.energy_j), MOST_INFERENCES)
        least = max(sweep.n_inferences, enough)
        once = replace(scenario, duration_s=min(harvest.duration_s, sweep.duration_s))
        run = simulate(lowered, plan, profile, device, once, MOST_INFERENCES)
        if run.n_inferences < least:
            run = simulate(lowered, plan, profile, device, scenario, least)
    except (Infeasible, InputError) as error:  # InputError: a budget beyond what this board has
        return replace(cell, why=str(error))
    if not run.latency_s:
        return replace(cell, why=f"no answer within {sweep.duration_s / 86400:g} days")
    later = run.latency_s[1:] or run.latency_s
    return replace(
        cell,
        latency_s=float(np.mean(later)),
        p99_s=float(np.percentile(later, 99)),
        first_s=run.latency_s[0],
        energy_j=run.energy_j.spent_j / run.n_inferences,
        n_power_failures=run.n_power_failures,
        n_inferences=run.n_inferences,
    )
