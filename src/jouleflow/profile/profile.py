"""`Profile`: what each tile of each step costs, in time, energy and memory traffic, and where the figures are from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jouleflow.device.device import Device
from jouleflow.record.run import Provenance


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One step, uninterrupted. Arrays have one element per tile; commits are not in them."""

    instructions: NDArray[np.int64]
    cycles: NDArray[np.int64]
    latency_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]  # drawn from the store
    nvm_read_bytes: NDArray[np.int64]
    nvm_write_bytes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Profile:
    """A network on a device, step by step.

    recover_s and recover_j: from reset to the first tile with nothing to reload. start_s and start_j: of each inference,
    before its first tile: looking for the input, checking a slice of the weights.
    """

    device: str
    steps: tuple[StepProfile, ...]
    recover_s: float
    recover_j: float
    start_s: float
    start_j: float
    provenance: Provenance

    @property
    def latency_s(self) -> float:
        """Of one uninterrupted inference, without commits."""
        return float(sum(s.latency_s.sum() for s in self.steps))

    @property
    def energy_j(self) -> float:
        """Drawn from the store by one uninterrupted inference, without commits."""
        return float(sum(s.energy_j.sum() for s in self.steps))


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds and joules, at the store, of what a device does beside computing."""

    active_w: float
    wait_w: float
    boot_s: float
    boot_j: float
    setup_s: float
    setup_j: float
    read_s_per_byte: float
    read_j_per_byte: float
    write_s_per_byte: float
    write_j_per_byte: float


def costs_at_store(device: Device) -> Costs:
    """The device's constants as the capacitor sees them: divided by the output converter's efficiency."""
    point, nvm, boost = device.points[0], device.memory("nvm"), 1.0 / device.converter.output_eff_frac
    return Costs(
        active_w=point.active_w * boost,
        wait_w=point.wait_w * boost,
        boot_s=device.boot_s,
        boot_j=device.boot_j * boost,
        setup_s=nvm.setup_s,
        setup_j=nvm.setup_j * boost + nvm.setup_s * point.wait_w * boost,
        read_s_per_byte=nvm.read_s_per_byte,
        read_j_per_byte=(nvm.read_j_per_byte + nvm.read_s_per_byte * point.wait_w) * boost,
        write_s_per_byte=nvm.write_s_per_byte,
        write_j_per_byte=(nvm.write_j_per_byte + nvm.write_s_per_byte * point.wait_w) * boost,
    )
