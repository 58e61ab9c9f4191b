"""`Profile` by emulation: the draft firmware runs once on continuous power, and every tile is measured."""

from __future__ import annotations

import numpy as np

from jouleflow.device.device import Device
from jouleflow.errors import EmulationError
from jouleflow.firmware.build import build_firmware
from jouleflow.firmware.machine import PHASES, STOP_DONE, Machine
from jouleflow.plan.lowering import Lowered, tiles_of
from jouleflow.plan.plan import Plan
from jouleflow.profile.profile import Profile, StepProfile, costs_at_store


def profile_by_emulation(lowered: Lowered, draft: Plan, device: Device) -> Profile:
    """Instructions, cycles, time, energy and NVM bytes of every tile of a draft plan, on a fixed input.

    Costs do not depend on the values of the input, but for a few clamps.
    """
    firmware = build_firmware(lowered, draft, device)
    n_tiles = [
        int(np.prod(tiles_of(op, s.tile.rows, s.tile.cols, s.tile.channels)))
        for op, s in zip(lowered.ops, draft.steps, strict=True)
    ]
    inputs = np.random.default_rng(0).integers(-128, 128, (1, lowered.buffer_bytes[0])).astype(np.int8)
    machine = Machine(firmware, inputs, max_events=sum(n_tiles) + 1000)
    machine.power_on()
    if machine.run() != STOP_DONE:
        raise EmulationError("the firmware did not finish an inference on continuous power")
    events = machine.events[: machine.m.n_events]
    tiles = events[events["kind"] == PHASES.index("tile")]
    recover = events[events["kind"] == PHASES.index("recover")][0]
    start = events[events["kind"] == PHASES.index("idle")][0]
    start_up = events[events["kind"] == PHASES.index("boot")][0]  # from reset to the engine: statics zeroed
    start_up_s = float(start_up["cycles"]) / device.points[0].clock_hz("cpu")
    steps = []
    for k, n in enumerate(n_tiles):
        rows = tiles[tiles["op"] == k]
        if len(rows) != n:
            raise EmulationError(f"step {k} ran {len(rows)} tiles instead of {n}")
        steps.append(
            StepProfile(
                rows["instructions"].astype(np.int64),
                rows["cycles"].astype(np.int64),
                rows["duration_s"].copy(),
                rows["energy_j"].copy(),
                rows["read"].astype(np.int64),
                rows["write"].astype(np.int64),
            )
        )
    recover_s = float(recover["duration_s"]) + start_up_s
    recover_j = float(recover["energy_j"]) + start_up_s * costs_at_store(device).active_w
    start_s, start_j = float(start["duration_s"]), float(start["energy_j"])
    return Profile(device.name, tuple(steps), recover_s, recover_j, start_s, start_j, "emulated")
