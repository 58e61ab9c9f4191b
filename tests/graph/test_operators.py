"""Each operator, in random quantisations, equals LiteRT bit for bit: the reference, and the firmware."""

from pathlib import Path

import numpy as np
import pytest

from jouleflow.device.load import load_system
from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.machine import STOP_DONE, Machine
from jouleflow.graph.load import load_model
from jouleflow.graph.reference import run_reference
from jouleflow.plan.lowering import lower
from jouleflow.plan.planner import draft_plan
from tests.graph.one_op_tflite import MODELS, Maker
from tests.graph.test_reference import run_litert


@pytest.mark.parametrize("name", MODELS)
def test_operator_equals_litert(name: str, tmp_path: Path) -> None:
    device = load_system("riotee").device
    for seed in range(4):
        path = tmp_path / f"{seed}.tflite"
        path.write_bytes(MODELS[name](Maker(np.random.default_rng(seed))))
        model = load_model(path)
        shape = model.tensors[model.inputs[0]].shape[1:]
        inputs = np.random.default_rng(seed).integers(-128, 128, (40, *shape)).astype(np.int8)
        inputs[0], inputs[1] = -128, 127
        expected = run_litert(path, inputs)
        np.testing.assert_array_equal(
            run_reference(model, inputs).reshape(40, -1), expected, err_msg=f"reference, seed {seed}"
        )
        if seed == 0:
            lowered = lower(model)
            machine = Machine(build_firmware(lowered, draft_plan(lowered, device).plan, device), inputs)
            machine.power_on()
            assert machine.run() == STOP_DONE
            np.testing.assert_array_equal(machine.answers, expected, err_msg="firmware")
