"""What is counted, that it adds up, and that the dashboard and the rules name only metrics that exist."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from jouleflow.load.run import Load, run_load
from jouleflow.serve.latency import BOUNDS_S, MANY, MAX_CHUNKS, LatencyCounts
from jouleflow.serve.metrics import cluster_exposition
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples" / "monitoring"
NAME = re.compile(r"\bjouleflow_[a-z_]+")
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [0.0] * 8}]}


def scraped(server: Running) -> dict[str, Any]:
    """Families by name, of a strict parser of OpenMetrics."""
    text = server.ask("GET", "/metrics")[2].decode()
    assert text.endswith("# EOF\n")
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Any], family: str, sample: str = "", **labels: str) -> float:
    found = [
        s.value
        for s in families[family].samples
        if s.name == (sample or f"{family}_total") and labels.items() <= s.labels.items()
    ]
    assert len(found) == 1, (family, labels, found)
    return float(found[0])


def test_latencies_are_counted_in_bulk_and_none_is_lost() -> None:
    random = np.random.default_rng(0)
    all_s = random.exponential(0.05, 3 * MANY + 7)
    latencies = LatencyCounts(slo_s=0.05)
    for k, each_s in enumerate(all_s.tolist()):
        latencies.recent_s.append(each_s)
        if len(latencies.recent_s) >= MANY:
            latencies.count()
        if k == MANY:
            assert len(latencies.take()) == MANY + 1
    assert len(latencies.take()) == 2 * MANY + 6
    assert len(latencies.take()) == 0
    assert latencies.n_in_time == (all_s <= 0.05).sum()
    assert latencies.sum_s == pytest.approx(all_s.sum())
    below = np.cumsum(latencies.n_by_bound)
    assert [int(n) for n in below[:-1]] == [(all_s <= bound).sum() for bound in BOUNDS_S]
    assert below[-1] == len(all_s)


def test_what_nobody_takes_does_not_grow() -> None:
    latencies = LatencyCounts(slo_s=0.0)
    for _ in range(3 * MAX_CHUNKS):
        latencies.recent_s += [0.001] * MANY
        latencies.count()
    assert latencies.n_in_time == 3 * MAX_CHUNKS * MANY
    assert len(latencies.take()) == MAX_CHUNKS * MANY


def test_the_exposition_conforms_and_adds_up(tmp_path: Path) -> None:
    affine(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text("slo_ms = 5000\n")
    affine(tmp_path / "other.onnx")
    with serving(tmp_path) as server:
        run_load(Load(f"http://127.0.0.1:{server.port}", "double", None, 4, 0.3))
        server.ask("POST", "/v2/models/double/infer", ASK)
        families = scraped(server)
        stats = json.loads(server.ask("GET", "/v2/models/double/stats")[2])["model_stats"][0]
        done = stats["jouleflow"]["completed"]
        assert done > 10
        at = {"model": "double", "version": "1"}
        assert value(families, "jouleflow_requests", end="completed", **at) == done
        assert value(families, "jouleflow_requests_in_time", **at) == done
        latency = "jouleflow_latency_seconds"
        assert value(families, latency, f"{latency}_bucket", le="+Inf", **at) == done
        sum_s = value(families, latency, f"{latency}_sum", **at)
        assert stats["inference_stats"]["success"]["ns"] == pytest.approx(sum_s * 1e9, rel=1e-6)
        spent = {k: v["ns"] for k, v in stats["inference_stats"].items()}
        assert spent["queue"] + spent["compute_infer"] == pytest.approx(spent["success"], rel=1e-6)
        assert abs(stats["last_inference"] - time.time() * 1e3) < 60_000
        assert value(families, "jouleflow_slo_seconds", "jouleflow_slo_seconds", **at) == 5.0
        assert value(families, "jouleflow_model_deaths", model="double") == 0
        assert value(families, "jouleflow_requests_in_time", model="other") == 0
        energy = families["jouleflow_energy_joules"]
        assert [s.labels["provenance"] for s in energy.samples] == [server.app.history.meter.provenance]
        assert energy.unit == "joules"
        before = energy.samples[0].value
        run_load(Load(f"http://127.0.0.1:{server.port}", "double", None, 4, 0.5))
        assert scraped(server)["jouleflow_energy_joules"].samples[0].value > before


def test_counts_go_on_after_a_death(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        server.ask("POST", "/v2/models/double/infer", ASK)
        os.kill(server.inside(lambda: server.app.server.models["double"].process.pid), signal.SIGKILL)
        until = time.monotonic() + 30
        while server.ask("POST", "/v2/models/double/infer", ASK)[0] != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        families = scraped(server)
        assert value(families, "jouleflow_model_deaths", model="double") == 1
        assert value(families, "jouleflow_rows", model="double") == 4
        assert value(families, "jouleflow_latency_seconds", "jouleflow_latency_seconds_count", model="double") == 2


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of all samples of a real exposition."""
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    with serving(folder) as server:
        return {sample.name for family in scraped(server).values() for sample in family.samples}


def dashboard() -> dict[str, Any]:
    return json.loads((MONITORING / "grafana_dashboard.json").read_text())


def test_the_dashboard_names_metrics_that_exist(names: set[str]) -> None:
    text = json.dumps(dashboard())
    used = set(NAME.findall(text))
    assert used <= names, used - names
    for metric in ("requests", "requests_in_time", "rows", "batches", "energy_joules", "model_deaths"):
        assert f"jouleflow_{metric}_total" in used


def test_the_dashboard_can_be_loaded() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 36
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    ids = [p["id"] for p in board["panels"]]
    assert len(set(ids)) == len(ids) >= 12
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(0 <= x < 24 for x, _ in cells)
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            expression = target["expr"]
            assert target["datasource"]["uid"] == "${datasource}"
            assert [expression.count(b) for b in "([{"] == [expression.count(b) for b in ")]}"]
            assert set(re.findall(r"\$(\w+)", expression)) <= {*variables, "__rate_interval"}


def test_rules_and_scrape_configuration(names: set[str]) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert scrape["scrape_configs"][0]["metrics_path"] == "/metrics"
    for file in scrape["rule_files"]:
        for rule in yaml.safe_load((MONITORING / file).read_text())["groups"][0]["rules"]:
            assert rule["record"].startswith("nv_")
            assert set(NAME.findall(rule["expr"])) <= names, rule


def of_a_cluster() -> set[str]:
    front = {"retried": 0, "flying": 0, "running": 0}
    text = cluster_exposition(front, {200: 1}, []).decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_the_page_of_metrics_has_all_of_them(names: set[str]) -> None:
    names = names | of_a_cluster()
    text = (ROOT / "docs" / "metrics.md").read_text()
    told = set(NAME.findall(text))
    plain = {re.sub("(?<=latency_seconds)_(bucket|sum|count)$", "", name) for name in names}
    assert plain <= told, plain - told
    assert {re.sub("(?<=latency_seconds)_(bucket|sum|count)$", "", name) for name in told} <= plain
