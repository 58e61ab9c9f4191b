"""The load generator measures what it says: rates, percentiles, and a server that is not there."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from jouleflow.cli.main import app
from jouleflow.errors import InputError
from jouleflow.load.answers import Answers
from jouleflow.load.client import infer_request, open_loop
from jouleflow.load.report import NOT_TOLD, load_report, report_lines
from jouleflow.load.run import Load, run_load
from jouleflow.load.told import Counted, Energy, Told, between, energy_of_all, read_told
from jouleflow.serve.limits import Limits
from jouleflow.serve.settings import ServerSettings
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


def test_a_recorded_file_is_replayed_at_its_own_rate_or_at_another(tmp_path: Path) -> None:
    """40 requests in 0.4 s, one after another two seconds later."""
    affine(tmp_path / "models" / "double" / "model.onnx")
    recorded = tmp_path / "recorded.csv"
    recorded.write_text("time_s\n" + "".join(f"{7 + 0.01 * k}\n" for k in range(40)) + "9.39\n")
    with serving(tmp_path / "models") as server:
        arguments = ["load", f"http://127.0.0.1:{server.port}", "double", "--arrivals", str(recorded), "--json"]
        for more, n in (((), 41), (("--duration", "0.2s"), 20), (("--duration", "0.2s", "--rate", "171.5"), 40)):
            done = CliRunner().invoke(app, [*arguments, *more])
            assert done.exit_code == 0, (done.output, done.exception)
            assert json.loads(done.stdout)["requests"] == n


@pytest.mark.parametrize("kind", ["poisson", "steady"])
def test_arrivals_that_are_made_up_need_a_rate(kind: str) -> None:
    done = CliRunner().invoke(app, ["load", "http://127.0.0.1:1", "double", "--arrivals", kind])
    assert isinstance(done.exception, InputError)
    assert f"--arrivals {kind} needs --rate" in str(done.exception)
    assert CliRunner().invoke(app, ["load", "http://127.0.0.1:1", "double", "--rate", "-1"]).exit_code == 2


def test_inputs_in_shared_memory(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    before = set(Path("/dev/shm").iterdir())
    with serving(tmp_path, ServerSettings(shared_memory=True)) as server:
        url = f"http://127.0.0.1:{server.port}"
        answers = run_load(Load(url, "double", np.linspace(0, 0.3, 50), rows=3, shared_memory=True))
        assert answers.status == [200] * 50
        done = CliRunner().invoke(app, ["load", url, "double", "--duration", "0.3s", "--shared-memory", "--json"])
        assert done.exit_code == 0, done.output
        assert set(json.loads(done.output)["statuses"]) == {"200"}
        assert server.ask("GET", "/v2/systemsharedmemory/status")[2] == b"[]"
    with serving(tmp_path) as server, pytest.raises(InputError, match="start it with --shared-memory"):
        run_load(Load(f"http://127.0.0.1:{server.port}", "double", None, shared_memory=True))
    assert not [p for p in set(Path("/dev/shm").iterdir()) - before if "jouleflow_load" in p.name]


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
    summary = answers.summary(slo_s=0.1, rows=4)
    assert summary["infer_per_s"] == 6.0
    assert summary["requests_per_s"] == 1.5
    assert summary["latency_mean_s"] == pytest.approx(0.23 / 3)
    assert summary["goodput_per_s"] == 1.0
    assert summary["slo_attained_frac"] == 0.5
    assert summary["rejection_p50_s"] == 0.001


def test_what_the_server_counted_meanwhile() -> None:
    before = Told(Counted(10, 20, 5, 1.0, 2.0, {"completed": 10, "rejected": 1}), Energy(5.0, "modelled", "a guess"))
    after = Told(Counted(14, 28, 7, 1.2, 3.0, {"completed": 14, "rejected": 3}), Energy(7.0, "modelled", "a guess"))
    done = between(before, after, 0.5)
    assert done["server"] == {
        "answered": 4,
        "queue_mean_s": pytest.approx(0.05),
        "compute_mean_s": pytest.approx(0.25),
        "network_and_client_mean_s": pytest.approx(0.2),
        "rows_per_batch": 4.0,
        "ends": {"completed": 4, "rejected": 2},
    }
    energy = {"energy_j": 2.0, "j_per_request": 0.5, "j_per_inference": 0.25}
    assert done["energy"] == {"provenance": "modelled", "source": "a guess", **energy}
    assert between(after, before, 0.5) == {"server": None, "energy": None}, "it was started again"
    nothing = between(before, before, None)
    assert nothing["server"]["queue_mean_s"] is nothing["energy"]["j_per_request"] is None


@pytest.mark.parametrize("provenance", ["measured", "modelled"])
def test_energy_of_a_request_is_all_that_was_spent_over_all_that_completed(provenance: str) -> None:
    def live(energy_j: float, *completed: int) -> dict[str, Any]:
        models = {str(k): {"totals": {"completed": n, "rejected": 9}} for k, n in enumerate(completed)}
        return {"meter": {"provenance": provenance, "source": "a guess"}, "energy_j": energy_j, "models": models}

    found = energy_of_all(live(3.0, 10, 5), live(8.0, 12, 13))
    assert found == {
        "provenance": provenance,
        "source": "a guess",
        "n_completed": 10,
        f"energy_j_{provenance}": 5.0,
        f"j_per_request_{provenance}": 0.5,
    }
    assert energy_of_all(live(3.0, 10), live(8.0, 10))[f"j_per_request_{provenance}"] is None


def test_energy_of_a_server_under_load(tmp_path: Path) -> None:
    for name in ("one", "two"):
        affine(tmp_path / name / "model.onnx")
    with serving(tmp_path) as server:
        before = json.loads(server.ask("GET", "/live.json")[2])
        for name, n in (("one", 30), ("two", 20)):
            run_load(Load(f"http://127.0.0.1:{server.port}", name, np.linspace(0, 0.2, n)))
        found = energy_of_all(before, json.loads(server.ask("GET", "/live.json")[2]))
    assert found["n_completed"] == 50
    provenance = server.app.history.meter.provenance
    assert found[f"j_per_request_{provenance}"] == pytest.approx(found[f"energy_j_{provenance}"] / 50)
    assert found[f"energy_j_{provenance}"] > 0


def test_a_server_that_tells_nothing_is_not_guessed_at() -> None:
    told = read_told(lambda path: None, "m")
    assert told == Told(None, None, 0.0)
    summary = Answers([0.0], [0.01], [200], 1.0).summary()
    lines = dict(report_lines({"slo_s": 0.0, **summary, **between(told, told, 0.01)}))
    assert lines["energy"] == lines["of it"] == NOT_TOLD


def test_tritons_statistics_have_no_ends_of_ours() -> None:
    spent = {"success": {"count": 2, "ns": 9}, "queue": {"count": 2, "ns": 10**9}}
    spent |= {stage: {"count": 2, "ns": 10**9} for stage in ("compute_input", "compute_infer", "compute_output")}
    stats = {"model_stats": [{"inference_count": 8, "execution_count": 1, "inference_stats": spent}]}
    told = read_told(lambda path: stats if path.endswith("/stats") else None, "m")
    assert told.counted == Counted(2, 8, 1, 1.0, 3.0, {})


def test_the_report_of_a_load(tmp_path: Path) -> None:
    affine(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text("slo_ms = 10000\n")
    with serving(tmp_path) as server:
        url = f"http://127.0.0.1:{server.port}"
        report = load_report(Load(url, "double", np.linspace(0, 0.5, 100), rows=3))
        told = report["server"]
        assert told["answered"] == told["ends"]["completed"] == report["requests"] == 100
        assert told["rows_per_batch"] >= 3
        assert 0 < told["queue_mean_s"] + told["compute_mean_s"] <= report["latency_mean_s"] * 1.01
        assert report["infer_per_s"] == pytest.approx(3 * report["requests_per_s"])
        assert (report["slo_s"], report["slo_attained_frac"]) == (10.0, 1.0)
        assert report["energy"]["provenance"] == server.app.history.meter.provenance
        assert report["energy"]["j_per_request"] == pytest.approx(3 * report["energy"]["j_per_inference"])
        arguments = ["load", url, "double", "--duration", "0.3s", "--in-flight", "2"]
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 0, shown.output
        for word in ("inferences/s", "within 10 s", "p50", "p90", "p95", "p99", "queue", "compute", "J/request"):
            assert word in shown.output
        assert report["energy"]["provenance"] in shown.output
        recorded = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
        assert recorded["server"]["answered"] > 0
        assert recorded["energy"]["provenance"] == report["energy"]["provenance"]
