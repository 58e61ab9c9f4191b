"""The commands as a user runs them: output, exit codes, one clear line for every misuse."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

MODEL = str(files("jouleflow") / "demo" / "digits_int8.onnx")


def jouleflow(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from jouleflow.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


def test_run_prints_what_machines_need(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((3, 16, 16, 1), np.float32))
    done = jouleflow(
        "run",
        MODEL,
        "--input",
        tmp_path / "x.npz",
        "--capacitor",
        "100uF",
        "--deadline",
        "10s",
        "--out",
        tmp_path / "o",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outputs_match_reference"] is True
    assert found["n_inferences"] == 3
    assert found["deadline_misses"] == 0
    assert (tmp_path / "o" / "report.html").exists()
    again = jouleflow("report", tmp_path / "o", "-o", tmp_path / "page.html", "--json")
    assert again.returncode == 0
    assert (tmp_path / "page.html").exists()


def test_simulate_a_day(tmp_path: Path) -> None:
    done = jouleflow("simulate", MODEL, "--harvest", "office_light", "-n", 200, "--out", tmp_path / "o", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provenance"] == "modelled"


def test_plan_and_build(tmp_path: Path) -> None:
    plan = jouleflow("plan", MODEL, "--sram", "8kB", "--json")
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["plan"]["sram_budget_bytes"] == 8192
    done = jouleflow("build", MODEL, "--output", tmp_path / "fw", "--json")
    assert done.returncode == 0, done.stderr
    for name in ("firmware.elf", "tables.c", "CMakeLists.txt", "firmware.map", "layers.csv"):
        assert (tmp_path / "fw" / name).stat().st_size > 0
    assert "depthwise/Conv" not in (tmp_path / "fw" / "tables.c").read_text()  # no string of the model in generated C


@pytest.mark.parametrize("command", ["doctor", "devices", "traces"])
def test_listings(command: str) -> None:
    done = jouleflow(command, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) > 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "absent.onnx"), 2, "absent.onnx"),
        (("run", MODEL, "--system", "rioti"), 2, "did you mean riotee"),
        (("run", MODEL, "--harvest", "rf_wlak"), 2, "did you mean rf_walk"),
        (("run", MODEL, "--sram", "1kB"), 1, "nearest that works: --sram"),
        (("run", MODEL, "--capacitor", "1uF"), 1, "capacitor"),
        (("run", MODEL, "--capacitor", "lots"), 2, "470uF"),
        (("run", MODEL, "--sram", "900kB"), 2, "exceeds"),
        (("run", MODEL, "-n", 0), 2, "at least 1"),
        (("run", MODEL, "--planner", "magic"), 2, "unknown planner"),
        (("run", MODEL, "--input", "absent.npz"), 2, "absent.npz"),
        (("report", "nowhere"), 2, "run.json"),
        (("fly",), 2, "No such command"),
    ],
)
def test_misuse_is_one_clear_error(arguments: tuple[object, ...], code: int, message: str, tmp_path: Path) -> None:
    done = jouleflow(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_bad_inputs(tmp_path: Path) -> None:
    cases = {
        "nan": np.full((2, 16, 16, 1), np.nan, np.float32),
        "shape": np.zeros((2, 3), np.int8),
        "type": np.zeros((2, 16, 16, 1), np.int64),
        "object": np.array([{"a": 1}, {"b": 2}], dtype=object),
    }
    for name, value in cases.items():
        np.savez(tmp_path / f"{name}.npz", value)
        done = jouleflow("run", MODEL, "--input", tmp_path / f"{name}.npz", cwd=tmp_path)
        assert done.returncode == 2, (name, done.stderr)
        assert "Traceback" not in done.stderr
    (tmp_path / "rubbish.npz").write_bytes(b"PK\x03\x04 rubbish")
    assert jouleflow("run", MODEL, "--input", tmp_path / "rubbish.npz", cwd=tmp_path).returncode == 2


def test_doctor_names_extras_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from jouleflow.cli import doctor
    from jouleflow.cli.main import app

    monkeypatch.setattr(doctor, "PACKAGES", (("nothing", "surely-absent", "pip 'x[extra]'", False),))
    assert "[extra]" in CliRunner().invoke(app, ["doctor"]).output  # not taken for markup
