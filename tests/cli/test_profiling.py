"""`profile`, then `serve --dry-run` from it; `train` says what it lacks."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

pytest.importorskip("httptools", reason="the serve extra is not installed")
pytest.importorskip("sklearn", reason="the profile extra is not installed")

import jouleflow.cli.main  # noqa: F401  all commands
import jouleflow.load.front as front
import jouleflow.load.light as light
import jouleflow.load.wakes as wakes
import jouleflow.runtime.colocation as colocation
import jouleflow.sim.box as box
from jouleflow.cli.terminal import app
from jouleflow.profile.serving import Cell, ProfiledModel, ServingProfile, load_profile, save_profile
from tests.runtime.models import affine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(colocation, "ALONE_S", 0.01)
    monkeypatch.setattr(colocation, "TOGETHER_S", 0.01)
    monkeypatch.setattr(colocation, "COLD_S", 0.05)
    monkeypatch.setattr(colocation, "MICRO_BATCH_S", 0.1)
    monkeypatch.setattr(wakes, "SECONDS", 0.5)
    monkeypatch.setattr(front, "SECONDS", 0.5)
    monkeypatch.setattr(front, "MIX_SECONDS", 0.5)
    monkeypatch.setattr(light, "SECONDS", 0.2)
    monkeypatch.setattr(box, "MAX_REQUESTS", 4_000)
    for k, name in enumerate(("one", "two")):
        affine(tmp_path / "models" / name / "model.onnx", factor=k)
        (tmp_path / "models" / name / "jouleflow.toml").write_text("slo_ms = 50\nmax_batch = 2\n")
    return tmp_path


def run(folder: Path, *arguments: str) -> dict:
    done = CliRunner().invoke(app, [*arguments, "--profile", str(folder / "p.json"), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_box_is_profiled_and_its_load_foretold(folder: Path) -> None:
    models = str(folder / "models")
    told = run(folder, "profile", models, "--budget", "0.5s", "--cores", "2", "--cache", str(folder / "cache"))
    profile = load_profile(folder / "p.json")
    assert told["cells"] == len(profile.cells) >= 8
    assert all(m.front_s > 0 and m.client_s > 0 for m in profile.models.values())
    assert all(m.cold_spread_s and min(m.cold_spread_s) >= 0 for m in profile.models.values())
    assert all(0 < m.longer_s < 0.1 for m in profile.models.values())
    assert len(profile.wakes.spread_s) == 3  # none, one or both cores busy
    assert all(len(of_busy) == 3 and all(min(s) >= 0 for s in of_busy) for of_busy in profile.wakes.spread_s)
    held = run(folder, "serve", models, "--dry-run", "--mix", "one=3,two=1")["holds"][0]
    assert held["rate_hz"]["one"] == pytest.approx(3 * held["rate_hz"]["two"])
    assert held["rate_hz"]["one"] > 10
    assert min(held["in_time_frac"].values()) >= 0.99


@pytest.mark.slow
def test_a_profile_of_other_files_is_refused(folder: Path) -> None:
    models = folder / "models"
    run(folder, "profile", str(models), "--budget", "1ms", "--cores", "1", "--cache", str(folder / "cache"))
    affine(models / "two" / "model.onnx", factor=9)
    done = CliRunner().invoke(app, ["serve", str(models), "--dry-run", "--profile", str(folder / "p.json")])
    assert "other versions of ['two']" in str(done.exception)


@pytest.mark.slow
def test_a_box_that_holds_nothing_is_infeasible(folder: Path) -> None:
    models = folder / "models"
    run(folder, "profile", str(models), "--budget", "1ms", "--cores", "1", "--cache", str(folder / "cache"))
    (models / "two" / "jouleflow.toml").write_text("slo_ms = 0.0001\nmax_batch = 2\n")
    command = [
        sys.executable,
        "-m",
        "jouleflow",
        "serve",
        str(models),
        "--dry-run",
        "--profile",
        str(folder / "p.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert "infeasible: no load is held under table" in done.stderr
    assert "its SLO is 100 ns: raise slo_ms" in done.stderr


@pytest.mark.slow
def test_a_profile_of_a_model_whose_weights_lie_beside_it(folder: Path) -> None:
    path = folder / "models" / "two" / "model.onnx"
    proto = onnx.load(path)
    weights = onnx.numpy_helper.from_array(np.ones(64, np.float32), "spare")
    proto.graph.initializer.append(weights)
    onnx.save(
        proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location="weights", size_threshold=0
    )
    run(folder, "profile", str(folder / "models"), "--budget", "1ms", "--cores", "1", "--cache", str(folder / "cache"))
    assert run(folder, "serve", str(folder / "models"), "--dry-run")["holds"]
    (path.parent / "weights").write_bytes(bytes((path.parent / "weights").stat().st_size))
    done = CliRunner().invoke(app, ["serve", str(folder / "models"), "--dry-run", "--profile", str(folder / "p.json")])
    assert "other versions of ['two']" in str(done.exception)


def ten_ms_whatever_the_batch(folder: Path, n_cores: int = 1) -> Path:
    """A model, and the profile of a made-up box. Its file's folder."""
    path = affine(folder / "models" / "one" / "model.onnx")
    model = ProfiledModel(
        sha256=sha256(path.read_bytes()).hexdigest(), threads=1, max_batch=8, n_instances=n_cores, slo_s=0.1, priority=5, memory_bytes=1
    )  # fmt: skip
    cells = tuple(
        Cell(models=("one",), rows=(n,), alone_s=(0.010,), slowdown=(1.0,), core_s=0.010, energy_j=0.05) for n in (1, 8)
    )
    profile = ServingProfile(
        machine="made up", n_cores=n_cores, energy="modelled", energy_source="5 W", models={"one": model}, cells=cells
    )  # fmt: skip
    save_profile(profile, folder / "p.json")
    (path.parent / "jouleflow.toml").write_text("slo_ms = 100\nmax_batch = 8\n")
    return path.parent


