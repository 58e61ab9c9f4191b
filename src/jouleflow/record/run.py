"""`Run` and `Event`: what happened, whoever made it (emulator, simulator, server). Saved and read in `store.py`.

A run is numbers and events only; it knows nothing of how it was made beyond `provenance`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Provenance = Literal["measured", "emulated", "modelled"]

# What can happen on a device, in the order of Events.kind.
EVENT_KINDS = ("charge", "boot", "recover", "input", "tile", "commit", "output", "failure", "idle")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: kind is one of EVENT_KINDS; layer and tile are -1 where they do not apply."""

    time_s: float
    device: str
    kind: str
    layer: int
    tile: int
    duration_s: float
    energy_j: float
    voltage_v: float  # of the store when the event ended


@dataclass(frozen=True, slots=True)
class Events:
    """Many events as columns of one length, in time order; `kind` indexes EVENT_KINDS."""

    time_s: NDArray[np.float64]
    kind: NDArray[np.uint8]
    layer: NDArray[np.int32]
    tile: NDArray[np.int32]
    duration_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    voltage_v: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.time_s.size)

    def event(self, k: int, device: str) -> Event:
        return Event(
            float(self.time_s[k]),
            device,
            EVENT_KINDS[int(self.kind[k])],
            int(self.layer[k]),
            int(self.tile[k]),
            float(self.duration_s[k]),
            float(self.energy_j[k]),
            float(self.voltage_v[k]),
        )


def no_events() -> Events:
    """Events of length 0."""
    real = np.zeros(0, np.float64)
    return Events(real, np.zeros(0, np.uint8), np.zeros(0, np.int32), np.zeros(0, np.int32), real, real, real)


@dataclass(frozen=True, slots=True)
class EnergyLedger:
    """Where every joule went. harvested_j = stored_j + spent + leaked_j + converter_j + clipped_j.

    Energies of the load are drawn from the capacitor, so the output converter's loss is inside them.
    reexecution_j is work that a power failure threw away; stored_j is the change of the store over the run.
    """

    harvested_j: float = 0.0
    compute_j: float = 0.0
    commit_j: float = 0.0
    recovery_j: float = 0.0
    reexecution_j: float = 0.0
    boot_j: float = 0.0
    idle_j: float = 0.0
    leaked_j: float = 0.0
    converter_j: float = 0.0
    clipped_j: float = 0.0
    stored_j: float = 0.0

    @property
    def spent_j(self) -> float:
        return self.compute_j + self.commit_j + self.recovery_j + self.reexecution_j + self.boot_j + self.idle_j

    @property
    def imbalance_frac(self) -> float:
        """|in - out| / in: the conservation error."""
        out = self.stored_j + self.spent_j + self.leaked_j + self.converter_j + self.clipped_j
        return abs(self.harvested_j - out) / max(self.harvested_j, abs(out), 1e-30)


@dataclass(frozen=True, slots=True)
class TimeLedger:
    """Where every second went."""

    compute_s: float = 0.0
    commit_s: float = 0.0
    recovery_s: float = 0.0
    reexecution_s: float = 0.0
    boot_s: float = 0.0
    charging_s: float = 0.0
    idle_s: float = 0.0

    @property
    def total_s(self) -> float:
        return sum(float(getattr(self, f.name)) for f in fields(self))


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One line of the per-layer table. Energy and cycles are those of one uninterrupted inference."""

    name: str
    op: str
    out_shape: tuple[int, ...]
    params: int
    macs: int
    instructions: int
    cycles: int
    energy_j: float
    sram_bytes: int
    nvm_read_bytes: int
    nvm_write_bytes: int
    n_tiles: int
    n_commits: int
    charges: float  # energy_j over the usable energy of one charge
    placement: str  # "sram" or "tile RxCxM", for people


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the planner predicted for one inference: active plus charging time, and energy drawn from the store."""

    latency_s: float
    energy_j: float
    n_power_failures: float = 0.0
    provenance: Provenance = "modelled"


@dataclass(frozen=True, slots=True)
class Run:
    """What happened when a plan ran in a scenario."""

    model: str
    model_sha256: str
    device: str
    planner: str
    harvest: str
    harvest_synthetic: bool
    capacitance_f: float
    on_v: float
    off_v: float
    max_v: float
    seed: int
    revision: str
    provenance: Provenance
    complete: bool  # False after Ctrl-C or when the scenario ended first
    n_inferences: int
    n_power_failures: int
    latency_s: tuple[float, ...]  # one per finished inference, from the end of the previous one
    energy_j: EnergyLedger
    time_s: TimeLedger
    predicted: Estimate
    deadline_s: float | None = None
    outputs_match_reference: bool | None = None  # None: not checked
    peak_sram_bytes: int = 0
    sram_budget_bytes: int = 0
    nvm_bytes: int = 0
    flash_bytes: int = 0
    instructions: int = 0
    cycles: int = 0
    n_commits: int = 0
    n_rests: int = 0  # times that the firmware waited for a full store of its own will
    nvm_max_writes_per_byte: float = 0.0  # the most often written byte, per inference
    nvm_endurance_writes: float | None = None
    answers: tuple[str, ...] = ()  # for people: one line per inference
    layers: tuple[LayerRow, ...] = ()
    events: Events = field(default_factory=no_events)
    # store voltage over time, for plots: [n] seconds, [n] volts
    voltage_time_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    voltage_v: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
