"""When requests come: generated (marked synthetic by their names) or recorded. Times in seconds from 0, rising.

Recorded files are CSV with a column time_s: of each request, or with a second column `requests` the number in the interval
that begins there. Files are untrusted.
"""

from __future__ import annotations

import csv
import gzip
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import TraceError, near_matches

Float = NDArray[np.float64]
KINDS = ("poisson", "bursty", "diurnal", "steady")
MAX_ARRIVALS = 20_000_000
MAX_BYTES = 256 << 20
MAX_ROWS = 5_000_000
BURST_RATIO, BURST_S, CALM_S = 5.0, 2.0, 6.0  # a burst is so many times the calm; mean lengths of both


def make_arrivals(
    kind: str, rate_hz: float, duration_s: float, random: np.random.Generator, phase_frac: float = 0.0
) -> Float:
    """Arrival times of one of KINDS with a mean rate.

    steady: equally spaced. poisson: independent. bursty: Poisson whose rate jumps between calm and burst (a Markov-modulated
    process), begun at any moment of it: the rate is the mean over seeds, as a short one may be all calm or all burst. diurnal:
    Poisson whose rate swings by 80 % once over the duration, from phase_frac of the way between two troughs.
    Raises TraceError for an unknown kind or values out of range.
    """
    if kind not in KINDS:
        raise TraceError(f"unknown arrivals {kind!r}: {near_matches(kind, KINDS)}; or give a .csv file")
    if not 0 < rate_hz * duration_s <= MAX_ARRIVALS or duration_s <= 0:
        raise TraceError(f"{rate_hz} requests/s for {duration_s} s: must be more than 0 and at most {MAX_ARRIVALS}")
    if kind == "steady":
        return np.arange(round(rate_hz * duration_s)) / rate_hz
    if kind == "bursty":
        return _bursty(rate_hz, duration_s, random)
    times = np.sort(
        random.uniform(0, duration_s, random.poisson(rate_hz * duration_s * (1.8 if kind == "diurnal" else 1)))
    )
    if kind == "diurnal":
        share = (1 - 0.8 * np.cos(2 * np.pi * (times / duration_s + phase_frac))) / 1.8
        times = times[random.uniform(size=times.size) < share]
    return np.asarray(times, np.float64)


def _bursty(rate_hz: float, duration_s: float, random: np.random.Generator) -> Float:
    calm_hz = rate_hz * (BURST_S + CALM_S) / (BURST_RATIO * BURST_S + CALM_S)
    pieces, at, burst = [], 0.0, random.random() < BURST_S / (BURST_S + CALM_S)
    while at < duration_s:
        length = random.exponential(BURST_S if burst else CALM_S)
        rate = calm_hz * (BURST_RATIO if burst else 1.0)
        pieces.append(at + np.sort(random.uniform(0, length, random.poisson(rate * length))))
        at, burst = at + length, not burst
    times = np.concatenate(pieces)
    return np.asarray(times[times < duration_s], np.float64)


def load_arrivals(path: Path, random: np.random.Generator, rate_hz: float = 0.0, duration_s: float = 0.0) -> Float:
    """The arrivals of a recorded file. rate_hz: stretch or squeeze time so that this is the mean rate. duration_s: of the
    result, from its start; 0 takes all.

    Raises TraceError for a damaged file.
    """
    if not path.is_file():
        raise TraceError(f"no arrivals file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise TraceError(f"{path.name} has {path.stat().st_size} bytes, at most {MAX_BYTES} are read")
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            rows = csv.DictReader(line for line in islice(file, MAX_ROWS) if not line.startswith("#"))
            fields = rows.fieldnames or []
            if "time_s" not in fields:
                raise TraceError(f"{path.name} has columns {fields}: time_s is missing")
            table = [(float(r["time_s"]), float(r["requests"]) if "requests" in fields else 1.0) for r in rows]
    except (ValueError, TypeError, UnicodeDecodeError, OSError, EOFError, csv.Error) as error:
        raise TraceError(f"{path.name} is not a table of arrivals: {str(error)[:120]}") from error
    values = np.array(table, np.float64).reshape(-1, 2)
    time_s, counts = values[:, 0], values[:, 1]
    if len(values) < 2 or not np.isfinite(values).all() or (np.diff(time_s) < 0).any() or (counts < 0).any():
        raise TraceError(f"{path.name}: time_s must rise, and all must be numbers >= 0, in at least 2 rows")
    if counts.sum() > MAX_ARRIVALS:
        raise TraceError(f"{path.name} has {counts.sum():.0f} requests, at most {MAX_ARRIVALS} are taken")
    if "requests" in fields:
        widths = np.diff(time_s, append=2 * time_s[-1] - time_s[-2])
        n = random.poisson(counts) if (counts % 1).any() else counts.astype(np.int64)
        time_s = np.sort(np.repeat(time_s, n) + random.uniform(size=int(n.sum())) * np.repeat(widths, n))
    times = time_s - time_s[0]
    if rate_hz:
        times = times * (len(times) / max(times[-1], 1e-9) / rate_hz)
    return np.asarray(times[times < duration_s] if duration_s else times, np.float64)
