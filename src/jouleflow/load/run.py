"""A load test as one call: what the server says of its model, requests made from that, the load, and the summary."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.load.answers import Answers
from jouleflow.load.ask import ask
from jouleflow.load.client import closed_loop, infer_request, open_loop
from jouleflow.load.shared_memory import Extents, shared_inputs
from jouleflow.load.told import Told, read_told
from jouleflow.runtime.tensors import NUMPY

REQUESTS = 8  # different ones, sent in turn


@dataclass(frozen=True, slots=True)
class Load:
    """A load test. arrivals_s: when requests are sent; None keeps n_in_flight of them in flight for duration_s. rows: of each
    request. timeout_s: that each request carries; 0: none. shared_memory: whether inputs are left in shared memory."""

    url: str
    model: str
    arrivals_s: NDArray[np.float64] | None
    n_in_flight: int = 16
    duration_s: float = 10.0
    rows: int = 1
    slo_s: float = 0.0
    timeout_s: float = 0.0
    token: str = ""
    shared_memory: bool = False


def read_server(load: Load) -> Told:
    """What the server has counted until now.

    Raises InputError when it does not answer, or there is no such model.
    """
    ask(f"{load.url}/v2/models/{load.model}", load.token)
    return read_told(lambda path: ask(f"{load.url}{path}", load.token, optional=True), load.model)


def random_inputs(load: Load) -> list[dict[str, NDArray[Any]]]:
    """Inputs with random values for the model that the server describes.

    Raises InputError when the server does not answer, or the model has sides other than the first that are open.
    """
    described = ask(f"{load.url}/v2/models/{load.model}", load.token)
    random = np.random.default_rng(0)
    requests = list[dict[str, NDArray[Any]]]()
    for _ in range(REQUESTS):
        inputs = dict[str, NDArray[Any]]()
        for port in described["inputs"]:
            shape = [load.rows if k == 0 and side == -1 else side for k, side in enumerate(port["shape"])]
            if -1 in shape or port["datatype"] not in NUMPY:
                raise InputError(
                    f"input {port['name']!r} is {port['datatype']} {port['shape']}: random values do not fit it"
                )
            inputs[port["name"]] = random.integers(0, 2, shape).astype(NUMPY[port["datatype"]])
        requests.append(inputs)
    return requests


def random_requests(load: Load, host: str, extents: Sequence[Extents] = ()) -> list[bytes]:
    """Requests with `random_inputs`. extents: where the inputs of each lie, when they are in shared memory.

    Raises InputError as they do.
    """
    return [
        infer_request(load.model, inputs, host, load.timeout_s, load.token, extents[k] if extents else {})
        for k, inputs in enumerate(random_inputs(load))
    ]


def run_load(load: Load) -> Answers:
    """The answers to a load.

    Raises InputError for a wrong address, model, or server.
    """
    parts = urlsplit(load.url)
    if parts.scheme != "http" or not parts.hostname:
        raise InputError(f"{load.url!r} must be http://HOST:PORT")
    host, port = parts.hostname, parts.port or 80
    with contextlib.ExitStack() as undo:
        extents: Sequence[Extents] = ()
        if load.shared_memory:
            extents = undo.enter_context(shared_inputs(load.url, load.token, random_inputs(load)))
        return _sent(load, host, port, random_requests(load, f"{host}:{port}", extents))


def _sent(load: Load, host: str, port: int, requests: list[bytes]) -> Answers:
    import uvloop

    async def go() -> Answers:
        if load.arrivals_s is None:
            return await closed_loop(host, port, requests, load.n_in_flight, load.duration_s)
        return await open_loop(host, port, requests, load.arrivals_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(go())
