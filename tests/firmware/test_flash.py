"""Flash with wait states: more cycles, same answers, and counts that can be checked by hand."""

from importlib.resources import files
from pathlib import Path

import numpy as np

from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.machine import STM32L4_FLASH, FlashModel, Machine
from jouleflow.flow import prepare

DEMO = Path(str(files("jouleflow") / "demo"))


def test_stalls_add_to_cycles_and_change_nothing_else() -> None:
    p = prepare(DEMO / "digits_int8.onnx", "stm32l4r5", "rf_walk", capacitance_f=470e-6)
    firmware = build_firmware(p.lowered, p.plan, p.device)
    inputs = np.load(DEMO / "digits_test.npz")["inputs"][:2]
    machines = {}
    for name, flash in (
        ("none", None),
        ("free", FlashModel(0, 32, 32, 8)),
        ("l4", STM32L4_FLASH),
        ("slow", FlashModel(10, 32, 32, 8)),
    ):
        machines[name] = machine = Machine(firmware, inputs, flash=flash)
        machine.power_on()
        machine.run()
    assert machines["none"].m.cycles == machines["free"].m.cycles
    stalls = machines["l4"].m.flash_stalls
    assert stalls > 0
    assert machines["l4"].m.cycles == machines["none"].m.cycles + stalls
    assert machines["slow"].m.flash_stalls == 2 * stalls  # the same misses, twice the price
    for machine in machines.values():
        np.testing.assert_array_equal(machine.answers, machines["none"].answers)
        assert machine.m.instructions == machines["none"].m.instructions


def test_a_larger_cache_stalls_less() -> None:
    p = prepare(DEMO / "digits_int8.onnx", "stm32l4r5", "rf_walk", capacitance_f=470e-6)
    firmware = build_firmware(p.lowered, p.plan, p.device)
    inputs = np.load(DEMO / "digits_test.npz")["inputs"][:1]
    stalls = []
    for lines in (1, 8, 64):
        machine = Machine(firmware, inputs, flash=FlashModel(5, 32, lines, lines))
        machine.power_on()
        machine.run()
        stalls.append(machine.m.flash_stalls)
    assert stalls[0] > stalls[1] > stalls[2]