def test_a_load_is_foretold_as_the_server_would_serve_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "MAX_REQUESTS", 2_000)
    model = ten_ms_whatever_the_batch(tmp_path)

    def held_hz(settings: str) -> float:
        (model / "jouleflow.toml").write_text(f"slo_ms = 100\nmax_batch = 8\n{settings}")
        foretold = run(tmp_path, "serve", str(tmp_path / "models"), "--dry-run", "--policy", "delay")
        return foretold["holds"][0]["rate_hz"]["one"]

    assert held_hz("") > 400
    assert held_hz("preferred_batch = [1]") < 100  # a batch of one row takes the core for 10 ms
    assert held_hz("max_queue = 1") < 200  # and what comes meanwhile is refused


def test_a_load_is_foretold_on_so_many_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "MAX_REQUESTS", 2_000)
    ten_ms_whatever_the_batch(tmp_path, n_cores=2)

    def held_hz(*more: str) -> float:
        return run(tmp_path, "serve", str(tmp_path / "models"), "--dry-run", *more)["holds"][0]["rate_hz"]["one"]

    assert held_hz("--cores", "2") == held_hz() > 1.5 * held_hz("--cores", "1")
    assert "was measured with: run" in refusal(tmp_path, "--cores", "3")


def test_a_load_is_foretold_with_the_net_that_would_serve_it(tmp_path: Path) -> None:
    ten_ms_whatever_the_batch(tmp_path)
    assert "no net" in refusal(tmp_path, "--policy", "bcedge", "--policy-net", str(tmp_path / "absent.onnx"))


def refusal(folder: Path, *more: str) -> str:
    command = ["serve", str(folder / "models"), "--dry-run", "--profile", str(folder / "p.json"), *more]
    return str(CliRunner().invoke(app, command).exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["train", "bcegde"], "cannot train"), (["train", "bcedge", "--log", "absent.jsonl"], "no file|training needs")],
)
def test_misuse(arguments: list[str], message: str) -> None:
    import re

    done = CliRunner().invoke(app, arguments)
    assert re.search(message, str(done.exception))
