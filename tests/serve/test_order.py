"""What the loop does first when a batch ends: the next batch of a backlog starts before the answers are written."""

from __future__ import annotations

import asyncio
from pathlib import Path

from jouleflow.load.client import infer_request
from jouleflow.policy.job import Job, Result
from jouleflow.serve.served import ServedModel
from jouleflow.serve.server import ServerSettings, open_server
from tests.runtime.models import affine
from tests.serve.decoding import asked
from tests.serve.test_chaos import X


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
