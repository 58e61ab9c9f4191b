"""Synthetic harvest traces, marked as such: radio field with fading and outages, office light, sun under clouds.

For examples and stress, never as evidence: results on these say "synthetic".
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from jouleflow.errors import MissingCapability, TraceError
from jouleflow.trace.trace import Trace


def rf_trace(
    random: Generator,
    *,
    duration_s: float = 60.0,
    step_s: float = 0.01,
    good_w: float = 1.5e-3,
    bad_w: float = 4e-5,
    good_s: float = 1.2,
    bad_s: float = 0.8,
    fading: float = 0.6,
) -> Trace:
    """Received radio power: a two-state Markov chain (Gilbert-Elliott) with log-normal fading in each state.

    good_w, bad_w: median power of the states; good_s, bad_s: mean stay; fading: sigma of the natural logarithm, correlated
    over 50 ms. Source of the chain: Gilbert 1960, doi 10.1002/j.1538-7305.1960.tb03959.x.
    """
    _positive(duration_s=duration_s, step_s=step_s, good_w=good_w, bad_w=bad_w, good_s=good_s, bad_s=bad_s)
    n = round(duration_s / step_s)
    state = np.empty(n, bool)
    now = True
    draws = random.random(n)
    for k in range(n):
        if draws[k] < step_s / (good_s if now else bad_s):
            now = not now
        state[k] = now
    keep = np.exp(-step_s / 0.05)
    noise = random.standard_normal(n) * np.sqrt(1 - keep**2)
    shadow = np.empty(n)
    level = random.standard_normal()
    for k in range(n):
        level = keep * level + noise[k]
        shadow[k] = level
    power = np.where(state, good_w, bad_w) * np.exp(fading * shadow)
    return _trace("rf", power, step_s, "jouleflow rf_trace: two-state Markov chain with log-normal fading")


def indoor_light_trace(
    random: Generator,
    *,
    step_s: float = 60.0,
    peak_lux: float = 500.0,
    area_m2: float = 1e-3,
    efficiency_frac: float = 0.1,
) -> Trace:
    """24 h of office light on a cell: lamps from 8 to 18 h with absences, daylight around noon. 300 lm/W."""
    _positive(step_s=step_s, peak_lux=peak_lux, area_m2=area_m2, efficiency_frac=efficiency_frac)
    hours = np.arange(0, 24 * 3600, step_s) / 3600
    lamps = ((hours > 8) & (hours < 18)).astype(float)
    n_absences = int(random.poisson(4))
    for start in random.uniform(8, 18, n_absences):
        lamps[(hours > start) & (hours < start + random.uniform(0.2, 1.0))] = 0.0
    day = np.clip(np.sin((hours - 6) / 12 * np.pi), 0, None) * 0.4 * random.uniform(0.6, 1.4)
    lux = peak_lux * (lamps * 0.6 + day) * np.exp(0.05 * random.standard_normal(hours.size))
    return _trace("indoor_light", lux / 300.0 * area_m2 * efficiency_frac, step_s, "jouleflow indoor_light_trace")


def solar_trace(
    random: Generator,
    *,
    latitude_deg: float = 48.1,
    longitude_deg: float = 11.6,
    date: str = "2026-06-21",
    step_s: float = 60.0,
    area_m2: float = 5e-4,
    efficiency_frac: float = 0.15,
    cloudy_s: float = 600.0,
    clear_s: float = 1200.0,
) -> Trace:
    """24 h (UTC) of sun on a horizontal cell: pvlib's Haurwitz clear sky, dimmed to 15-60 % by a Markov chain of clouds.

    Raises MissingCapability when pvlib is not installed.
    """
    try:
        import pandas as pd
        import pvlib
    except ImportError as error:
        raise MissingCapability("solar traces need pvlib: pip install 'jouleflow[sun]'") from error
    _positive(step_s=step_s, area_m2=area_m2, efficiency_frac=efficiency_frac, cloudy_s=cloudy_s, clear_s=clear_s)
    n = round(86400 / step_s)
    times = pd.date_range(date, periods=n, freq=f"{step_s}s", tz="UTC")
    place = pvlib.location.Location(latitude_deg, longitude_deg)
    clear = place.get_clearsky(times, model="haurwitz")["ghi"].to_numpy()
    factor = np.empty(n)
    cloudy, depth = False, 1.0
    for k in range(n):
        if random.random() < step_s / (cloudy_s if cloudy else clear_s):
            cloudy = not cloudy
            depth = random.uniform(0.15, 0.6)
        factor[k] = depth if cloudy else 1.0
    return _trace(
        "solar",
        np.clip(clear * factor, 0, None) * area_m2 * efficiency_frac,
        step_s,
        "jouleflow solar_trace: pvlib clear sky (Haurwitz) with Markov clouds",
    )


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise TraceError(f"{name}={value} must be a finite number > 0")


def _trace(name: str, power_w: NDArray[np.floating], step_s: float, source: str) -> Trace:
    time_s = np.asarray(np.arange(power_w.size) * step_s, np.float64)
    return Trace(name, "W", time_s, power_w.astype(np.float64), float(time_s[-1] + step_s), source, True)


def write_trace(trace: Trace, path: Path) -> Path:
    """Writes .csv or .csv.gz (reproducible bytes), to be read by load_trace."""
    lines = [
        f"# unit: {trace.unit}",
        f"# source: {trace.source}",
        f"# synthetic: {str(trace.synthetic).lower()}",
        "time_s,power_w",
    ]
    lines += [f"{t:.6g},{v:.4g}" for t, v in zip(trace.time_s, trace.value, strict=True)]
    data = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path
