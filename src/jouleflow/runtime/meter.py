"""Energy of this machine's work: measured by RAPL where the kernel lets us read it, otherwise modelled from CPU time, and said so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

RAPL = Path("/sys/class/powercap")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SCHEDULED_CLOCK = 2  # of the kernel, in the last bits of a clock's number
ASSUMED_CORE_W = 5.0  # of a busy core of a small edge box, when nothing measures it


class Meter(Protocol):
    """provenance: "measured" or "modelled"; source: by what, for people. core_w: power of a busy core, as the last readings had it."""

    provenance: str
    source: str
    core_w: float

    def read_j(self) -> float:
        """Joules since some moment; only differences mean something."""
        ...


class RaplMeter:
    """The processor packages' own counters, for the whole machine. core_w: their joules over the machine's busy core seconds, so
    that what is idle is shared out to the work. busy_core_s: total so far.

    Source: Linux powercap, energy_uj with wrap-around at max_energy_range_uj.
    """

    provenance = "measured"

    def __init__(self, zones: list[Path], busy_core_s: Callable[[], float]) -> None:
        self.zones, self.busy_core_s, self.core_w = zones, busy_core_s, 0.0
        self._last_j, self._last_busy_s = 0.0, busy_core_s()
        self.source = f"RAPL, {len(zones)} package(s), the whole machine"
        self._ranges = [int((z / "max_energy_range_uj").read_text()) for z in zones]
        self._last = [int((z / "energy_uj").read_text()) for z in zones]
        self._total_uj = 0

    def read_j(self) -> float:
        for k, zone in enumerate(self.zones):
            now = int((zone / "energy_uj").read_text())
            self._total_uj += (now - self._last[k]) % (self._ranges[k] + 1)
            self._last[k] = now
        joules, busy_s = self._total_uj * 1e-6, self.busy_core_s()
        if busy_s > self._last_busy_s:
            self.core_w = (joules - self._last_j) / (busy_s - self._last_busy_s)
            self._last_j, self._last_busy_s = joules, busy_s
        return joules


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
    except (OSError, OverflowError):
        return None


def machine_busy_core_s(stat: Path = Path("/proc/stat")) -> float:
    """Core seconds that this machine was not idle, since it was started.

    Source: proc(5), the line cpu: user, nice, system, idle, iowait, irq, softirq, steal.
    """
    ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS_PER_S


def _is_package(zone: Path) -> bool:
    """Whether a zone is a processor package. Cores and memory are in their package, and psys counts it again with the rest of the
    machine.

    Source: Linux powercap, the file `name`: package-0, package-0-die-1, core, uncore, dram or psys.
    """
    try:
        return (zone / "name").read_text().startswith("package")
    except OSError:
        return False


def open_meter(processes: Callable[[], Iterable[int]], core_w: float = ASSUMED_CORE_W, root: Path = RAPL) -> Meter:
    """The best meter that there is here."""
    zones = [z for z in sorted(root.glob("intel-rapl:*")) if _is_package(z) and os.access(z / "energy_uj", os.R_OK)]
    return RaplMeter(zones, machine_busy_core_s) if zones else CpuTimeMeter(processes, core_w)
