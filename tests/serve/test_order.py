"""What goes first: the next batch of a backlog before the answers of the last, and urgent requests as the operator says, not their senders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
from pathlib import Path

from jouleflow.load.client import infer_request
from jouleflow.policy.job import Job, Result
from jouleflow.serve.served import ServedModel
from jouleflow.serve.server import open_server
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import serving
from tests.serve.decoding import asked
from tests.serve.test_chaos import X, counts, slow
from tests.serve.test_faults import until


def test_the_next_batch_runs_while_answers_are_written(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    (tmp_path / "double").mkdir()
    (tmp_path / "double.onnx").rename(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text("max_batch = 1\ninstances = 1\n")

    async def go() -> list[int]:
        server = open_server(tmp_path, ServerSettings(n_cores=1))
        served = await server.load("double")
        running, over = list[int](), asyncio.get_running_loop().create_future()

        def done(result: Result) -> None:
            running.append(served.queue.n_running)
            if len(running) == 4:
                over.set_result(None)

        for _ in range(4):
            server.offer(served, a_job(served, done))
        await asyncio.wait_for(over, 30)
        await server.stop()
        return running

    def a_job(served: ServedModel, done: object) -> Job:
        raw = infer_request("double", X)
        head, _, body = raw.partition(b"\r\n\r\n")
        n = int(head.lower().partition(b"inference-header-content-length: ")[2].partition(b"\r\n")[0])
        return served.job(asked(served.decoder, body, n), asyncio.get_running_loop().time(), done)  # type: ignore[arg-type]

    assert asyncio.run(go()) == [1, 1, 1, 0]


def test_a_request_can_lower_its_priority_and_not_raise_it(tmp_path: Path) -> None:
    """One batch of one request at a time, and the model's process held until all wait."""
    expected = ["running", "first", "second", "third", "last"]
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("priority = 5\nmax_batch = 1\ninstances = 1\n")
    with serving(tmp_path, ServerSettings(n_cores=1)) as server, contextlib.ExitStack() as after:
        process = server.inside(lambda: server.app.server.models["slow"].process)
        os.kill(process.pid, signal.SIGSTOP)
        sockets = {}
        for n, (name, priority) in enumerate({"running": 0, "last": 200, "first": 0, "second": 1, "third": 5}.items()):
            s = sockets[name] = after.enter_context(socket.create_connection(("127.0.0.1", server.port), 60))
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1500], "data": [1.0] * 1500}
            body = json.dumps({"inputs": [tensor], "parameters": {"priority": priority}}).encode()
            s.sendall(f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)  # fmt: skip
            assert until(
                lambda n=n: counts(server, "slow")["waiting"] == n and counts(server, "slow")["running_batches"]
            )
        os.kill(process.pid, signal.SIGCONT)
        waiting, order = {s: name for name, s in sockets.items()}, []
        while waiting:
            readable, _, _ = select.select(list(waiting), [], [], 60)
            assert readable
            together = [waiting.pop(s) for s in readable]  # which of these was first is not to be seen
            order += sorted(together, key=expected.index)
        assert order == expected
