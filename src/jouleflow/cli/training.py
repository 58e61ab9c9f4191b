"""`jouleflow train`: a learned policy with a progress bar."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from jouleflow.errors import InputError, MissingCapability, near_matches

TRAINED = ("bcedge",)


def train_with_progress(
    what: str,
    algorithm: str,
    profile: Path | None,
    log: Path | None,
    start_from: Path | None,
    minutes: float,
    rounds: int,
    energy_weight: float,
    folder: Path,
    seed: int,
    console: Console,
) -> dict[str, Any]:
    """The record of a training, which leaves the net in the folder.

    Raises InputError for unknown names and files, MissingCapability without torch.
    """
    if what not in TRAINED:
        raise InputError(f"cannot train {what!r}: {near_matches(what, TRAINED)}")
    missing = [m for m in ("torch", "torchrl", "gymnasium") if find_spec(m) is None]
    if missing:
        raise MissingCapability(f"training needs {', '.join(missing)}: pip install 'jouleflow[train]'")
    for path in (start_from, log):
        if path is not None and not path.is_file():
            raise InputError(f"no file {path}")
    from jouleflow.train.bcedge import TrainSettings, train_bcedge
    from jouleflow.train.boxes import made_up_world, measured_world
    from jouleflow.train.slots import read_slots

    settings = TrainSettings(
        algorithm, seed, minutes, rounds, max_energy_weight=energy_weight, start_from=str(start_from or "")
    )
    make_world = made_up_world
    if profile is not None:
        from jouleflow.profile.interference import fit_interference
        from jouleflow.profile.serving import load_profile

        known = load_profile(profile)
        beside = fit_interference(known.cells)
        make_world = lambda random, duration_s: measured_world(known, beside, random, duration_s)  # noqa: E731
    slots = None if log is None else read_slots(log)
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("reward {task.fields[reward]:.3f}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=rounds, reward=0.0)
        return train_bcedge(
            settings, folder, make_world, lambda n, reward: bar.update(task, completed=n, reward=reward), slots
        )
