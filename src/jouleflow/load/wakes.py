"""What a request waits for until everybody that it concerns has woken up: measured on requests that the server refuses at once, which
take every step but that of a batch.

An idle core takes a while to come back, the more so the longer it was idle, and a busy one is not given up at once. So this is
measured with 0, 1, ... all cores kept busy, and sorted by how long nothing had been asked before.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from time import monotonic

import numpy as np
import uvloop
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.load.answers import Answers
from jouleflow.load.client import open_loop
from jouleflow.load.front import NO_TIME_S, FrontCost
from jouleflow.load.local_server import LocalServer, local_server
from jouleflow.load.run import Load, random_requests
from jouleflow.profile.serving import Wakes, lost_frac
from jouleflow.profile.spread import spread_of
from jouleflow.runtime.meter import cpu_s, machine_busy_core_s
from jouleflow.trace.arrivals import make_arrivals

RATE_HZ, SECONDS = 120.0, 4.0
CALM_CORES, TRIES = 0.1, 3  # that anything else may take meanwhile, or it is measured again
IDLE_S = (0.001, 0.005)
SETTLE_S = 0.3  # until those that keep cores busy do so


def measure_wakes(folder: Path, model: str, cost: FrontCost, n_cores: int) -> Wakes:
    """Of a server of that folder on this machine, asked for one of its models, whose requests cost so much.

    Raises InputError when the server does not start, or does not refuse.
    """
    with local_server(folder) as server:
        return Wakes(idle_s=IDLE_S, spread_s=tuple(_spreads_s(server, model, cost, n) for n in range(n_cores + 1)))


def _spreads_s(server: LocalServer, model: str, cost: FrontCost, n_busy: int) -> tuple[tuple[float, ...], ...]:
    """By how long the server was idle before; a part that never came up has the values of all. Of a few tries, the first that nothing
    disturbed, or the one that was disturbed least."""
    requests = random_requests(Load(server.url, model, None, timeout_s=NO_TIME_S), f"{server.host}:{server.port}")
    tries: list[tuple[float, Answers]] = []
    while len(tries) < TRIES and min((others for others, _ in tries), default=inf) > CALM_CORES:
        tries.append(_answers(server, requests, n_busy, len(tries)))
    idle_s, waited_s = idle_and_waited_s(min(tries, key=lambda found: found[0])[1], cost)
    if not len(waited_s):
        raise InputError(f"the server refused no request to {model!r} in {SECONDS:g} s: is the machine busy?")
    part = np.searchsorted(IDLE_S, idle_s, "right")
    return tuple(spread_of(waited_s[part == k]) or spread_of(waited_s) for k in range(len(IDLE_S) + 1))


def _answers(server: LocalServer, requests: list[bytes], n_busy: int, seed: int) -> tuple[float, Answers]:
    """Answers, and how many cores others had meanwhile."""
    times_s = make_arrivals("poisson", RATE_HZ, SECONDS, np.random.default_rng(seed))
    with _busy(n_busy) as pids:
        pids = [server.pid, os.getpid(), *pids]
        start_s, others_s = monotonic(), -_others_s(pids)
        answers = uvloop.run(open_loop(server.host, server.port, requests, SETTLE_S + times_s))
        return (others_s + _others_s(pids)) / (monotonic() - start_s), answers


def _others_s(pids: list[int]) -> float:
    """CPU seconds of this machine that were not of these processes."""
    return machine_busy_core_s() - sum(cpu_s(pid) or 0.0 for pid in pids)


def idle_and_waited_s(answers: Answers, cost: FrontCost) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each request that was refused: since the answer before it was there, and what its answer took beyond CPU time."""
    order = np.argsort(answers.start_s)
    due_s, latency_s = np.array(answers.start_s)[order], np.array(answers.latency_s)[order]
    refused = np.array(answers.status)[order] == 503
    before_s = np.concatenate([[-np.inf], np.maximum.accumulate(due_s + latency_s)[:-1]])
    idle_s = np.maximum(due_s - before_s, 0.0)
    spent_s = cost.refusal_s + cost.client_s + cost.wake_s * np.array([lost_frac(rest_s) for rest_s in idle_s])
    return idle_s[refused], np.maximum(latency_s - spent_s, 0.0)[refused]


@contextmanager
def _busy(n_cores: int) -> Iterator[list[int]]:
    """Keeps so many cores busy meanwhile, by processes of these ids."""
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_cores)]
    try:
        yield [child.pid for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
