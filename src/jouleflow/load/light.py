"""What a row takes longer on a server that has little to do than alone, again and again: cores were idle, caches hold other things, and
its inputs have just come in. Measured in turns with rows alone, as a machine changes its speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import uvloop

from jouleflow.load.ask import ask
from jouleflow.load.client import open_loop
from jouleflow.load.local_server import LocalServer, local_server
from jouleflow.load.run import Load, random_requests
from jouleflow.profile.serving import calm_s, light_rate_hz
from jouleflow.runtime.colocation import Wanted, rows_alone
from jouleflow.trace.arrivals import make_arrivals

ROUNDS, SECONDS = 3, 2.5  # of each


def measure_light(folder: Path, wanted: Sequence[Wanted], row_s: Mapping[str, float], n_cores: int) -> dict[str, float]:
    """Seconds that a row takes longer, of each model that was asked often enough. row_s: seconds of one row of each, about.

    Raises InputError when the server does not start.
    """
    with local_server(folder) as server:
        return uvloop.run(_measured(server, wanted, light_rate_hz(row_s, n_cores), n_cores))


async def _measured(server: LocalServer, wanted: Sequence[Wanted], rate_hz: float, n_cores: int) -> dict[str, float]:
    host = f"{server.host}:{server.port}"
    requests = {w.name: random_requests(Load(server.url, w.name, None), host) for w in wanted}
    random, before = np.random.default_rng(0), _rows(server)
    async with rows_alone(wanted, n_cores) as measure:
        alone_s = [await measure()]
        for _ in range(ROUNDS):
            times = {w.name: make_arrivals("poisson", rate_hz, SECONDS, random) for w in wanted}
            await asyncio.gather(*(open_loop(server.host, server.port, requests[n], t) for n, t in times.items()))
            alone_s.append(await measure())
    longer_s = {}
    for name, (n, seconds) in _rows(server).items():
        n, seconds = n - before[name][0], seconds - before[name][1]
        if n:
            longer_s[name] = max(seconds / n - calm_s([each[name] for each in alone_s]), 0.0)
    return longer_s


def _rows(server: LocalServer) -> dict[str, tuple[int, float]]:
    """Batches of one row until now, and the seconds that they took."""
    found = {}
    for model in ask(f"{server.url}/v2/models/stats", "")["model_stats"]:
        spent = [b["compute_infer"] for b in model["batch_stats"] if b["batch_size"] == 1]
        found[model["name"]] = (sum(s["count"] for s in spent), sum(s["ns"] for s in spent) * 1e-9)
    return found
