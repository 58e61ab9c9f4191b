"""How much faster than real time the simulation of a server is: six models in one mix, with interference and the server's own loop.

python benchmarks/serving_speed.py

Only speed is measured here, so the latencies are made up; how true simulations are is serving_simulated.py's subject. CPU time of one
core, the best of three.
"""

from __future__ import annotations

import time

import numpy as np
from setting import write_json

from jouleflow.profile.interference import LearnedInterference
from jouleflow.profile.latencies import Latencies
from jouleflow.sim.serving import Front, SimModel, simulate_serving

ROW_S = (0.4e-3, 0.7e-3, 1.5e-3, 2e-3, 2.6e-3, 3e-3)
RATES_HZ, SECONDS = (5.0, 30.0, 100.0), 20.0
BATCHES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    random = np.random.default_rng(0)
    names = [f"model{k}" for k in range(len(ROW_S))]
    layers = [(random.normal(size=(24, 16)) * 0.01, np.zeros(16)), (random.normal(size=(16, 1)) * 0.01, np.zeros(1))]
    front = Front(60e-6, 60e-6, 60e-6, 40e-6)
    models = {
        name: SimModel(
            Latencies(BATCHES, tuple(row_s * (0.1 + 0.9 * n) for n in BATCHES)),
            0.08,
            32,
            2,
            front=front,
            idle_spread_s=(2e-4,),
        )
        for name, row_s in zip(names, ROW_S, strict=True)
    }
    rows = []
    for policy in ("table", "bcedge"):
        for rate_hz in RATES_HZ:
            times = {name: np.cumsum(random.exponential(1 / rate_hz, int(rate_hz * SECONDS))) for name in names}
            took_s = []
            for _ in range(3):
                start_s = time.process_time()
                outcome = simulate_serving(models, times, 2, policy, LearnedInterference(names, layers))
                took_s.append(time.process_time() - start_s)
            speed = outcome.duration_s / min(took_s)
            rows.append({"policy": policy, "requests_per_s": rate_hz * len(names), "times_real_time": speed})
            print(f"{policy}: {rate_hz * len(names):.0f} requests a second, {speed:.0f} times real time", flush=True)
    write_json("serving_speed", rows)


if __name__ == "__main__":
    main()
