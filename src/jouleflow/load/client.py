"""Load on a server, and what came of it: closed loop (so many requests in flight) and open loop (requests at given times).

The request is made once and sent again and again, binary over HTTP; the client costs some 10 to 25 microseconds a request, so that
it measures the server and not itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import inf
from time import monotonic
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from jouleflow.load.answers import Answers
from jouleflow.load.connection import Connection, Connections
from jouleflow.load.pacer import Pacer
from jouleflow.runtime.tensors import NAMES


def infer_request(
    model: str,
    inputs: Mapping[str, NDArray[Any]],
    host: str = "localhost",
    timeout_s: float = 0.0,
    token: str = "",
    extents: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> bytes:
    """The bytes of a request with binary tensors, in and out. extents: of inputs that are not sent, as they lie in shared memory."""
    specs = [
        {
            "name": k,
            "datatype": NAMES[v.dtype],
            "shape": list(v.shape),
            "parameters": dict(extents.get(k, {"binary_data_size": v.nbytes})),
        }
        for k, v in inputs.items()
    ]
    parameters: dict[str, Any] = {"binary_data_output": True}
    if timeout_s:
        parameters["timeout"] = round(timeout_s * 1e6)
    head = orjson.dumps({"inputs": specs, "parameters": parameters})
    body = head + b"".join(v.tobytes() for k, v in inputs.items() if k not in extents)
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    lines = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\n{authorization}"
        f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return lines.encode() + body


# Connections of an open loop that are there at its start, and that are being opened at once when more are needed: each costs as much as ten requests,
# which would be late while a thousand are opened after a stall.
READY = 32


class _ClosedLoop(Connections):
    """Sends the next request as soon as one is answered, until a moment."""

    until_s = inf

    def freed(self, connection: Connection) -> None:
        now_s = monotonic()
        if now_s < self.until_s:
            self.send(connection, now_s)
        else:
            self.free.append(connection)

    def is_over(self) -> bool:
        return monotonic() >= self.until_s or not self.open


class _OpenLoop(Connections):
    """Sends requests that are due on whatever connection is free, and opens more while there are not enough."""

    def __init__(
        self, host: str, port: int, requests: Sequence[bytes], due_s: list[float], max_connections: int
    ) -> None:
        super().__init__(host, port, requests)
        self.due_s, self.n_due, self.max_connections = due_s, 0, max_connections
        self.opening: set[asyncio.Task[None]] = set()

    def due(self, n: int) -> None:
        """So many of the requests are due."""
        self.n_due = n
        while self.free and self.n_sent < n:
            self.send(self.free.pop(), self.due_s[self.n_sent])
        self._open_more()

    def freed(self, connection: Connection) -> None:
        if self.n_sent < self.n_due:
            self.send(connection, self.due_s[self.n_sent])
        else:
            self.free.append(connection)

    def is_lost(self, connection: Connection) -> None:
        super().is_lost(connection)
        self._open_more()

    def _open_more(self) -> None:
        n_wanted = min(self.n_due - self.n_sent, self.max_connections - len(self.open), READY)
        for _ in range(n_wanted - len(self.opening)):
            task = self.loop.create_task(self.connect())
            self.opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self.opening.discard(task)
        if task.cancelled() or self.done.done():
            return
        if (error := task.exception()) is not None:
            self.done.set_exception(error)
        else:
            self._open_more()

    def is_over(self) -> bool:
        return self.n_sent == len(self.due_s)


async def closed_loop(
    host: str, port: int, requests: Sequence[bytes], n_in_flight: int, duration_s: float, warm_up_s: float = 0.5
) -> Answers:
    """Keeps so many requests in flight, each on a connection of its own. The warm-up is left out."""
    load = _ClosedLoop(host, port, requests)
    start_s = monotonic()
    load.until_s = start_s + warm_up_s + duration_s
    try:
        for _ in range(n_in_flight):
            await load.connect()
        await asyncio.wait_for(load.done, warm_up_s + duration_s + 60)
    finally:
        load.close()
    return _after(load.answers, start_s + warm_up_s, duration_s)


async def open_loop(
    host: str,
    port: int,
    requests: Sequence[bytes],
    arrivals_s: NDArray[np.float64],
    max_connections: int = 1000,
    warm_up_s: float = 0.0,
) -> Answers:
    """Sends requests at given times, whatever the server does; latency counts from the time when a request was due. Those due in the
    warm-up are left out.

    A request for which no connection is free opens one, up to max_connections; beyond that it waits, and that counts.
    """
    start_s = monotonic() + 0.05
    due_s = (start_s + np.asarray(arrivals_s, np.float64)).tolist()
    load = _OpenLoop(host, port, requests, due_s, max_connections)
    if not due_s:
        return load.answers
    try:
        for _ in range(min(READY, max_connections)):
            await load.connect()
        pacer = Pacer(due_s, load.due)
        try:
            await asyncio.wait_for(load.done, due_s[-1] - start_s + 120)
        finally:
            pacer.stop()
    finally:
        for task in load.opening:
            task.cancel()
        load.close()
    load.answers.duration_s = max(monotonic() - start_s, due_s[-1] - start_s)
    return load.answers if not warm_up_s else _due_after(load.answers, start_s, warm_up_s)


def _due_after(answers: Answers, start_s: float, warm_up_s: float) -> Answers:
    kept = [k for k, due_s in enumerate(answers.start_s) if due_s >= start_s + warm_up_s]
    start, latency, status = answers.start_s, answers.latency_s, answers.status
    return Answers(
        [start[k] for k in kept], [latency[k] for k in kept], [status[k] for k in kept], answers.duration_s - warm_up_s
    )


def _after(answers: Answers, from_s: float, duration_s: float) -> Answers:
    kept = [
        (a, b, c)
        for a, b, c in zip(answers.start_s, answers.latency_s, answers.status, strict=True)
        if from_s <= a + b <= from_s + duration_s
    ]
    return Answers([a for a, _, _ in kept], [b for _, b, _ in kept], [c for _, _, c in kept], duration_s)
