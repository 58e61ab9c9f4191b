"""The last minutes of a server, a sample a second: what the live page shows and what a report of a load test reads."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Any

import numpy as np

from jouleflow.runtime.meter import Meter
from jouleflow.serve.server import Server
from jouleflow.serve.tally import PROVENANCE

SECONDS = 300
ENDS = ("completed", "rejected", "expired", "cancelled", "failed")


class History:
    """Samples of every model, and of the meter."""

    def __init__(self, server: Server, meter: Meter) -> None:
        self.server, self.meter = server, meter
        self.samples: deque[dict[str, Any]] = deque(maxlen=SECONDS)
        self._counts: dict[str, dict[str, int]] = {}
        self._batches: dict[str, tuple[float, float]] = {}  # rows, batches
        self._wasted_j: dict[str, float] = {}
        self._joules, self._at_s = meter.read_j(), monotonic()
        self._first_j = self._joules

    async def run(self) -> None:
        """Takes a sample a second, for as long as it runs."""
        while True:
            await asyncio.sleep(1.0)
            self.sample()

    def sample(self) -> None:
        now_s, joules = monotonic(), self.meter.read_j()
        span_s, spent_j = max(now_s - self._at_s, 1e-6), joules - self._joules
        self._at_s, self._joules = now_s, joules
        for tally in self.server.tallies.values():
            tally.charge(self.meter.core_w)
        models = {name: self._model(name, span_s) for name in list(self.server.models)}
        done = sum(m["completed"] for m in models.values()) * span_s
        self.samples.append(
            {
                "models": models,
                "power_w": spent_j / span_s,
                "j_per_request": spent_j / done if done >= 1 else None,
            }
        )

    def _model(self, name: str, span_s: float) -> dict[str, Any]:
        served = self.server.models[name]
        queue = served.queue
        before = self._counts.get(name, {})
        now = {k: int(queue.counts[k]) for k in ("accepted", *ENDS)}
        self._counts[name] = now
        rows = float(sum(n * b for n, (b, _) in served.tally.batch_sizes.items()))
        batches = float(sum(b for b, _ in served.tally.batch_sizes.values()))
        rows_before, batches_before = self._batches.get(name, (0.0, 0.0))
        self._batches[name] = rows, batches
        latencies_s = served.tally.latencies.take()
        quantiles = np.percentile(latencies_s, (50, 99)).tolist() if len(latencies_s) else [None, None]
        n_batches = batches - batches_before
        wasted_j = sum(served.tally.wasted_j.values())
        wasted_before_j, self._wasted_j[name] = self._wasted_j.get(name, 0.0), wasted_j
        return {
            **{k: max(v - before.get(k, 0), 0) / span_s for k, v in now.items()},
            "waiting": queue.n_jobs,
            "running": queue.n_running,
            "batch": (rows - rows_before) / n_batches if n_batches > 0 else None,
            "p50_s": quantiles[0],
            "p99_s": quantiles[1],
            "wasted_w": max(wasted_j - wasted_before_j, 0.0) / span_s,
        }

    def energy_j(self) -> float:
        """Joules since this began."""
        return self.meter.read_j() - self._first_j

    def live(self) -> dict[str, Any]:
        """What the page draws."""
        models = {
            name: {
                "version": m.spec.version,
                "ready": m.ready,
                "slo_s": m.spec.slo_s,
                "max_batch": m.queue.max_batch,
                "instances": m.queue.n_instances,
                "deaths": self.server.n_deaths.get(name, 0),
                "totals": {k: int(m.queue.counts[k]) for k in ("accepted", *ENDS)},
                "wasted": {"core_s": dict(m.tally.wasted_core_s), "energy_j": dict(m.tally.wasted_j)},
            }
            for name, m in sorted(self.server.models.items())
        }
        return {
            "policy": self.server.settings.policy,
            "n_cores": self.server.n_cores,
            "meter": {"provenance": self.meter.provenance, "source": self.meter.source},
            "wasted_provenance": PROVENANCE,
            "energy_j": self.energy_j(),
            "problems": self.server.problems,
            "models": models,
            "samples": list(self.samples),
        }
