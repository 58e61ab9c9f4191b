"""Arrivals: rates, shapes, and files that are refused with a reason."""

from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import TraceError
from jouleflow.trace.arrivals import KINDS, load_arrivals, make_arrivals


@pytest.mark.parametrize("kind", KINDS)
def test_mean_rate_and_order(kind: str) -> None:
    times = make_arrivals(kind, 50.0, 2000.0, np.random.default_rng(0))
    assert len(times) / 2000 == pytest.approx(50, rel=0.1)
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] <= times[-1] < 2000


def test_the_rate_of_a_short_piece_is_right_in_the_mean() -> None:
    random = np.random.default_rng(0)
    rates = [len(make_arrivals("bursty", 100.0, 2.0, random)) / 2.0 for _ in range(2000)]
    assert np.mean(rates) == pytest.approx(100, rel=0.04)
    assert np.mean(np.array(rates) > 200) == pytest.approx(0.2, abs=0.1)  # those that began in a burst


def test_a_day_may_begin_anywhere() -> None:
    def share_in_first_tenth(phase_frac: float) -> float:
        times = make_arrivals("diurnal", 200.0, 100.0, np.random.default_rng(0), phase_frac)
        assert len(times) / 100 == pytest.approx(200, rel=0.05)
        return float((times < 10).mean())

    assert share_in_first_tenth(0.0) < 0.03
    assert share_in_first_tenth(0.45) > 0.17


def test_bursts_are_burstier_than_poisson() -> None:
    def dispersion(kind: str) -> float:
        counts = np.histogram(make_arrivals(kind, 50.0, 1000.0, np.random.default_rng(1)), np.arange(0, 1001))[0]
        return float(counts.var() / counts.mean())

    assert dispersion("poisson") == pytest.approx(1, abs=0.2)
    assert dispersion("bursty") > 5
    assert dispersion("diurnal") > 2


def test_recorded_times_and_counts(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "times.csv").write_text("# source: us\ntime_s,who\n10,a\n11,b\n13,c\n")
    np.testing.assert_array_equal(load_arrivals(tmp_path / "times.csv", random), [0, 1, 3])
    (tmp_path / "counts.csv").write_text("time_s,requests\n0,3\n60,0\n120,5\n")
    times = load_arrivals(tmp_path / "counts.csv", random)
    assert len(times) == 8
    faster = load_arrivals(tmp_path / "counts.csv", random, rate_hz=100.0)
    assert len(faster) / faster[-1] == pytest.approx(100, rel=1e-6)
    assert (load_arrivals(tmp_path / "counts.csv", random, rate_hz=1.0, duration_s=2.0) < 2).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when\n1\n", "time_s is missing"),
        ("time_s\n1\n", "at least 2 rows"),
        ("time_s\n2\n1\n", "must rise"),
        ("time_s\nnan\n1\n", "must rise"),
        ("time_s\nx\n1\n", "not a table"),
        ("time_s,requests\n0,-1\n1,1\n", "must rise"),
        ("time_s,requests\n0,1e12\n1,1\n", "at most"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(TraceError, match=message):
        load_arrivals(tmp_path / "a.csv", np.random.default_rng(0))


def test_misuse() -> None:
    with pytest.raises(TraceError, match="poisson"):
        make_arrivals("poison", 1.0, 1.0, np.random.default_rng(0))
    with pytest.raises(TraceError, match="more than 0"):
        make_arrivals("poisson", -1.0, 1.0, np.random.default_rng(0))
