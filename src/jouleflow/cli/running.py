"""A run with a progress bar, and the revision of the code that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jouleflow import __version__
from jouleflow.cli.inputs import load_inputs, random_inputs, words
from jouleflow.errors import InputError
from jouleflow.explore.sweep import Cell, Sweep, run_sweep
from jouleflow.firmware.emulate import execute
from jouleflow.flow import Prepared, build, predict_run
from jouleflow.record.run import Run


def revision() -> str:
    """The version, with the commit when run from a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return __version__
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return f"{__version__}+{done.stdout.strip()}" if done.returncode == 0 else __version__


def run_on_emulator(p: Prepared, inputs: Path | None, count: int, deadline_s: float | None, console: Console) -> Run:
    """The run of `count` inferences of an .npz file, or of random inputs.

    Raises InputError for a bad count or file.
    """
    if count < 1:
        raise InputError(f"--count {count} must be at least 1")
    model = p.lowered.model
    values = random_inputs(model, count, p.scenario.seed) if inputs is None else load_inputs(inputs, model)[:count]
    predicted = predict_run(p, len(values))
    firmware = build(p)
    columns = (
        TextColumn("emulating"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failures]} power failures"),
        TextColumn("{task.fields[world]:.1f} s in the world"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=len(values), failures=0, world=0.0)
        return execute(
            firmware, values, p.scenario, p.profile, predicted, deadline_s=deadline_s, revision=revision(), answers_of=words,
            progress=lambda n, failures, world: bar.update(task, completed=n, failures=failures, world=world),
        ).run  # fmt: skip


def explore_with_progress(
    sweep: Sweep, folder: Path, jobs: int | None, console: Console, cluster: str | None = None
) -> list[Cell]:
    """All cells of a sweep, with a bar. Ctrl-C leaves what is done for the next time."""
    columns = (TextColumn("exploring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        return run_sweep(sweep, folder, jobs, lambda done, of: bar.update(task, completed=done, total=of), cluster)
