"""The serving demo: three models, a server, bursts of requests, and what came of it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jouleflow.demo_serve.networks import make_all
from jouleflow.load.answers import Answers
from jouleflow.load.client import open_loop
from jouleflow.load.local_server import local_server
from jouleflow.load.run import Load, random_requests
from jouleflow.serve.page import standalone
from jouleflow.trace.arrivals import make_arrivals

SETTINGS = {"kws": (20, 1500.0), "rn20": (60, 500.0), "mbv2": (250, 110.0)}  # SLO in ms, requests a second
DURATION_S = 20.0


def run_demo(folder: Path, seed: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Serves three models under bursty load and returns what came of it; page and figures are left in the folder.

    Raises InputError when the server does not start.
    """
    models = make_all(folder / "models")
    for name, (slo_ms, _) in SETTINGS.items():
        (models / name / "jouleflow.toml").write_text(f"slo_ms = {slo_ms}\n")
    with local_server(models, note=note) as server:
        note(f"live page: {server.url}/")
        answers = asyncio.run(_bursts(server.url, seed))
        with urllib.request.urlopen(f"{server.url}/live.json", timeout=10) as page:
            live = json.loads(page.read())
    result = {name: a.summary(SETTINGS[name][0] * 1e-3) for name, a in answers.items()}
    loaded = [s for s in live["samples"] if s["j_per_request"] is not None]
    report = {
        "models": result,
        "energy": {
            **live["meter"],
            "power_w": float(np.mean([s["power_w"] for s in loaded])) if loaded else None,
            "j_per_request": float(np.mean([s["j_per_request"] for s in loaded])) if loaded else None,
        },
        "live": live,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "report.html").write_text(standalone(live))
    return report


async def _bursts(url: str, seed: int) -> dict[str, Answers]:
    host, port = url.removeprefix("http://").split(":")
    random = np.random.default_rng(seed)
    loads = {}
    for name, (_, rate_hz) in SETTINGS.items():
        requests = random_requests(Load(url, name, None), f"{host}:{port}")
        loads[name] = open_loop(host, int(port), requests, make_arrivals("bursty", rate_hz, DURATION_S, random))
    return dict(zip(loads, await asyncio.gather(*loads.values()), strict=True))
