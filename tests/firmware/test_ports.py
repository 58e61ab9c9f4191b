"""The ports of real boards, on emulated peripherals (SPI masters with a FRAM, an MRAM): same answers, same safety."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jouleflow.firmware.build import PORTS, build_firmware
from jouleflow.firmware.crash import CrashBench, cut_everywhere
from jouleflow.firmware.machine import STOP_DEAD, STOP_DONE, Machine
from jouleflow.flow import Prepared, prepare

DEMO = Path(str(files("jouleflow") / "demo"))
INPUTS = np.load(DEMO / "digits_test.npz")["inputs"]
CAPACITANCE_F = {"riotee": 60e-6, "stm32l4r5": 100e-6, "stm32u575": 100e-6, "stm32l072": 80e-6, "apollo4": 25e-6}
BOARDS = [port for port in PORTS if port in CAPACITANCE_F]


@pytest.fixture(scope="module", params=BOARDS)
def demo(request: pytest.FixtureRequest) -> Prepared:
    board = request.param
    return prepare(DEMO / "digits_int8.onnx", board, "rf_walk", capacitance_f=CAPACITANCE_F[board])


def test_every_board_has_a_port() -> None:
    assert set(PORTS) >= set(CAPACITANCE_F)
    assert set(PORTS) - set(CAPACITANCE_F) == {"emulator", "energyrunner"}


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
    np.testing.assert_array_equal(answers(demo, demo.device.name), answers(demo, "emulator"))


@pytest.mark.slow
def test_cuts_everywhere(demo: Prepared) -> None:
    bench = CrashBench(build_firmware(demo.lowered, demo.plan, demo.device, port=demo.device.name), INPUTS[0])
    result = cut_everywhere(bench, 150)
    assert result.clean, result
