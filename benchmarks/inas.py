"""iNAS's shipped networks on iNAS's own cost model (MSP430FR5994, 2 kB SRAM): its totals reproduced, and our plan beside them.

Modelled, both: the published equations and constants, no board. The global average pool is left out of both, because the
published totals leave it out. Reads systems/inas_solutions.csv beside the recorded data.
"""

from __future__ import annotations

import csv
import itertools
import time

from setting import data_dir, write_json

from jouleflow.plan.inas import ResistorSource, inas_latency_s, plan_layer, run_hyper_tiles, solution_layer


def main() -> None:
    with (data_dir().parent / "systems" / "inas_solutions.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = []
    for (app, capacitance), group in itertools.groupby(table, key=lambda r: (r["app"], r["capacitance_f"])):
        layers = [solution_layer(r) for r in group if r["op"] == "conv"]
        source = ResistorSource(float(capacitance))
        published, corrected = (
            sum(inas_latency_s(*layer, source, published_recharge=p) for layer in layers) for p in (True, False)
        )
        start = time.perf_counter()
        plan = [plan_layer(layer, source) for layer, _, _ in layers]
        planning_s = time.perf_counter() - start
        blind, informed = (run_hyper_tiles(plan, source, stop_early=stop) for stop in (False, True))
        row = {
            "network": app,
            "capacitance_f": source.capacitance_f,
            "inas_published_recharge_s": published,
            "inas_corrected_recharge_s": corrected,
            "ours_until_power_fails_s": blind.latency_s,
            "ours_stopping_in_time_s": informed.latency_s,
            "ours_over_inas_corrected": informed.latency_s / corrected,
            "ours_energy_j": informed.energy_j,
            "ours_power_cycles": informed.n_cycles,
            "planning_s": planning_s,
            "ours_tiles": [
                f"{h.tile.rows}x{h.tile.cols}x{h.tile.out_ch}x{h.tile.in_ch} {h.tile.order} by {h.group}" for h in plan
            ],
        }
        rows.append(row)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    write_json("inas", rows)


if __name__ == "__main__":
    main()
