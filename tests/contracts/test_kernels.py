"""Every kernel equals the NumPy reference bit for bit: on a core with DSP and on one without, resident and staged, and
after a power cut at every commit."""

import numpy as np
import pytest

from jouleflow.device.load import load_system
from jouleflow.errors import Infeasible
from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.crash import CrashBench, cut_everywhere
from jouleflow.firmware.machine import STOP_DONE, Machine
from jouleflow.firmware.profiling import profile_by_emulation
from jouleflow.graph.reference import run_reference
from jouleflow.plan.lowering import lower
from jouleflow.plan.memory import STACK_BYTES, static_bytes
from jouleflow.plan.planner import draft_plan, finish_plan
from jouleflow.trace.load import load_trace
from tests.contracts.networks import NETWORKS


def least_sram(lowered, device) -> int:
    with pytest.raises(Infeasible) as caught:
        draft_plan(lowered, device, STACK_BYTES + static_bytes(len(lowered.buffer_bytes)) + 4)
    return int(caught.value.nearest.removeprefix("--sram ").removesuffix("B"))


@pytest.mark.parametrize("board", ["riotee", "stm32l072"])
@pytest.mark.parametrize("staged", [False, True], ids=["resident", "staged"])
@pytest.mark.parametrize("name", NETWORKS)
def test_kernel_equals_the_reference(name: str, staged: bool, board: str) -> None:
    lowered, device = lower(NETWORKS[name]()), load_system(board).device
    budget = least_sram(lowered, device) if staged else None
    plan = draft_plan(lowered, device, budget).plan
    # a mean needs its whole input at once; the average net's least budget is that of its softmax
    if staged and name not in ("mean", "global average, dense, softmax"):
        assert any(p.sram_offset is None for p in plan.placements)
    inputs = np.random.default_rng(3).integers(-128, 128, (4, lowered.buffer_bytes[0])).astype(np.int8)
    machine = Machine(build_firmware(lowered, plan, device), inputs, checks=True)
    machine.power_on()
    painted = machine.sram.tobytes()
    assert machine.run() == STOP_DONE
    assert machine.peak_stack_bytes(painted) <= STACK_BYTES - 32
    np.testing.assert_array_equal(machine.answers, run_reference(lowered.model, inputs).reshape(4, -1))
    assert machine.m.n_hazards == 0


@pytest.mark.parametrize("name", ["residual add", "concat channels", "pad"])
def test_survives_a_cut_at_every_byte(name: str) -> None:
    lowered = lower(NETWORKS[name]())
    device = load_system("riotee").device.with_capacitance(20e-6)
    draft = draft_plan(lowered, device, least_sram(lowered, device) + 200)
    plan = finish_plan(lowered, draft, profile_by_emulation(lowered, draft.plan, device), device, load_trace("rf_walk"))
    inputs = np.random.default_rng(3).integers(-128, 128, lowered.buffer_bytes[0]).astype(np.int8)
    bench = CrashBench(build_firmware(lowered, plan, device), inputs)
    result = cut_everywhere(bench, 400)
    assert result.clean, result
    assert bench.hazards == 0
