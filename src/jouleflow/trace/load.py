"""Harvest traces by name, from CSV, or as recorders write them. Files are untrusted: sizes are capped, bad rows are named."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from importlib.resources import files
from pathlib import Path

import numpy as np

from jouleflow.errors import TraceError, near_matches
from jouleflow.trace.trace import Trace

MAX_BYTES = 256 << 20
SUFFIXES = (".csv.gz", ".csv")


def _stem(name: str) -> str | None:
    return next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), None)


def _folders() -> list[Path]:
    """Where traces are looked up by name: those that come with jouleflow, then recorded ones if there are any."""
    found = [Path(str(files("jouleflow") / "trace" / "data"))]
    for data in (os.environ.get("JOULEFLOW_DATA"), "../shared/data"):
        if data and (Path(data) / "harvest").is_dir():
            found.append(Path(data) / "harvest")
            break
    return found


def known_traces() -> dict[str, Path]:
    """Traces that can be named without a path: name -> file."""
    return {
        s: p
        for folder in reversed(_folders())
        for p in sorted(folder.iterdir())
        if (s := _stem(p.name)) and s != "index"
    }


def load_trace(name_or_path: str) -> Trace:
    """The trace of a known name; of a .csv or .csv.gz file with columns time_s and power_w (or value); of a recorder's file:
    shepherd .h5, Nordic .ppk2 with the voltage after an @ ("walk.ppk2@3.0V"), EnergyRunner .bin or .emd, Joulescope .jls.

    Raises TraceError for an unknown name, a damaged file, a missing column, or values that make no sense.
    """
    path = Path(name_or_path)
    recorded = _recorded(name_or_path)
    if recorded is not None:
        return recorded
    if _stem(path.name) is None:
        known = known_traces()
        if name_or_path not in known:
            raise TraceError(
                f"unknown trace {name_or_path!r}: {near_matches(name_or_path, known)}; or give a .csv, .csv.gz, .h5, .ppk2, .jls, .bin or .emd file"
            )
        path = known[name_or_path]
    if not path.is_file():
        raise TraceError(f"no trace file {name_or_path!r}")
    return parse_trace(_text(path), _stem(path.name) or path.name)


def _recorded(text: str) -> Trace | None:
    """A recorder's file, or None for anything else."""
    from jouleflow.trace import recorders
    from jouleflow.units import parse_quantity

    name, at, voltage = text.rpartition("@") if ".ppk2@" in text else (text, "", "")
    path = Path(name)
    if path.suffix not in (".h5", ".hdf5", ".ppk2", ".jls", ".bin", ".emd"):
        return None
    if not path.is_file():
        raise TraceError(f"no trace file {name!r}")
    if path.suffix in (".h5", ".hdf5"):
        return recorders.read_shepherd(path)
    if path.suffix == ".ppk2":
        if not at:
            raise TraceError(f"{path.name} holds current only: give the voltage after an @, as in {path.name}@3.0V")
        return recorders.read_ppk2(path, parse_quantity(voltage, "V"))
    if path.suffix == ".jls":
        return recorders.read_jls(path)
    return recorders.read_energyrunner(path)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
        if raw is not None and raw[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(raw)) as file:
                raw = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path.name} is not readable ({type(error).__name__}): is it truncated?") from error
    if raw is None or len(raw) > MAX_BYTES:
        raise TraceError(f"{path.name} is larger than {MAX_BYTES >> 20} MiB: cut or resample it")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise TraceError(f"{path.name} is not text: it must be CSV in UTF-8") from error


def parse_trace(text: str, name: str) -> Trace:
    """A trace from CSV text: `# key: value` lines, a header with time_s and power_w (or value), then rows.

    Raises TraceError naming the line.
    """
    notes: dict[str, str] = {}
    lines = text.splitlines()
    start = 0
    while start < len(lines) and (lines[start].startswith("#") or not lines[start].strip()):
        key, _, text_value = lines[start].lstrip("# ").partition(":")
        notes[key.strip().lower()] = text_value.strip()
        start += 1
    if start >= len(lines):
        raise TraceError(f"{name} holds no rows: it needs a header with time_s and power_w, and rows")
    columns = [c.strip() for c in lines[start].split(",")]
    column = next((c for c in ("power_w", "value") if c in columns), None)
    if "time_s" not in columns or column is None:
        raise TraceError(f"{name} has columns {', '.join(columns[:10])[:200]}: it needs time_s and power_w")
    wanted = (columns.index("time_s"), columns.index(column))
    body = lines[start + 1 :]
    while body and not body[-1].strip():
        body.pop()
    if not body:
        raise TraceError(f"{name} has a header and no rows")
    try:
        table = np.loadtxt(
            io.StringIO("\n".join(body)), delimiter=",", usecols=wanted, ndmin=2, comments=None, dtype=np.float64
        )
    except (ValueError, IndexError, OverflowError) as error:
        raise TraceError(f"{name}: {_bad_row(body, wanted, start + 2)}") from error
    time_s, value = np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])
    if time_s.size != len(body):
        raise TraceError(f"{name} has blank lines between rows: remove them")
    finite = np.isfinite(time_s).all()
    offset = time_s[0] if finite else 0.0
    step = float(np.median(np.diff(time_s))) if finite and time_s.size > 1 else 1.0
    if finite and step <= 0:
        raise TraceError(f"{name}: times do not increase: sort the rows and drop repeats")
    return Trace(
        name,
        notes.get("unit", "W"),
        time_s - offset,
        value,
        float(time_s[-1] - offset + step) if finite else 1.0,
        notes.get("source", ""),
        notes.get("synthetic", "false").lower() == "true",
    )


def _bad_row(body: list[str], wanted: tuple[int, int], first_line: int) -> str:
    for k, line in enumerate(body):
        cells = line.split(",")
        try:
            for c in wanted:
                float(cells[c])
        except (ValueError, IndexError):
            return f"line {first_line + k} is {line[:60]!r}: it must hold numbers in columns {wanted[0] + 1} and {wanted[1] + 1}"
    return "the rows are not numbers"
