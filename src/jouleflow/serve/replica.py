"""One node of a cluster: the same server as on a single machine, asked in groups of requests instead of over a socket.

Knows nothing of Ray: `cluster.py` makes a Serve deployment of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from jouleflow.errors import InputError
from jouleflow.runtime.meter import ASSUMED_CORE_W, open_meter
from jouleflow.serve import describe
from jouleflow.serve.access import make_access
from jouleflow.serve.api import LENGTH, Api, answer_error
from jouleflow.serve.history import History
from jouleflow.serve.request import Request, relayed_request
from jouleflow.serve.server import Server, open_server
from jouleflow.serve.settings import ServerSettings
from jouleflow.serve.shipping import unpack_models

UNHEALTHY_S = 30.0  # a model's process that has been dead for so long will not come back on this node


@dataclass(frozen=True, slots=True)
class Wire:
    """A request that was let in elsewhere. header_bytes: as Inference-Header-Content-Length says; empty when it was not there. waited_s:
    since it was let in; how long, not since when, as machines have clocks of their own."""

    method: bytes
    target: bytes
    header_bytes: bytes
    body: bytes
    waited_s: float = 0.0


Answers = list[tuple[int, bytes]]  # which of the group, and the answer's bytes as HTTP


class Replica:
    """A server of shipped models. Made by `start_replica`."""

    def __init__(self, server: Server, folder: Path, node: str, core_w: float) -> None:
        self.server, self.folder, self.node = server, folder, node
        meter = open_meter(lambda: [os.getpid(), *(m.process.pid for m in server.models.values())], core_w)
        self.history = History(server, meter)
        self.api = Api(server, make_access("127.0.0.1", (), "", False), self.history)
        self._watches: list[asyncio.Task[None]] = []
        self._dead_since_s: dict[str, float] = {}

    async def answer(self, wires: Sequence[Wire]) -> AsyncIterator[Answers]:
        """Answers as they come, those that are there at the same time together. Who stops asking cancels what still waits."""
        group = _Group()
        requests = [self._put(group, index, wire) for index, wire in enumerate(wires)]
        n_left = len(requests)
        try:
            while n_left:
                await group.some.wait()
                answers = group.take()
                n_left -= len(answers)
                yield answers
        finally:
            for request in requests:
                if request.job is not None:
                    request.job.cancelled = True

    def _put(self, group: _Group, index: int, wire: Wire) -> Request:
        headers = {b"host": b"localhost"}
        if wire.header_bytes:
            headers[LENGTH] = wire.header_bytes
        place = _Place(group, index)
        place.request = request = relayed_request(place, wire.method, wire.target, headers, wire.body, wire.waited_s)
        try:
            self.api(request)
        except Exception as error:  # one bad request must not take its company with it
            answer_error(request, 500, f"{type(error).__name__} while it was read")
        return request

    def statistics(self) -> dict[str, Any]:
        """What this node has done, and what it could not serve."""
        return {
            "node": self.node,
            "models": [describe.statistics(m) for m in self.server.models.values()],
            "problems": dict(self.server.problems),
            "deaths": dict(self.server.n_deaths),
            "energy_j": self.history.energy_j(),
            "provenance": self.history.meter.provenance,
            "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        }

    def check(self) -> None:
        """Raises RuntimeError when this node should be given up: a model is dead and has not come back."""
        now_s = monotonic()
        for name, served in self.server.models.items():
            if served.ready:
                self._dead_since_s.pop(name, None)
            elif now_s - self._dead_since_s.setdefault(name, now_s) > UNHEALTHY_S:
                raise RuntimeError(
                    f"model {name} has been dead for {UNHEALTHY_S:g} s: {self.server.problems.get(name)}"
                )

    def watch(self) -> None:
        """From now on ends what would never end, and charges what was wasted."""
        loop = asyncio.get_running_loop()
        self._watches += [loop.create_task(self.server.watch()), loop.create_task(self.history.run())]

    def close(self) -> None:
        """Ends the models and forgets their files."""
        self.server.draining = True
        while self._watches:
            self._watches.pop().cancel()
        for served in self.server.models.values():
            served.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


async def start_replica(
    shipped: Sequence[Mapping[str, bytes]], settings: ServerSettings, node: str, core_w: float = ASSUMED_CORE_W
) -> Replica:
    """A replica that is ready. shipped: the files of each model. core_w: power of a busy core, where no meter is found.

    Raises InputError when no model can be served.
    """
    folder = Path(tempfile.mkdtemp(prefix="jouleflow-models-"))
    replica = None
    try:
        for files in shipped:
            unpack_models(files, folder)
        replica = Replica(open_server(folder, settings), folder, node, core_w)
        await replica.server.load_all()
        if not replica.server.models:
            raise InputError(f"no model can be served: {replica.server.problems}")
        replica.watch()
    except BaseException:
        if replica is not None:
            replica.close()
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        raise
    gc.collect()
    gc.freeze()  # as in the single server: what is here now stays
    return replica


class _Group:
    """The answers that have come and were not taken yet."""

    def __init__(self) -> None:
        self.some = asyncio.Event()
        self._answers: Answers = []

    def put(self, index: int, answer: bytes) -> None:
        self._answers.append((index, answer))
        self.some.set()

    def take(self) -> Answers:
        answers, self._answers = self._answers, []
        self.some.clear()
        return answers


class _Place:
    """Where the answer of one request of a group goes."""

    def __init__(self, group: _Group, index: int) -> None:
        self.group, self.index = group, index
        self.request: Request | None = None

    def is_last(self, request: Request) -> bool:
        return False  # the front's connections are its own matter

    def flush(self) -> None:
        request, self.request = self.request, None  # no ring is left behind
        if request is not None and request.answer is not None:
            self.group.put(self.index, request.answer)
