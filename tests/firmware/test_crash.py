"""Crash safety of the demo's firmware, the mutations that must be caught, and determinism."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import EmulationError
from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.crash import (
    CrashBench,
    boot_on_foreign_memory,
    cut_everywhere,
    cut_nested,
    flip_nvm_bits,
    flip_weight_bits,
    kill_randomly,
)
from jouleflow.firmware.machine import STOP_DEAD, Machine
from jouleflow.firmware.mutations import MUTATIONS, mutated_c
from jouleflow.flow import Prepared, prepare

DEMO = Path(str(files("jouleflow") / "demo"))


@pytest.fixture(scope="module")
def demo() -> Prepared:
    return prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=60e-6)


@pytest.fixture(scope="module")
def one_input() -> np.ndarray:
    return np.load(DEMO / "digits_test.npz")["inputs"][0]


@pytest.fixture(scope="module")
def bench(demo: Prepared, one_input: np.ndarray) -> CrashBench:
    return CrashBench(build_firmware(demo.lowered, demo.plan, demo.device), one_input)


def test_cuts_everywhere(bench: CrashBench) -> None:
    assert len(bench.golden) > 5000
    result = cut_everywhere(bench, 300)
    assert result.clean, result
    assert bench.hazards == 0


def test_nested_cuts(bench: CrashBench) -> None:
    assert cut_nested(bench, 40).clean


def test_random_kills_make_progress(bench: CrashBench, demo: Prepared) -> None:
    result = kill_randomly(bench, 30, 1.5 * bench.golden.instructions / len(demo.plan.commits))
    assert result.clean, result


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_mutation_is_caught(mutation, demo: Prepared, one_input: np.ndarray, tmp_path: Path) -> None:
    firmware = build_firmware(demo.lowered, demo.plan, demo.device, mutated_c(mutation, tmp_path))
    mutant = CrashBench(firmware, one_input)
    if mutation.name == "missing model hash":
        other = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=80e-6)
        others = CrashBench(build_firmware(other.lowered, other.plan, other.device), one_input)
        passes = boot_on_foreign_memory(mutant, others, 120).clean
    else:
        # torn records are rare among all bytes: look at every byte of the first few commits
        n = 12_000 if mutation.name in ("no checksum", "one slot") else 120
        passes = _until_caught(mutant, n)
    assert not passes


def _until_caught(mutant: CrashBench, n: int) -> bool:
    """Whether the mutant passes; stops at the first mistake. Cuts in progress records come first."""
    records = np.flatnonzero(mutant.golden.offset < 64)
    others = np.linspace(0, len(mutant.golden) - 1, 200).astype(int)
    for _ in range(4):
        for cut in (*others[:n], *records[:n]):
            memory = mutant.memory_after(mutant.blank, mutant.golden, int(cut))
            if mutant.verdict(memory, "random", mutant.golden.n_commits(int(cut))) != "right":
                return False
    return True


def test_foreign_checkpoint_is_not_continued(bench: CrashBench, one_input: np.ndarray) -> None:
    other = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=80e-6)
    others = CrashBench(build_firmware(other.lowered, other.plan, other.device), one_input)
    assert boot_on_foreign_memory(bench, others, 30).clean


@pytest.mark.parametrize("n_bits", [1, 2, 64])
def test_flipped_bits_in_nvm_never_give_a_wrong_answer(bench: CrashBench, n_bits: int) -> None:
    result = flip_nvm_bits(bench, 60, n_bits)
    assert (result.n_wrong, result.n_stuck, result.n_faults) == (0, 0, 0), result
    assert result.n_regressed > 0  # found and begun again: the test reaches the checks


def test_flipped_bits_in_staged_data_are_found(one_input: np.ndarray) -> None:
    tight = prepare(DEMO / "digits_int8.onnx", "riotee", "rf_walk", capacitance_f=100e-6, sram_bytes=3500)
    assert any(p.unit_bytes for p in tight.plan.placements)
    result = flip_nvm_bits(CrashBench(build_firmware(tight.lowered, tight.plan, tight.device), one_input), 100, 1)
    assert (result.n_wrong, result.n_stuck, result.n_faults) == (0, 0, 0), result
    assert result.n_regressed > 0


def test_a_memory_that_keeps_changing_is_told(demo: Prepared, one_input: np.ndarray) -> None:
    machine = Machine(build_firmware(demo.lowered, demo.plan, demo.device), one_input.reshape(1, -1), demo.scenario)

    def wear_out() -> None:
        machine.power_on()
        while machine.run() == STOP_DEAD:
            machine.power_off()
            machine.nvm[64:] ^= 1
            machine.power_on()

    with pytest.raises(EmulationError, match="changed by itself"):
        wear_out()


def test_flipped_weights_are_told(demo: Prepared, one_input: np.ndarray) -> None:
    firmware = build_firmware(demo.lowered, demo.plan, demo.device)
    answered = flip_weight_bits(firmware, one_input, 20, 1)
    assert all(0 <= n < firmware.n_weight_slices for n in answered), answered
