"""A made-up run for tests of what reads runs: a sawtooth of forty charges, eight layers."""

from __future__ import annotations

import numpy as np

from jouleflow.record.run import EVENT_KINDS, EnergyLedger, Estimate, Events, LayerRow, Run, TimeLedger


def sample_run(n_tiles: int = 60, n_charges: int = 40, names: tuple[str, ...] = ("conv",)) -> Run:
    rows = []
    now = 0.0
    for c in range(n_charges):
        rows.append((now, "charge", -1, -1, 2.0, 0.0, 3.3))
        now += 2.0
        rows.append((now, "boot", -1, -1, 0.002, 8e-6, 3.29))
        now += 0.002
        for t in range(n_tiles):
            rows.append((now, "tile", (c * 3 + t // 20) % 8, t, 0.002, 2e-5, 3.29 - 1.2 * t / n_tiles))
            now += 0.002
        rows.append((now, "commit", 0, 0, 0.001, 1e-5, 2.05))
        now += 0.001
    columns = list(zip(*rows, strict=True))
    events = Events(
        np.array(columns[0]), np.array([EVENT_KINDS.index(k) for k in columns[1]], np.uint8), np.array(columns[2], np.int32),
        np.array(columns[3], np.int32), np.array(columns[4]), np.array(columns[5]), np.array(columns[6]),
    )  # fmt: skip
    layers = tuple(
        LayerRow(
            names[k % len(names)],
            "conv2d",
            (8, 8, 16),
            100 * k,
            10_000 * k,
            20_000 * k,
            25_000 * k,
            1e-5 * k,
            1024,
            0,
            64,
            4,
            1,
            0.1 * k,
            "sram 4x8x16",
        )
        for k in range(8)
    )
    return Run(
        model="sample.onnx", model_sha256="ab" * 32, device="riotee", planner="tile", harvest="rf_walk", harvest_synthetic=True, capacitance_f=470e-6,
        on_v=3.3, off_v=2.0, max_v=4.5, seed=1, revision="0.1.0", provenance="emulated", complete=True, n_inferences=10, n_power_failures=n_charges,
        latency_s=tuple(float(x) for x in np.linspace(5, 12, 10)),
        energy_j=EnergyLedger(0.1, 0.05, 0.01, 0.004, 0.006, 0.002, 0.0, 0.004, 0.02, 0.003, 0.001),
        time_s=TimeLedger(4.0, 0.3, 0.1, 0.2, 0.1, 80.0, 0.0), predicted=Estimate(8.0, 7e-3, 4.0), deadline_s=10.0, outputs_match_reference=True,
        peak_sram_bytes=17_000, sram_budget_bytes=131_072, nvm_bytes=16_000, flash_bytes=42_000, instructions=10**8, cycles=13 * 10**7, n_commits=40,
        nvm_max_writes_per_byte=12.0, nvm_endurance_writes=1e14, answers=("class 3",), layers=layers, events=events,
        voltage_time_s=events.time_s + events.duration_s, voltage_v=events.voltage_v,
    )  # fmt: skip
