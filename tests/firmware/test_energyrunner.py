"""The EnergyRunner protocol, spoken over an emulated serial line by the real firmware."""

import re
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.firmware.build import build_firmware, c_dir
from jouleflow.firmware.export import energyrunner_header, export_firmware
from jouleflow.firmware.machine import Machine
from jouleflow.flow import Prepared, prepare
from jouleflow.graph.reference import run_reference

DEMO = Path(str(files("jouleflow") / "demo"))
INPUT = np.load(DEMO / "digits_test.npz")["inputs"][:1]


@pytest.fixture(scope="module")
def demo() -> Prepared:
    return prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=470e-6)


@pytest.fixture(scope="module")
def machine(demo: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    c = tmp_path_factory.mktemp("c") / "c"
    shutil.copytree(c_dir(), c)
    (c / "port" / "energyrunner_model.h").write_text(energyrunner_header(demo.lowered, "ic01"))
    return Machine(build_firmware(demo.lowered, demo.plan, demo.device, c, "energyrunner"), INPUT)


def said(machine: Machine, text: str) -> list[str]:
    machine.nvm[:] = 0xFF
    machine.power_on()
    return machine.talk(text.encode()).decode().split("\r\n")[:-1]


def load(data: bytes) -> str:
    hexes = data.hex()
    return f"db load {len(data)}%" + "".join(f"db {hexes[i : i + 64]}%" for i in range(0, len(hexes), 64))


def test_hello(machine: Machine) -> None:
    lines = said(machine, "name%profile%\r\ntimestamp%")
    assert lines[:7] == [
        "m-init-done", "m-ready", "m-name-dut-[jouleflow]", "m-ready", "m-profile-[ULPMark for tinyML Firmware V0.0.1]",
        "m-model-[ic01]", "m-ready",
    ]  # fmt: skip
    assert re.fullmatch(r"m-lap-us-\d+", lines[7])
    assert lines[8:] == ["m-ready"]


def test_inference(machine: Machine, demo: Prepared) -> None:
    pixels = (INPUT.astype(np.int16).ravel() + 128).astype(np.uint8).tobytes()
    lines = said(machine, load(pixels) + "infer 3 2%results%")
    assert f"m-[Expecting {len(pixels)} bytes]" in lines
    assert "m-load-done" in lines
    start = lines.index("m-warmup-start-2")
    assert lines[start + 1 : start + 3] == ["m-warmup-done", "m-infer-start-3"]
    times = [int(line.removeprefix("m-lap-us-")) for line in lines if line.startswith("m-lap-us-")]
    one_us = demo.profile.latency_s * 1e6
    assert len(times) == 2
    assert times[1] - times[0] == pytest.approx(3 * one_us, rel=0.1)
    results = [line for line in lines if line.startswith("m-results-")]
    assert len(results) == 2  # after the inferences, and asked for
    assert results[0] == results[1]
    model = demo.lowered.model
    q = model.tensors[model.outputs[0]].quantisation
    real = (run_reference(model, INPUT).ravel().astype(int) - int(q.zero_point[0])) * float(q.scale[0])
    got = [float(x) for x in re.findall(r"-?\d+\.\d+", results[0])]
    np.testing.assert_allclose(got, real, atol=6e-4)
    assert lines[-1] == "m-ready"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("nonsense%", "e-[Unknown command: nonsense]"),
        ("infer 0%", "e-[Inference iterations must be >0]"),
        ("infer 1%", "e-[Load an input first]"),
        ("db load 7%", "e-[This model takes 64 bytes]"),
        ("db zz%", "e-[Command 'db' takes pairs"),
        ("db 00%", "e-[Command 'db' takes pairs"),
        ("x" * 500 + "%", "e-[Unknown command: x"),
        ("%", "e-[Unknown command: ]"),
    ],
)
def test_misuse_is_told_and_the_line_lives_on(machine: Machine, command: str, answer: str) -> None:
    lines = said(machine, command + "name%")
    size = machine.firmware.lowered.buffer_bytes[0]
    assert any(line.startswith(answer.replace("64", str(size))) for line in lines), lines
    assert lines[-2:] == ["m-name-dut-[jouleflow]", "m-ready"]


def test_export(demo: Prepared, tmp_path: Path) -> None:
    firmware = build_firmware(demo.lowered, demo.plan, demo.device)
    export_firmware(firmware, demo.profile, tmp_path, "kws01")
    assert '"kws01"' in (tmp_path / "port" / "energyrunner_model.h").read_text()
    assert "port/energyrunner.c" in (tmp_path / "CMakeLists.txt").read_text()
    with pytest.raises(InputError, match="--benchmark"):
        export_firmware(firmware, demo.profile, tmp_path, "ad01")
