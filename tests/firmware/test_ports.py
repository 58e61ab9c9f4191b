"""The nRF52833 port, on an emulated SPI master with DMA and a FRAM behind it: same answers, same safety."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.crash import CrashBench, cut_everywhere
from jouleflow.firmware.machine import STOP_DEAD, STOP_DONE, Machine
from jouleflow.flow import Prepared, prepare

DEMO = Path(str(files("jouleflow") / "demo"))
INPUTS = np.load(DEMO / "digits_test.npz")["inputs"]


@pytest.fixture(scope="module")
def demo() -> Prepared:
    return prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=60e-6)


def answers(demo: Prepared, port: str) -> np.ndarray:
    machine = Machine(build_firmware(demo.lowered, demo.plan, demo.device, port=port), INPUTS[:5], demo.scenario)
    while machine.m.n_answers < 5:
        assert machine.powered or machine.power_on()
        reason = machine.run()
        if reason == STOP_DEAD:
            machine.power_off()
        assert reason in (STOP_DEAD, STOP_DONE)
    assert machine.m.n_failures > 5
    return machine.answers.copy()


def test_same_answers_as_the_emulators_port(demo: Prepared) -> None:
    np.testing.assert_array_equal(answers(demo, "nrf52833"), answers(demo, "emulator"))


def test_cuts_everywhere(demo: Prepared) -> None:
    bench = CrashBench(build_firmware(demo.lowered, demo.plan, demo.device, port="nrf52833"), INPUTS[0])
    result = cut_everywhere(bench, 150)
    assert result.clean, result
