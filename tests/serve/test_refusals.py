"""Under overload a request that looks like one just refused is refused without being looked at: only when it would be refused anyway."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jouleflow.policy.batch import BatchPolicy, Table
from jouleflow.policy.deeprt import DeepRt
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.queue import ModelQueue
from jouleflow.runtime.process import ModelProcess, Settings
from jouleflow.serve.limits import Limits
from jouleflow.serve.oip import Header
from jouleflow.serve.repository import ModelSettings, ModelSpec
from jouleflow.serve.served import ServedModel
from jouleflow.serve.server import Server, open_server
from jouleflow.serve.settings import ServerSettings
from jouleflow.serve.shared_memory import ClientRegions
from jouleflow.serve.tally import Tally

SLO_S, ROW_S = 0.05, 0.003


def a_header(n_rows: int, timeout_s: float) -> Header:
    return Header("", (), (), timeout_s, 5, n_rows, ((4,),), (0,), 0, 0, False)


def a_served(folder: Path, name: str, queue: ModelQueue) -> ServedModel:
    """A model without a process: nothing runs here."""
    nothing: Any = None
    spec = ModelSpec(name, "1", folder / f"{name}.onnx", ModelSettings())
    process = ModelProcess(Settings(spec.path), nothing, nothing)
    process.alive = True
    return ServedModel(spec, process, queue, print, Tally(), ClientRegions(Limits(), False))


def a_queue(server: Server, name: str, policy: BatchPolicy | None = None) -> ModelQueue:
    queue = ModelQueue(policy or Table(), 16, 2, SLO_S, 512, 1 << 30)
    for n in (1, 4, 16):
        queue.latencies.start_from(n, ROW_S * n)
    server.dispatcher.queues[name] = queue
    return queue


@pytest.mark.parametrize("policy", [Table, DeepRt])
@pytest.mark.parametrize("seed", range(6))
def test_it_would_have_been_refused_anyway(tmp_path: Path, seed: int, policy: Callable[[], BatchPolicy]) -> None:
    random = np.random.default_rng(seed)
    server = open_server(tmp_path, ServerSettings(n_cores=2))
    models = {name: a_queue(server, name, policy()) for name in ("one", "other")}
    served = {n: a_served(tmp_path, n, q) for n, q in models.items()}
    server._pumping = True  # so it thinks, and no batch is started
    headers = {n: [a_header(int(r), t) for r, t in ((1, 0.0), (3, 0.0), (1, 0.02))] for n in models}
    now_s, n_again = 1.0, 0
    for _ in range(6000):
        now_s += float(random.exponential(1.5e-4))
        for start in [s for s in server.dispatcher.running if s.ends_s * random.uniform(0.9999, 1.0001) <= now_s]:
            start.queue.batch_ended(start.batch, start.n_rows, start.started_s, now_s)
            server.dispatcher.ended(start)
            for job in start.batch:
                start.queue.end(job, Result(End.COMPLETED))
        while server.dispatcher.next(now_s) is not None:
            pass
        name = str(random.choice(list(models)))
        header = headers[name][random.integers(3)]
        limit_s = min(header.timeout_s or inf, SLO_S)
        job = Job(
            SimpleNamespace(header=header), 16, header.n_rows, header.kind, now_s, now_s + limit_s, 5, print_nothing
        )
        before = models[name].counts.copy()
        again = server.refused_again(served[name], header, now_s)
        if again is None:
            assert models[name].counts == before
            server.offer(served[name], job)
            continue
        n_again += 1
        assert (again.end, again.status) == (End.REJECTED, 503)
        assert again.retry_s > 0
        assert models[name].counts - before == {"accepted": 1, "rejected": 1}
        let_in = server.dispatcher.offer(models[name], job, now_s)
        assert not let_in or again.retry_s < 1e-4, "the limit drifts back, but no further than that"
    assert n_again > 1000
    for queue in models.values():
        assert queue.counts["completed"] > 50


def print_nothing(result: Result) -> None:
    pass


def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    server = open_server(tmp_path, ServerSettings(n_cores=1))
    queue, header = a_queue(server, "one"), a_header(16, 0.0)
    served = a_served(tmp_path, "one", queue)
    server._pumping = True  # so it thinks, and no batch is started
    said: list[Result] = []
    for k in range(3):
        now_s = 1.0 + k * 1e-4
        server.offer(served, Job(SimpleNamespace(header=header), 16, 16, ((4,),), now_s, now_s + SLO_S, 5, said.append))
        server.dispatcher.next(now_s)
    assert [r.status for r in said] == [503, 503]
    assert server.refused_again(served, header, 1.001) is not None
    assert server.refused_again(served, a_header(16, 0.0), 1.001) is None, "another header was not refused yet"
    served.process.alive = False
    assert server.refused_again(served, header, 1.001) is None
    served.process.alive, server.draining = True, True
    assert server.refused_again(served, header, 1.001) is None
