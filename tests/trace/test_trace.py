import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jouleflow.errors import TraceError
from jouleflow.trace.generate import indoor_light_trace, rf_trace, solar_trace, write_trace
from jouleflow.trace.load import known_traces, load_trace, parse_trace
from jouleflow.trace.trace import Trace


def test_value_at_a_time_repeats() -> None:
    t = Trace("t", "W", np.array([0.0, 1.0]), np.array([2.0, 4.0]), 3.0)
    assert [t.at(x) for x in (0, 0.99, 1.0, 2.9, 3.0, 4.5)] == [2, 2, 4, 4, 2, 4]
    assert t.mean == pytest.approx((2 * 1 + 4 * 2) / 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,1\n1,nan", "must be finite"),
        ("0,1\n1,-2", "must be >= 0"),
        ("0,1\n2,1\n1,1\n3,1", "sort the rows"),
        ("0,1\n0,1", "sort the rows"),
        ("0,1\nx,2", "line 3"),
        ("0,1\n1", "line 3"),
        ("", "no rows"),
    ],
)
def test_bad_rows_are_named(rows: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_trace(f"time_s,power_w\n{rows}", "t")


def test_missing_column_lists_those_present() -> None:
    with pytest.raises(TraceError, match="time_s, volts"):
        parse_trace("time_s,volts\n0,1\n", "t")


def test_unknown_name_has_near_matches() -> None:
    with pytest.raises(TraceError, match="did you mean rf_walk"):
        load_trace("rf_wlak")


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"time_s,power_w\n0,1\n1,2\n" * 100)[:40])
    with pytest.raises(TraceError, match="truncated"):
        load_trace(str(path))


@given(st.binary(max_size=400))
def test_rubbish_is_a_trace_error(data: bytes) -> None:
    try:
        trace = parse_trace(data.decode("latin-1"), "t")
    except TraceError:
        return
    assert trace.time_s.size


@given(st.text("0123456789.,-e\nnaif#time_spowr", max_size=200))
def test_rubbish_behind_a_header(text: str) -> None:
    try:
        trace = parse_trace("time_s,power_w\n" + text, "t")
    except TraceError:
        return
    assert (trace.value >= 0).all()


def test_bundled_traces_are_synthetic_and_load() -> None:
    for name in ("rf_walk", "office_light", "sun_june"):
        assert name in known_traces()
        assert load_trace(name).synthetic


@pytest.mark.parametrize(
    ("name", "make"),
    [("rf_walk", rf_trace), ("office_light", indoor_light_trace), ("sun_june", solar_trace)],
)
def test_generators_reproduce_the_bundled_traces(name: str, make, tmp_path: Path) -> None:
    again = load_trace(str(write_trace(make(np.random.default_rng(7)), tmp_path / f"{name}.csv.gz")))
    np.testing.assert_allclose(again.value, load_trace(name).value, rtol=1e-3, atol=1e-9)


def test_rf_states_dwell_as_asked() -> None:
    t = rf_trace(np.random.default_rng(0), duration_s=2000, fading=1e-9, good_s=2.0, bad_s=1.0)
    good = t.value > 5e-4
    assert good.mean() == pytest.approx(2 / 3, abs=0.05)
    runs = np.diff(np.flatnonzero(np.diff(good.astype(int)))) * 0.01
    assert runs.mean() == pytest.approx(1.5, rel=0.1)


def test_recorded_traces_load(data_dir: Path) -> None:
    for path in sorted((data_dir / "harvest").glob("*.csv.gz")):
        assert load_trace(str(path)).mean > 0
