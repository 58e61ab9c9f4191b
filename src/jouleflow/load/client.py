"""Load on a server, and what came of it: closed loop (so many requests in flight) and open loop (requests at given times).

The request is made once and sent again and again, binary over HTTP; the client costs some 20 microseconds a request, so that
it measures the server and not itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import MappingProxyType
from typing import Any

import httptools
import numpy as np
import orjson
from numpy.typing import NDArray

from jouleflow.load.pacer import Pacer
from jouleflow.runtime.tensors import NAMES
from jouleflow.runtime.time_slice import ask_for_short_slices


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


@dataclass
class Answers:
    """What came back. start_s and latency_s per answered request; statuses counted, 0 for a lost connection."""

    start_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    duration_s: float = 0.0

    def summary(self, slo_s: float = 0.0, rows: int = 1) -> dict[str, Any]:
        """perf_analyzer's words: throughput and percentiles of what succeeded; goodput is the requests that met the SLO, a second;
        rejection is how long it took to say no at once (429, 503). rows: of each request; each is an inference."""
        status = np.array(self.status)
        good = np.array(self.latency_s)[status == 200] if len(status) else np.empty(0)
        refused = (status == 429) | (status == 503)
        bad = np.array(self.latency_s)[refused] if len(status) else np.empty(0)
        met = int((good <= slo_s).sum()) if slo_s else len(good)
        span = max(self.duration_s, 1e-9)
        out: dict[str, Any] = {
            "requests": len(status),
            "succeeded": len(good),
            "statuses": {str(k): v for k, v in sorted(Counter(self.status).items())},
            "infer_per_s": len(good) * rows / span,
            "requests_per_s": len(good) / span,
            "goodput_per_s": met / span,
            "slo_attained_frac": met / len(status) if len(status) else 0.0,
        }
        out["latency_mean_s"] = float(good.mean()) if len(good) else None
        for name, values in (("latency", good), ("rejection", bad)):
            for p in (50, 90, 95, 99):
                out[f"{name}_p{p}_s"] = float(np.percentile(values, p)) if len(values) else None
        return out


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, owner: _Load) -> None:
        self.owner = owner
        self.parser = httptools.HttpResponseParser(self)
        self.transport: Any = None
        self.started_s = 0.0
        self.busy = False
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.owner.n_open += 1

    def send(self, request: bytes, started_s: float) -> None:
        self.started_s, self.busy = started_s, True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        asked, self.busy = self.busy, False  # a server with too many connections says so before it is asked
        status = self.parser.get_status_code()
        if not self.parser.should_keep_alive():
            self.transport.close()
            self.owner.lost(self)
        self.parser = httptools.HttpResponseParser(self)
        if asked:
            self.owner.answered(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.lost(self)
        if self.busy:
            self.busy = False
            self.owner.answered(self, 0)


class _Load:
    """The connections of one run."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes]) -> None:
        self.host, self.port, self.requests = host, port, requests
        self.loop = asyncio.get_running_loop()
        ask_for_short_slices()  # it is to measure the server, not its own wait for a core
        self.answers = Answers()
        self.free: list[_Connection] = []
        self.n_open = self.n_sent = self.n_flying = 0
        self.until_s = 0.0
        self.closed_loop = False
        self.done: asyncio.Future[None] = self.loop.create_future()

    async def connect(self, n: int) -> None:
        for _ in range(n):
            _, connection = await self.loop.create_connection(lambda: _Connection(self), self.host, self.port)
            if not connection.lost:
                self.free.append(connection)

    def lost(self, connection: _Connection) -> None:
        if connection.lost:
            return
        connection.lost = True
        self.n_open -= 1
        if connection in self.free:
            self.free.remove(connection)

    def send(self, connection: _Connection, started_s: float) -> None:
        self.n_flying += 1
        connection.send(self.requests[self.n_sent % len(self.requests)], started_s)
        self.n_sent += 1

    def answered(self, connection: _Connection, status: int) -> None:
        now_s = monotonic()
        self.n_flying -= 1
        a = self.answers
        a.start_s.append(connection.started_s)
        a.latency_s.append(now_s - connection.started_s)
        a.status.append(status)
        alive = not connection.transport.is_closing()
        if self.closed_loop and now_s < self.until_s and alive:
            self.send(connection, now_s)
        else:
            if alive:
                self.free.append(connection)
            over = now_s >= self.until_s or (self.closed_loop and not self.n_open)
            if not self.n_flying and over and not self.done.done():
                self.done.set_result(None)


async def closed_loop(
    host: str, port: int, requests: Sequence[bytes], n_in_flight: int, duration_s: float, warm_up_s: float = 0.5
) -> Answers:
    """Keeps so many requests in flight, each on a connection of its own. The warm-up is left out."""
    load = _Load(host, port, requests)
    await load.connect(n_in_flight)
    load.closed_loop = True
    start_s = monotonic()
    load.until_s = start_s + warm_up_s + duration_s
    for connection in list(load.free):
        load.free.remove(connection)
        load.send(connection, monotonic())
    await asyncio.wait_for(load.done, warm_up_s + duration_s + 60)
    return _after(load.answers, start_s + warm_up_s, duration_s)


async def open_loop(
    host: str, port: int, requests: Sequence[bytes], arrivals_s: NDArray[np.float64], max_connections: int = 1000
) -> Answers:
    """Sends requests at given times, whatever the server does; latency counts from the time when a request was due.

    A request for which no connection is free opens one, up to max_connections; beyond that it waits, and that counts.
    """
    load = _Load(host, port, requests)
    await load.connect(min(32, max_connections))
    start_s = monotonic() + 0.05
    load.until_s = np.inf
    pacer = Pacer(start_s + np.asarray(arrivals_s, np.float64))
    try:
        for k, due_s in enumerate(arrivals_s):
            if pacer.n_due <= k:
                await pacer.due(k)
            elif k % 64 == 0:
                await asyncio.sleep(0)
            while not load.free:
                if load.n_open < max_connections:
                    await load.connect(1)
                else:
                    await asyncio.sleep(0.001)
            load.send(load.free.pop(), start_s + float(due_s))
    finally:
        pacer.stop()
    load.until_s = 0.0
    if load.n_flying:
        await asyncio.wait_for(load.done, 120)
    load.answers.duration_s = max(monotonic() - start_s, float(arrivals_s[-1]) if len(arrivals_s) else 0.0)
    return load.answers


def _after(answers: Answers, from_s: float, duration_s: float) -> Answers:
    kept = [
        (a, b, c)
        for a, b, c in zip(answers.start_s, answers.latency_s, answers.status, strict=True)
        if from_s <= a + b <= from_s + duration_s
    ]
    return Answers([a for a, _, _ in kept], [b for _, b, _ in kept], [c for _, _, c in kept], duration_s)
