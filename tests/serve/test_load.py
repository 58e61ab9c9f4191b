"""The load generator measures what it says: rates, percentiles, and a server that is not there."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jouleflow.cli.main import app
from jouleflow.errors import InputError
from jouleflow.load.client import Answers, infer_request, open_loop
from jouleflow.load.run import Load, run_load
from jouleflow.serve.limits import Limits
from tests.runtime.models import affine
from tests.serve.conftest import serving


def test_open_loop_sends_all_at_the_given_times(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        url = f"http://127.0.0.1:{server.port}"
        times = np.linspace(0, 1.0, 200)
        answers = run_load(Load(url, "double", times))
        assert answers.status == [200] * 200
        assert np.diff(sorted(answers.start_s)).mean() == pytest.approx(1 / 199, rel=1e-3)
        closed = run_load(Load(url, "double", None, n_in_flight=4, duration_s=0.5, rows=3))
        assert set(closed.status) == {200}
        for wrong in (f"{url}/x", "ftp://a", "http://127.0.0.1:1"):
            with pytest.raises(InputError):
                run_load(Load(wrong, "double", times))
        done = CliRunner().invoke(
            app, ["load", url, "double", "--rate", "100", "--duration", "1s", "--slo", "60s", "--json"]
        )
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["slo_attained_frac"] == 1.0


def test_more_connections_than_the_server_takes_are_answers_too(tmp_path: Path) -> None:
    """It says 503 to a connection before anything was sent on it: that is no answer to a request."""
    affine(tmp_path / "double.onnx")
    request = infer_request("double", {"x": np.ones((1, 4), np.float32)})
    with serving(tmp_path, limits=Limits(max_connections=8)) as server:
        answers = asyncio.run(
            asyncio.wait_for(open_loop("127.0.0.1", server.port, [request], np.zeros(200), max_connections=64), 30)
        )
    assert len(answers.status) == 200
    assert set(answers.status) <= {0, 200, 503}
    assert 200 in answers.status


def test_summary_counts_only_answers_in_time_as_good() -> None:
    answers = Answers([0.0] * 4, [0.01, 0.02, 0.2, 0.001], [200, 200, 200, 503], duration_s=2.0)
    summary = answers.summary(slo_s=0.1)
    assert summary["infer_per_s"] == 1.5
    assert summary["goodput_per_s"] == 1.0
    assert summary["slo_attained_frac"] == 0.5
    assert summary["rejection_p50_s"] == 0.001
