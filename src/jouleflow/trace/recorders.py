"""Harvest traces as recorders write them: shepherd HDF5 (read and write), Nordic PPK2, EnergyRunner, Joulescope JLS.
Files are untrusted.

Recorders sample up to 100,000 times a second; samples are averaged to at least a millisecond, which keeps the energy.
Sources: shepherd data format (orgua/shepherd), PPK2 file version 2 as third-party writers make it, EEMBC EnergyRunner,
pyjls.
"""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import TraceError
from jouleflow.trace.trace import Trace

Float = NDArray[np.float64]
MAX_SAMPLES = 1 << 27  # of one dataset: about 20 minutes at 100 kHz
LEAST_STEP_S = 1e-3
SAMPLES, CURVES = ("ivsample", "ivtrace"), ("ivcurve", "ivsurface")  # shepherd's older and newer names
PPK2_FRAME = np.dtype([("current_ua", "<f4"), ("logic", "<u2")])
MAX_PPK2_BYTES = 512 << 20
ENERGYRUNNER_MAGIC = 0xF1


def _averaged(name: str, power_w: Float, step_s: float, source: str) -> Trace:
    """A trace of equal steps, averaged to at least LEAST_STEP_S."""
    if power_w.size == 0:
        raise TraceError(f"{name} holds no samples")
    if not step_s > 0:
        raise TraceError(f"{name}: a sample step of {step_s} s must be > 0")
    block = max(round(LEAST_STEP_S / step_s), 1)
    duration_s = power_w.size * step_s
    if block > 1:
        starts = np.arange(0, power_w.size, block)
        counts = np.diff(np.append(starts, power_w.size))
        power_w = np.add.reduceat(power_w, starts) / counts
    time_s = np.arange(power_w.size, dtype=np.float64) * (block * step_s)
    return Trace(name, "W", time_s, np.ascontiguousarray(power_w), duration_s, source)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise TraceError("shepherd files need h5py: pip install 'jouleflow[shepherd]'") from error
    return h5py


def read_shepherd(path: Path) -> Trace:
    """The power of a shepherd recording: of samples as they are, of curves at each curve's best point.

    Raises TraceError for a file that is not shepherd's, is damaged, or holds short-circuit currents only.
    """
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            return _shepherd_trace(file, path)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise TraceError(f"{path.name} is not a readable shepherd file ({type(error).__name__}: {error})") from error


def _shepherd_trace(file: Any, path: Path) -> Trace:
    data = file["data"]
    kind = str(data.attrs.get("datatype", "ivsample"))
    if kind not in (*SAMPLES, *CURVES):
        raise TraceError(
            f"{path.name} holds {kind}: power needs one of {', '.join((*SAMPLES, *CURVES))}; convert it with shepherd's tools"
        )
    n = int(data["current"].shape[0])
    if not 1 < n <= MAX_SAMPLES or data["voltage"].shape != (n,) or data["time"].shape != (n,):
        raise TraceError(f"{path.name}: {n} samples; time, voltage and current must be alike, 2 to {MAX_SAMPLES} long")
    power_w = _calibrated(data["voltage"]) * _calibrated(data["current"])
    step_s = float(int(data["time"][n - 1]) - int(data["time"][0])) / (n - 1) * 1e-9
    if kind in CURVES:
        window = int(data.attrs.get("window_samples", 0))
        if not 1 <= window <= n:
            raise TraceError(f"{path.name}: window_samples={window} must be between 1 and {n}")
        whole = n - n % window
        power_w = power_w[:whole].reshape(-1, window).max(1)
        step_s *= window
    return _averaged(path.stem, np.maximum(power_w, 0.0), step_s, f"shepherd {kind}")


def _calibrated(dataset: Any) -> Float:
    gain, offset = float(dataset.attrs.get("gain", 1.0)), float(dataset.attrs.get("offset", 0.0))
    return np.asarray(dataset[:], np.float64) * gain + offset


def write_shepherd(trace: Trace, path: Path, voltage_v: float = 2.0, step_s: float = 1e-3) -> Path:
    """A trace of power as shepherd ivsample data at a constant voltage, for its emulator.

    voltage_v: what the source is taken to stand at. step_s: of the samples; the trace is constant within them.
    Raises TraceError when the file would be too long.
    """
    n = round(trace.duration_s / step_s)
    if not 1 < n <= MAX_SAMPLES:
        raise TraceError(f"{trace.name}: {n} samples of {step_s} s; must be 2 to {MAX_SAMPLES}: give another step_s")
    time_s = np.arange(n) * step_s
    power_w = trace.value[np.searchsorted(trace.time_s, time_s + step_s / 2, side="right") - 1]
    gain_v, gain_a = 1e-6, 1e-9
    current = power_w / voltage_v / gain_a
    if current.max() >= 2**32:
        raise TraceError(f"{trace.name}: {current.max() * gain_a:.3g} A at {voltage_v} V is more than the format holds")
    with _h5py().File(path, "w") as file:
        file.attrs["mode"] = "harvester"
        data = file.create_group("data")
        data.attrs.update({"datatype": "ivsample", "window_samples": 0})
        columns = (
            ("time", np.round(time_s * 1e9).astype("u8"), {"unit": "s", "gain": 1e-9, "offset": 0.0}),
            ("voltage", np.full(n, round(voltage_v / gain_v), "u4"), {"unit": "V", "gain": gain_v, "offset": 0.0}),
            ("current", np.round(current).astype("u4"), {"unit": "A", "gain": gain_a, "offset": 0.0}),
        )
        for name, values, attributes in columns:
            data.create_dataset(
                name, data=values, maxshape=(None,), chunks=True, compression="gzip", compression_opts=1
            )
            data[name].attrs.update(attributes)
    return path


