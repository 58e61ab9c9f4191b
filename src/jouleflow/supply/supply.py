"""The capacitor and the trace, in C: see supply.h for what each field means. Here only the binding.

The same C is linked into the emulator, so simulated and emulated energy obey one law.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np

from jouleflow.device.device import Device
from jouleflow.trace.trace import Scenario

HERE = Path(__file__).parent


class SupplyStruct(ctypes.Structure):
    """struct supply of supply.h."""

    _fields_ = (
        ("time_s", ctypes.c_void_p),
        ("power_w", ctypes.c_void_p),
        ("n_samples", ctypes.c_uint64),
        ("duration_s", ctypes.c_double),
        ("input_eff_frac", ctypes.c_double),
        ("leak_w", ctypes.c_double),
        ("on_j", ctypes.c_double),
        ("off_j", ctypes.c_double),
        ("max_j", ctypes.c_double),
        ("now_s", ctypes.c_double),
        ("energy_j", ctypes.c_double),
        ("period_start_s", ctypes.c_double),
        ("sample", ctypes.c_uint64),
        ("harvested_j", ctypes.c_double),
        ("converter_j", ctypes.c_double),
        ("clipped_j", ctypes.c_double),
        ("leaked_j", ctypes.c_double),
        ("spent_j", ctypes.c_double),
    )


@functools.cache
def supply_library() -> ctypes.CDLL:
    """The compiled supply.c."""
    from jouleflow.supply.native import shared_library

    library = ctypes.CDLL(str(shared_library([HERE / "supply.c"], HERE)))
    pointer = ctypes.POINTER(SupplyStruct)
    library.supply_start.argtypes = [pointer, ctypes.c_double, ctypes.c_double]
    library.supply_start.restype = None
    library.supply_drain.argtypes = [pointer, ctypes.c_double, ctypes.c_double]
    library.supply_drain.restype = ctypes.c_double
    library.supply_life.argtypes = [pointer, ctypes.c_double, ctypes.c_double]
    library.supply_life.restype = ctypes.c_double
    library.supply_charge.argtypes = [pointer, ctypes.c_double]
    library.supply_charge.restype = ctypes.c_int
    return library


def fill_supply(struct: SupplyStruct, device: Device, scenario: Scenario) -> tuple[object, ...]:
    """Sets the constants of `struct`; the arrays returned must outlive it."""
    trace, store = scenario.harvest, device.store
    time_s = np.ascontiguousarray(trace.time_s, np.float64)
    power_w = np.ascontiguousarray(trace.value, np.float64)
    struct.time_s = time_s.ctypes.data
    struct.power_w = power_w.ctypes.data
    struct.n_samples = time_s.size
    struct.duration_s = trace.duration_s
    struct.input_eff_frac = device.converter.input_eff_frac
    struct.leak_w = store.leak_w
    struct.on_j = store.energy_j(store.on_v)
    struct.off_j = store.energy_j(store.off_v)
    struct.max_j = store.energy_j(store.max_v)
    return time_s, power_w


class Supply:
    """A store on a trace, stepped exactly. Starts at off_v at the scenario's phase, clock 0."""

    def __init__(self, device: Device, scenario: Scenario) -> None:
        self.struct = SupplyStruct()
        self._arrays = fill_supply(self.struct, device, scenario)
        self._library = supply_library()
        self._reference = ctypes.byref(self.struct)
        self._library.supply_start(self._reference, scenario.phase_s, self.struct.off_j)
        self.start_j = float(self.struct.energy_j)
        self.capacitance_f = device.store.capacitance_f

    @property
    def now_s(self) -> float:
        return float(self.struct.now_s)

    @property
    def voltage_v(self) -> float:
        return float((2 * max(self.struct.energy_j, 0.0) / self.capacitance_f) ** 0.5)

    @property
    def left_j(self) -> float:
        """Energy above the point of failure."""
        return float(self.struct.energy_j - self.struct.off_j)

    def charge(self, duration_s: float) -> bool:
        """Charges until on_v, for at most duration_s; whether on_v was reached."""
        return bool(self._library.supply_charge(self._reference, duration_s))

    def drain(self, load_w: float, duration_s: float) -> float:
        """Drains a load; returns the seconds until off_v, or duration_s if it lived."""
        return float(self._library.supply_drain(self._reference, load_w, duration_s))
