"""The nouns of hardware: `Device`, `Memory`, `Clock`, `OperatingPoint`, `Store`, `Converter`, `Link`, `System`.

Values check themselves when made. Files that describe boards are read in `load.py`; what a capacitor does over
time is in `jouleflow.supply`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite

from jouleflow.errors import DeviceError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DeviceError(message)


def _require_not_negative(owner: str, **values: float) -> None:
    for name, value in values.items():
        _require(isfinite(value) and value >= 0, f"{owner}: {name}={value} must be a finite number >= 0")


@dataclass(frozen=True, slots=True)
class Memory:
    """One memory. A transfer of n bytes costs setup + n * per byte, in time and energy, beside the core's own power.

    write_block_bytes: the least that is written at once; a write that covers part of a block costs the whole block, and a
    power failure while it lasts may spoil all of it.
    """

    name: str  # flash, sram, nvm
    size_bytes: int
    nonvolatile: bool
    read_s_per_byte: float = 0.0
    write_s_per_byte: float = 0.0
    read_j_per_byte: float = 0.0
    write_j_per_byte: float = 0.0
    setup_s: float = 0.0
    setup_j: float = 0.0
    endurance_writes: float | None = None
    write_block_bytes: int = 1

    def __post_init__(self) -> None:
        _require(self.size_bytes > 0, f"memory {self.name}: size_bytes={self.size_bytes} must be > 0")
        _require(
            self.write_block_bytes in (1, 2, 4, 8, 16, 32),
            f"memory {self.name}: write_block_bytes={self.write_block_bytes} must be 1, 2, 4, 8, 16 or 32",
        )
        _require_not_negative(
            f"memory {self.name}",
            read_s_per_byte=self.read_s_per_byte,
            write_s_per_byte=self.write_s_per_byte,
            read_j_per_byte=self.read_j_per_byte,
            write_j_per_byte=self.write_j_per_byte,
            setup_s=self.setup_s,
            setup_j=self.setup_j,
        )


@dataclass(frozen=True, slots=True)
class Clock:
    """A named clock and the frequencies it can take, slowest first."""

    name: str  # cpu, gpu, mem
    freqs_hz: tuple[float, ...]

    def __post_init__(self) -> None:
        ordered = all(a < b for a, b in zip(self.freqs_hz, self.freqs_hz[1:], strict=False))
        _require(
            bool(self.freqs_hz) and self.freqs_hz[0] > 0 and ordered,
            f"clock {self.name}: freqs_hz={self.freqs_hz} must be positive and increasing",
        )


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One frequency per clock, and what the core draws there from the regulated rail."""

    name: str
    freq_hz: tuple[tuple[str, float], ...]  # (clock, frequency)
    active_w: float  # running inference code from flash
    wait_w: float  # core asleep while a memory transfer (DMA) runs

    def __post_init__(self) -> None:
        _require_not_negative(f"point {self.name}", active_w=self.active_w, wait_w=self.wait_w)

    def clock_hz(self, clock: str) -> float:
        return dict(self.freq_hz)[clock]


@dataclass(frozen=True, slots=True)
class Store:
    """Capacitor of a batteryless node: it starts at on_v, and dies at off_v; more than max_v is clipped away."""

    capacitance_f: float
    off_v: float
    on_v: float
    max_v: float
    leak_w: float = 0.0

    def __post_init__(self) -> None:
        _require(0 < self.capacitance_f < 1000, f"capacitance_f={self.capacitance_f} must be in (0, 1000)")
        _require(self.off_v > 0, f"off_v={self.off_v} must be > 0")
        _require(self.off_v < self.on_v, f"on_v={self.on_v} must exceed off_v={self.off_v}: raise on_v")
        _require(self.on_v <= self.max_v, f"max_v={self.max_v} must be at least on_v={self.on_v}: raise max_v")
        _require_not_negative("store", leak_w=self.leak_w)

    @property
    def usable_j(self) -> float:
        """Energy between on_v and off_v: C (on_v^2 - off_v^2) / 2."""
        return self.capacitance_f * (self.on_v**2 - self.off_v**2) / 2

    def energy_j(self, voltage_v: float) -> float:
        """Energy stored at a voltage, from 0 V."""
        return self.capacitance_f * voltage_v**2 / 2


@dataclass(frozen=True, slots=True)
class Converter:
    """Efficiencies on the way in (harvester to capacitor) and out (capacitor to the regulated rail), 0 to 1."""

    input_eff_frac: float
    output_eff_frac: float

    def __post_init__(self) -> None:
        for name in ("input_eff_frac", "output_eff_frac"):
            value = getattr(self, name)
            _require(0 < value <= 1, f"converter: {name}={value} must be in (0, 1]")


@dataclass(frozen=True, slots=True)
class Device:
    """One board. `points[0]` is the default operating point. `sources` maps each constant's key to where it is from."""

    name: str
    description: str
    arch: str  # cortex-m0plus, cortex-m4, cortex-m33, ...
    clocks: tuple[Clock, ...]
    points: tuple[OperatingPoint, ...]
    memories: tuple[Memory, ...]
    sleep_w: float
    boot_s: float
    boot_j: float
    store: Store
    converter: Converter
    sense_s: float = 0.0  # reading the store's voltage, the core active; 0: the board cannot
    sources: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        _require(bool(self.points), f"{self.name}: needs at least one operating point")
        _require_not_negative(
            self.name, sleep_w=self.sleep_w, boot_s=self.boot_s, boot_j=self.boot_j, sense_s=self.sense_s
        )

    def memory(self, name: str) -> Memory:
        for memory in self.memories:
            if memory.name == name:
                return memory
        raise DeviceError(f"{self.name} has no memory {name!r}; it has {', '.join(m.name for m in self.memories)}")

    def with_capacitance(self, capacitance_f: float) -> Device:
        """The same board with another capacitor."""
        return replace(self, store=replace(self.store, capacitance_f=capacitance_f))


@dataclass(frozen=True, slots=True)
class Link:
    """A connection between two devices."""

    ends: tuple[str, str]
    rate_bps: float
    rtt_s: float
    tx_w: float
    rx_w: float


@dataclass(frozen=True, slots=True)
class System:
    """Devices and the links between them; a single board is a system of one device."""

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()

    @property
    def device(self) -> Device:
        """The only device of a one-board system."""
        _require(len(self.devices) == 1, f"system {self.name} has {len(self.devices)} devices; name one")
        return self.devices[0]
