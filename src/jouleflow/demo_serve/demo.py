"""The serving demo: three models, a server, bursts of requests, and what came of it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from jouleflow.demo_serve.networks import make_all
from jouleflow.load.answers import Answers
from jouleflow.load.client import open_loop
from jouleflow.load.local_server import local_server
from jouleflow.load.run import Load, random_requests
from jouleflow.load.told import energy_of_all
from jouleflow.serve.page import standalone
from jouleflow.trace.arrivals import make_arrivals

SETTINGS = {"kws": (20, 1500.0), "rn20": (60, 500.0), "mbv2": (250, 60.0)}  # SLO in ms, requests a second
DURATION_S = 20.0
MAX_CONNECTIONS = 300  # of each model's client: all together leave room for the page, however slow the machine is


def run_demo(folder: Path, seed: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Serves three models under bursty load and returns what came of it; page and figures are left in the folder.

    Raises InputError when the server does not start.
    """
    models = make_all(folder / "models")
    for name, (slo_ms, _) in SETTINGS.items():
        (models / name / "jouleflow.toml").write_text(f"slo_ms = {slo_ms}\n")
    with local_server(models, note=note) as server:
        note(f"live page: {server.url}/")
        before, before_s = _live(server.url), monotonic()
        answers = asyncio.run(_bursts(server.url, seed))
        live, span_s = _live(server.url), monotonic() - before_s
    result = {name: a.summary(SETTINGS[name][0] * 1e-3) for name, a in answers.items()}
    energy = energy_of_all(before, live)
    provenance = energy["provenance"]
    report = {
        "models": result,
        "energy": {**energy, f"power_w_{provenance}": energy[f"energy_j_{provenance}"] / span_s},
        "live": live,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "report.html").write_text(standalone(live))
    return report


def _live(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/live.json", timeout=10) as page:  # nosec B310  # of the server started here
        return dict(json.loads(page.read()))


async def _bursts(url: str, seed: int) -> dict[str, Answers]:
    host, port = url.removeprefix("http://").split(":")
    random = np.random.default_rng(seed)
    loads = {}
    for name, (_, rate_hz) in SETTINGS.items():
        requests = random_requests(Load(url, name, None), f"{host}:{port}")
        times = make_arrivals("bursty", rate_hz, DURATION_S, random)
        loads[name] = open_loop(host, int(port), requests, times, MAX_CONNECTIONS)
    return dict(zip(loads, await asyncio.gather(*loads.values()), strict=True))
