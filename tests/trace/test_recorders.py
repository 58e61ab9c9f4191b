"""Recorders' files. The shepherd files were made by shepherd_data 2026.10.2, its own writer, from known curves."""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.errors import TraceError
from jouleflow.trace.load import load_trace
from jouleflow.trace.recorders import read_energyrunner, read_ppk2

DATA = Path(__file__).parent / "data"


def test_shepherd_samples() -> None:
    pytest.importorskip("h5py", reason="shepherd files need the extra jouleflow[shepherd]")
    trace = load_trace(str(DATA / "shepherd_ivsample.h5"))
    time_s = np.arange(10_000) * 1e-5
    power_w = (2 + 0.1 * np.sin(2 * np.pi * 50 * time_s)) * 1e-3 * (1 + 0.5 * np.sign(np.sin(2 * np.pi * 100 * time_s)))
    assert trace.duration_s == pytest.approx(0.1)
    assert trace.value.size == 100  # averaged to a millisecond
    np.testing.assert_allclose(trace.value, power_w.reshape(100, 100).mean(1), rtol=1e-4)


def test_shepherd_curves_give_each_curves_best_point() -> None:
    pytest.importorskip("h5py", reason="shepherd files need the extra jouleflow[shepherd]")
    trace = load_trace(str(DATA / "shepherd_ivcurve.h5"))
    ramp = np.linspace(0, 3, 100)
    best_w = (ramp * 2e-3 * (1 - np.exp((ramp - 3) / 0.3))).max()
    np.testing.assert_allclose(trace.value, best_w * np.linspace(0.5, 1, 100), rtol=1e-4)


def test_shepherd_there_and_back(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="shepherd files need the extra jouleflow[shepherd]")
    from jouleflow.trace.recorders import write_shepherd

    trace = load_trace("rf_walk")
    again = load_trace(str(write_shepherd(trace, tmp_path / "walk.h5", 2.5)))
    assert again.duration_s == pytest.approx(trace.duration_s)
    assert again.mean == pytest.approx(trace.mean, rel=1e-5)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, b"not hdf5 at all"])
def test_damaged_shepherd(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("h5py", reason="shepherd files need the extra jouleflow[shepherd]")
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(TraceError, match="not a readable shepherd file"):
        load_trace(str(tmp_path / "x.h5"))


def test_shepherd_without_power_is_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="shepherd files need the extra jouleflow[shepherd]")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("data")
        group.attrs["datatype"] = "isc_voc"
        for name in ("time", "voltage", "current"):
            group.create_dataset(name, data=np.arange(10))
    with pytest.raises(TraceError, match="holds isc_voc"):
        load_trace(str(tmp_path / "x.h5"))


def ppk2(current_ua: np.ndarray, rate: object = 100_000) -> bytes:
    frames = np.zeros(current_ua.size, [("current_ua", "<f4"), ("logic", "<u2")])
    frames["current_ua"] = current_ua
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("session.raw", frames.tobytes())
        archive.writestr(
            "metadata.json",
            json.dumps({"metadata": {"samplesPerSecond": rate, "startSystemTime": 0}, "formatVersion": 2}),
        )
        archive.writestr("minimap.raw", b"")
    return file.getvalue()


def test_ppk2(tmp_path: Path) -> None:
    path = tmp_path / "walk.ppk2"
    path.write_bytes(ppk2(np.repeat([100.0, 300.0, -1.0], 1000)))
    trace = load_trace(f"{path}@3.0V")
    assert trace.duration_s == pytest.approx(0.03)
    np.testing.assert_allclose(trace.value[[0, 15, 29]], [300e-6, 900e-6, 0.0])
    with pytest.raises(TraceError, match=r"give the voltage after an @"):
        load_trace(str(path))


@pytest.mark.parametrize("rate", [0, -1, "fast", None, 1e9])
def test_ppk2_with_a_foolish_rate(tmp_path: Path, rate: object) -> None:
    path = tmp_path / "walk.ppk2"
    path.write_bytes(ppk2(np.ones(10), rate))
    with pytest.raises(TraceError, match="samplesPerSecond"):
        read_ppk2(path, 3.0)


def test_energyrunner(tmp_path: Path) -> None:
    path = tmp_path / "trace.emd"
    path.write_bytes(b"\xf1" + struct.pack("<f", 1000.0) + np.array([1.0, 2.5, 4.0], "<f4").tobytes())
    trace = load_trace(str(path))
    np.testing.assert_allclose(trace.value, [1e-3, 2.5e-3, 4e-3])
    assert trace.duration_s == pytest.approx(3e-3)


def jls(path: Path, **signals: np.ndarray) -> Path:
    """A file made by Joulescope's own writer, at 2 kHz."""
    pyjls = pytest.importorskip("pyjls", reason="the joulescope extra is not installed")
    with pyjls.Writer(str(path)) as writer:
        writer.source_def(source_id=1, name="test", vendor="-", model="-", version="-", serial_number="-")
        for k, (name, values) in enumerate(signals.items()):
            units = {"current": "A", "voltage": "V", "power": "W"}[name]
            writer.signal_def(
                signal_id=k + 1, source_id=1, sample_rate=2000, name=name, units=units, data_type=pyjls.DataType.F32
            )
            writer.fsr_f32(k + 1, 0, values.astype(np.float32))
    return path


def test_joulescope(tmp_path: Path) -> None:
    current = np.repeat([1e-3, 2e-3, np.nan, -1e-3], 2000)
    trace = load_trace(str(jls(tmp_path / "a.jls", current=current, voltage=np.full(8000, 3.0))))
    assert trace.duration_s == pytest.approx(4.0)
    np.testing.assert_allclose(trace.value[[0, 500, 1500, 2500, 3500]], [3e-3, 3e-3, 6e-3, 0.0, 0.0], rtol=1e-5)
    direct = load_trace(str(jls(tmp_path / "b.jls", power=np.full(4000, 5e-3))))
    np.testing.assert_allclose(direct.value, 5e-3, rtol=1e-5)
    with pytest.raises(TraceError, match="power, or current and voltage"):
        load_trace(str(jls(tmp_path / "c.jls", current=current)))


def test_joulescope_rubbish(tmp_path: Path) -> None:
    good = jls(tmp_path / "a.jls", power=np.full(4000, 5e-3)).read_bytes()
    random = np.random.default_rng(0)
    for size in (0, 10, 100, len(good) // 2):
        bad = tmp_path / "bad.jls"
        bad.write_bytes(good[:size] + random.bytes(50))
        with pytest.raises(TraceError, match="not a readable|holds"):
            load_trace(str(bad))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_a_clear_error(raw: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, read in (("x.ppk2", lambda p: read_ppk2(p, 3.0)), ("x.bin", read_energyrunner)):
            path = Path(folder) / name
            for content in (raw, b"\xf1" + raw, ppk2(np.ones(4))[: len(raw)]):
                path.write_bytes(content)
                try:
                    read(path)
                except TraceError:
                    continue


def test_missing_file() -> None:
    with pytest.raises(TraceError, match="no trace file"):
        load_trace("nowhere.h5")
