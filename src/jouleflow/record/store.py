"""A `Run` as a folder: run.json, events.parquet, voltage.parquet. Written so that an interruption leaves the old files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.record.run import EVENT_KINDS, EnergyLedger, Estimate, Events, LayerRow, Run, TimeLedger

FORMAT_VERSION = 1
COLUMNS = ("events", "voltage_time_s", "voltage_v")
EVENT_TYPES = {
    "time_s": np.float64,
    "kind": np.uint8,
    "layer": np.int32,
    "tile": np.int32,
    "duration_s": np.float64,
    "energy_j": np.float64,
    "voltage_v": np.float64,
}


def save_run(run: Run, folder: Path) -> Path:
    """Writes the run into `folder` (made if needed) and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    events = pa.table({name: getattr(run.events, name) for name in EVENT_TYPES})
    voltage = pa.table({"time_s": run.voltage_time_s, "voltage_v": run.voltage_v})
    plain = {"format_version": FORMAT_VERSION, **asdict(replace(run, events=None, voltage_time_s=None, voltage_v=None))}  # type: ignore[arg-type]
    for name in COLUMNS:
        del plain[name]
    _replace(folder / "events.parquet", lambda path: pq.write_table(events, path))
    _replace(folder / "voltage.parquet", lambda path: pq.write_table(voltage, path))
    text = json.dumps(plain, indent=1, allow_nan=True)
    _replace(folder / "run.json", lambda path: path.write_text(text))
    return folder


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    fresh = path.with_name(path.name + ".new")
    write(fresh)
    os.replace(fresh, path)


def load_run(folder: Path) -> Run:
    """The run in a folder.

    Raises InputError naming the file and what is wrong with it.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise InputError(f"{folder.name} holds no run.json: give the folder that `jouleflow run --out` wrote")
    try:
        plain = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"run.json in {folder.name} is damaged: {error}") from error
    if not isinstance(plain, dict) or plain.pop("format_version", None) != FORMAT_VERSION:
        raise InputError(f"run.json in {folder.name} is not of format version {FORMAT_VERSION}: run it again")
    known = {f.name for f in fields(Run)} - set(COLUMNS)
    if set(plain) != known:
        odd = sorted(set(plain) ^ known)
        raise InputError(f"run.json in {folder.name}: unknown or missing field(s) {', '.join(odd[:5])}")
    try:
        return _rebuild(plain, _table(folder / "events.parquet", EVENT_TYPES), folder)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"run.json in {folder.name} is damaged: {error}") from error


def _rebuild(plain: dict[str, Any], events: dict[str, NDArray[Any]], folder: Path) -> Run:
    if events["kind"].size and events["kind"].max() >= len(EVENT_KINDS):
        raise ValueError("an event has an unknown kind")
    voltage = _table(folder / "voltage.parquet", {"time_s": np.float64, "voltage_v": np.float64})
    plain["energy_j"] = EnergyLedger(**plain["energy_j"])
    plain["time_s"] = TimeLedger(**plain["time_s"])
    plain["predicted"] = Estimate(**plain["predicted"])
    plain["layers"] = tuple(LayerRow(**{**row, "out_shape": tuple(row["out_shape"])}) for row in plain["layers"])
    plain["latency_s"] = tuple(plain["latency_s"])
    plain["answers"] = tuple(plain["answers"])
    return Run(**plain, events=Events(**events), voltage_time_s=voltage["time_s"], voltage_v=voltage["voltage_v"])


def _table(path: Path, columns: dict[str, Any]) -> dict[str, NDArray[Any]]:
    try:
        table = pq.read_table(path)
        return {name: table[name].to_numpy().astype(kind) for name, kind in columns.items()}
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path.name} is missing or damaged: {error}") from error
