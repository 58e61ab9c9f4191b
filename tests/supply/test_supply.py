"""The supply by its law: energy is conserved, thresholds are met exactly, limits hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.device.load import load_system
from jouleflow.supply.supply import Supply
from jouleflow.trace.trace import Scenario, Trace

DEVICE = load_system("riotee").device


def constant(power_w: float) -> Trace:
    return Trace("constant", "W", np.array([0.0]), np.array([power_w]), 1.0)


def test_charging_time_of_a_constant_source() -> None:
    supply = Supply(DEVICE, Scenario(constant(1e-3)))
    assert supply.charge(1e6)
    # C (on^2 - off^2) / 2 over (0.8 mW - 4 uW), by hand
    assert supply.now_s == pytest.approx(470e-6 * (3.3**2 - 2.0**2) / 2 / (0.8e-3 - 4e-6), rel=1e-9)
    assert supply.voltage_v == pytest.approx(3.3)


def test_life_under_a_load_without_harvest() -> None:
    supply = Supply(DEVICE, Scenario(constant(1e-3)))
    supply.charge(1e6)
    supply.struct.power_w = None  # not used again
    dark = Supply(DEVICE, Scenario(constant(0.0)))
    dark.struct.energy_j = supply.struct.energy_j
    lived = dark.drain(10e-3, 10.0)
    assert lived == pytest.approx(DEVICE.store.usable_j / (10e-3 + 4e-6), rel=1e-9)
    assert dark.voltage_v == pytest.approx(2.0)


def test_darkness_never_charges() -> None:
    supply = Supply(DEVICE, Scenario(constant(0.0)))
    assert not supply.charge(1000.0)
    assert supply.now_s == pytest.approx(1000.0)
    assert supply.struct.energy_j >= 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-3, 2.0), st.floats(0, 0.05)), min_size=1, max_size=12),
    st.floats(0, 5),
    st.lists(st.tuples(st.floats(0, 0.03), st.floats(1e-4, 3.0)), min_size=1, max_size=12),
)
def test_energy_is_conserved(samples, phase, loads) -> None:
    widths = np.array([w for w, _ in samples])
    time = np.concatenate([[0.0], np.cumsum(widths)[:-1]])
    trace = Trace("t", "W", time, np.array([p for _, p in samples]), float(widths.sum()))
    supply = Supply(DEVICE, Scenario(trace, phase_s=phase))
    for load, duration in loads:
        supply.charge(5.0)
        supply.drain(load, duration)
    s = supply.struct
    out = s.energy_j - supply.start_j + s.spent_j + s.leaked_j + s.converter_j + s.clipped_j
    assert s.harvested_j == pytest.approx(out, rel=1e-9, abs=1e-12)
    assert 0 <= s.energy_j <= s.max_j * (1 + 1e-12)
    assert s.clipped_j >= 0
    assert s.leaked_j >= -1e-15
