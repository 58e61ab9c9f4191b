"""Energy of this machine's work: measured by RAPL where the kernel lets us read it, otherwise modelled from CPU time, and said so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

RAPL = Path("/sys/class/powercap")
SCHEDULED_CLOCK = 2  # of the kernel, in the last bits of a clock's number
ASSUMED_CORE_W = 5.0  # of a busy core of a small edge box, when nothing measures it


class Meter(Protocol):
    """provenance: "measured" or "modelled"; source: by what, for people."""

    provenance: str
    source: str

    def read_j(self) -> float:
        """Joules since some moment; only differences mean something."""
        ...


class RaplMeter:
    """The processor packages' own counters, for the whole machine.

    Source: Linux powercap, energy_uj with wrap-around at max_energy_range_uj.
    """

    provenance = "measured"

    def __init__(self, zones: list[Path]) -> None:
        self.zones = zones
        self.source = f"RAPL, {len(zones)} package(s), the whole machine"
        self._ranges = [int((z / "max_energy_range_uj").read_text()) for z in zones]
        self._last = [int((z / "energy_uj").read_text()) for z in zones]
        self._total_uj = 0

    def read_j(self) -> float:
        for k, zone in enumerate(self.zones):
            now = int((zone / "energy_uj").read_text())
            self._total_uj += (now - self._last[k]) % (self._ranges[k] + 1)
            self._last[k] = now
        return self._total_uj * 1e-6


class CpuTimeMeter:
    """CPU time of some processes times an assumed power of a core. processes: asked each time, as they come and go."""

    provenance = "modelled"

    def __init__(self, processes: Callable[[], Iterable[int]], core_w: float = ASSUMED_CORE_W) -> None:
        self.processes, self.core_w = processes, core_w
        self.source = f"CPU time x {core_w:g} W a core (assumed)"
        self._last: dict[int, float] = {}
        self._total_j = 0.0

    def read_j(self) -> float:
        now = {pid: seconds for pid in self.processes() if (seconds := cpu_s(pid)) is not None}
        for pid, seconds in now.items():
            self._total_j += max(seconds - self._last.get(pid, seconds), 0.0) * self.core_w
        self._last = now
        return self._total_j


def cpu_s(pid: int) -> float | None:
    """User and system time of a process and its threads; None when it is gone.

    Source: Linux, clock_getcpuclockid(3): the number of a process's clock is made from its complement.
    """
    try:
        return time.clock_gettime((~pid << 3) | SCHEDULED_CLOCK)
    except OSError:
        return None


def open_meter(processes: Callable[[], Iterable[int]], core_w: float = ASSUMED_CORE_W, root: Path = RAPL) -> Meter:
    """The best meter that there is here."""
    zones = (
        [z for z in sorted(root.glob("intel-rapl:?")) if os.access(z / "energy_uj", os.R_OK)] if root.is_dir() else []
    )
    return RaplMeter(zones) if zones else CpuTimeMeter(processes, core_w)