def read_ppk2(path: Path, voltage_v: float) -> Trace:
    """The power of a Nordic Power Profiler recording, whose file holds current only, at a voltage.

    Raises TraceError for a damaged or oversized file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("session.raw")
            if info.file_size > MAX_PPK2_BYTES or archive.getinfo("metadata.json").file_size > 1 << 20:
                raise TraceError(
                    f"{path.name}: session.raw has {info.file_size} bytes, at most {MAX_PPK2_BYTES} are read"
                )
            notes = json.loads(archive.read("metadata.json"))
            with archive.open(info) as file:
                raw = file.read(MAX_PPK2_BYTES + 1)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise TraceError(f"{path.name} is not a readable .ppk2 file ({type(error).__name__}: {error})") from error
    inner = notes.get("metadata", notes) if isinstance(notes, dict) else {}
    rate = inner.get("samplesPerSecond", 100_000) if isinstance(inner, dict) else 100_000
    if not isinstance(rate, int | float) or not 0 < rate <= 1e6:
        raise TraceError(f"{path.name}: samplesPerSecond={rate!r} must be a number in (0, 1e6]")
    frames = np.frombuffer(raw[: len(raw) - len(raw) % PPK2_FRAME.itemsize], PPK2_FRAME)
    current_a = np.maximum(frames["current_ua"].astype(np.float64), 0.0) * 1e-6
    return _averaged(path.stem, current_a * voltage_v, 1.0 / rate, f"PPK2 at {voltage_v:g} V")


def read_energyrunner(path: Path) -> Trace:
    """The power of an EEMBC EnergyRunner energy trace: a byte 0xF1, the rate in Hz, then milliwatts, all float32.

    Raises TraceError for a damaged or oversized file.
    """
    size = path.stat().st_size
    if size > 4 * MAX_SAMPLES:
        raise TraceError(f"{path.name} has {size} bytes, at most {4 * MAX_SAMPLES} are read: cut it")
    raw = path.read_bytes()
    if len(raw) < 9 or raw[0] != ENERGYRUNNER_MAGIC:
        raise TraceError(f"{path.name} is not an EnergyRunner trace: it must begin with byte 0xF1, a rate and samples")
    rate = struct.unpack_from("<f", raw, 1)[0]
    if not 0 < rate <= 1e6:
        raise TraceError(f"{path.name}: a rate of {rate} Hz must be in (0, 1e6]")
    milliwatts = np.frombuffer(raw, "<f4", offset=5, count=(len(raw) - 5) // 4).astype(np.float64)
    return _averaged(path.stem, np.maximum(milliwatts, 0.0) * 1e-3, 1.0 / rate, "EnergyRunner")


JLS_CHUNK = 1 << 20  # samples read at a time


def read_jls(path: Path) -> Trace:
    """The power of a Joulescope recording: its power signal, or current times voltage.

    Raises TraceError for a damaged file, or one with neither.
    """
    try:
        from pyjls import Reader
    except ImportError as error:
        raise TraceError("Joulescope files need pyjls: pip install 'jouleflow[joulescope]'") from error
    try:
        with Reader(str(path)) as reader:
            return _jls_trace(reader, path)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path.name} is not a readable .jls file ({type(error).__name__}: {error})") from error


def _jls_trace(reader: Any, path: Path) -> Trace:
    signals = {s.name: s for s in reader.signals.values() if s.length > 1 and s.sample_rate > 0}
    used = [signals[n] for n in (["power"] if "power" in signals else ["current", "voltage"]) if n in signals]
    if not used or (len(used) == 1 and used[0].name != "power"):
        raise TraceError(
            f"{path.name} holds {sorted(signals) or 'nothing'}: power, or current and voltage, must be recorded"
        )
    n, rate = min(int(s.length) for s in used), {float(s.sample_rate) for s in used}
    if len(rate) > 1 or n > MAX_SAMPLES:
        raise TraceError(f"{path.name}: {n} samples at {sorted(rate)} Hz; must be alike and at most {MAX_SAMPLES}")
    power_w = np.ones(n)
    for signal in used:
        for start in range(0, n, JLS_CHUNK):
            count = min(JLS_CHUNK, n - start)
            power_w[start : start + count] *= np.nan_to_num(reader.fsr(signal.signal_id, start, count))
    return _averaged(path.stem, np.maximum(power_w, 0.0), 1.0 / rate.pop(), "Joulescope")
