"""What a request costs beside its model: CPU time of the server's own process and of a client, measured on a server under load.

A request that comes alone costs several times what one among many does, as what the server needs for it has left the caches. So what the requests of
each model cost is measured alone, what those of all models do together, at a load at which cores hardly sleep, and what refusals do that come as fast as
they can. The first says how models differ, the third what is left among many, the second how much the rest is at a load between.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

from jouleflow.errors import InputError
from jouleflow.load.answers import Answers
from jouleflow.load.client import closed_loop, open_loop
from jouleflow.load.local_server import LocalServer, local_server
from jouleflow.load.run import Load, random_requests
from jouleflow.profile.serving import mean_lost_frac
from jouleflow.runtime.meter import cpu_s
from jouleflow.trace.arrivals import make_arrivals

SECONDS, BUSY_FRAC, MAX_RATE_HZ = 1.5, 0.3, 300.0  # of each model alone
MIX_SECONDS, MIX_FRAC, MIX_MAX_HZ = 4.0, 0.7, 1000.0  # of all together; of all cores, and of each
LEAST_FRAC = 0.5  # of the requests that must end as wanted for the mean to say something
MANY, MANY_SECONDS = 32, 0.5  # refusals at once
NO_TIME_S = 1e-6
PARTS = 2  # of a request: reading it, and answering it some time later


@dataclass(frozen=True, slots=True)
class FrontCost:
    """As in `ProfiledModel`."""

    front_s: float
    refusal_s: float
    client_s: float
    warm_s: float = 0.0
    wake_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Alone:
    """CPU seconds of a request that is answered, of its client, and of one that is refused; the last also among many."""

    answered_s: float
    client_s: float
    refused_s: float
    refused_among_many_s: float


def measure_front(folder: Path, row_s: Mapping[str, float], n_cores: int) -> dict[str, FrontCost]:
    """Of models of a folder. row_s: seconds of one row of each.

    Raises InputError when the server does not start, or a model does not answer.
    """
    with local_server(folder) as server:
        alone = {name: _measured(server, name, min(BUSY_FRAC / s, MAX_RATE_HZ)) for name, s in row_s.items()}
        each_s = sum(row_s.values()) + sum(cost.answered_s + cost.client_s for cost in alone.values())
        rate_hz = min(MIX_FRAC * n_cores / each_s, MIX_MAX_HZ)
        together_s, client_s = _together_s(server, list(row_s), rate_hz)
    alone_s = sum(cost.answered_s for cost in alone.values())
    front_frac = share_of(together_s, alone_s)
    client_frac = share_of(client_s, sum(cost.client_s for cost in alone.values()))
    warm_frac = share_of(
        sum(cost.refused_among_many_s for cost in alone.values()), sum(cost.refused_s for cost in alone.values())
    )
    warm_frac = min(warm_frac, front_frac)
    lost = mean_lost_frac(rate_hz * len(row_s) * PARTS)
    return {
        name: FrontCost(
            cost.answered_s * front_frac, cost.refused_among_many_s, cost.client_s * client_frac,
            cost.answered_s * warm_frac, cost.answered_s * (front_frac - warm_frac) / (PARTS * lost),
        )
        for name, cost in alone.items()
    }  # fmt: skip


def share_of(together_s: float, alone_s: float) -> float:
    """Of what requests cost alone, what they cost together: all of it where slow models were asked too seldom for the clock to see either."""
    return min(together_s / alone_s, 1.0) if together_s > 0 and alone_s > 0 else 1.0


def _together_s(server: LocalServer, names: Sequence[str], rate_hz: float) -> tuple[float, float]:
    """CPU seconds of the server and of this process, for one request of each model; 0 when none was asked."""
    random = np.random.default_rng(0)
    host = f"{server.host}:{server.port}"
    requests = {name: random_requests(Load(server.url, name, None), host) for name in names}
    times = {name: make_arrivals("poisson", rate_hz, MIX_SECONDS, random) for name in names}

    async def go() -> tuple[float, float]:
        start = cpu_s(server.pid) or 0.0, time.process_time()
        await asyncio.gather(*(open_loop(server.host, server.port, requests[n], times[n]) for n in names))
        return (cpu_s(server.pid) or 0.0) - start[0], time.process_time() - start[1]

    n_each = max(sum(map(len, times.values())), 1) / len(names)
    server_s, client_s = uvloop.run(go())
    return server_s / n_each, client_s / n_each


def _measured(server: LocalServer, name: str, rate_hz: float) -> _Alone:
    host = f"{server.host}:{server.port}"
    times_s = make_arrivals("poisson", rate_hz, SECONDS, np.random.default_rng(0))
    requests = random_requests(Load(server.url, name, None), host)
    refused = random_requests(Load(server.url, name, None, timeout_s=NO_TIME_S), host)
    answered_s, client_s = _cost_s(server, lambda: open_loop(server.host, server.port, requests, times_s), 200)
    refused_s, _ = _cost_s(server, lambda: open_loop(server.host, server.port, refused, times_s), 503)
    among_many_s, _ = _cost_s(
        server, lambda: closed_loop(server.host, server.port, refused, MANY, MANY_SECONDS, warm_up_s=0.0), 503
    )
    return _Alone(answered_s, client_s, refused_s, min(among_many_s, refused_s))


def _cost_s(server: LocalServer, load: Callable[[], Awaitable[Answers]], status: int) -> tuple[float, float]:
    """CPU seconds of the server and of this process, a request."""

    async def go() -> tuple[Answers, float, float]:
        start = cpu_s(server.pid) or 0.0, time.process_time()
        answers = await load()
        return answers, (cpu_s(server.pid) or 0.0) - start[0], time.process_time() - start[1]

    answers, server_s, client_s = uvloop.run(go())
    right = sum(s == status for s in answers.status)
    if right < LEAST_FRAC * len(answers.status) or not right:
        raise InputError(
            f"{right} of {len(answers.status)} requests got {status} on {os.cpu_count()} cores: is the machine busy?"
        )
    return server_s / len(answers.status), client_s / len(answers.status)
