"""A load test as one call: what the server says of its model, requests made from that, the load, and the summary."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.load.client import Answers, closed_loop, infer_request, open_loop
from jouleflow.load.told import Told, read_told
from jouleflow.runtime.tensors import NUMPY

MAX_ANSWER_BYTES = 16 << 20
REQUESTS = 8  # different ones, sent in turn


@dataclass(frozen=True, slots=True)
class Load:
    """A load test. arrivals_s: when requests are sent; None keeps n_in_flight of them in flight for duration_s. rows: of each
    request. timeout_s: that each request carries; 0: none."""

    url: str
    model: str
    arrivals_s: NDArray[np.float64] | None
    n_in_flight: int = 16
    duration_s: float = 10.0
    rows: int = 1
    slo_s: float = 0.0
    timeout_s: float = 0.0
    token: str = ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any: the token is for this server only."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, token: str, optional: bool = False) -> Any:
    """The JSON at an address. optional: None when the server has nothing there."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=10) as answer:
            return orjson.loads(answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        if optional and error.code in (400, 404, 405, 501):
            return None
        raise InputError(f"{url}: {error.code} {error.read(500).decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{url} does not answer ({error}): is the server there?") from error


def read_server(load: Load) -> Told:
    """What the server has counted until now.

    Raises InputError when it does not answer, or there is no such model.
    """
    _get(f"{load.url}/v2/models/{load.model}", load.token)
    return read_told(lambda path: _get(f"{load.url}{path}", load.token, optional=True), load.model)


def random_requests(load: Load, host: str) -> list[bytes]:
    """Requests with random values for the model that the server describes.

    Raises InputError when the server does not answer, or the model has sides other than the first that are open.
    """
    described = _get(f"{load.url}/v2/models/{load.model}", load.token)
    random = np.random.default_rng(0)
    requests = []
    for _ in range(REQUESTS):
        inputs = {}
        for port in described["inputs"]:
            shape = [load.rows if k == 0 and side == -1 else side for k, side in enumerate(port["shape"])]
            if -1 in shape or port["datatype"] not in NUMPY:
                raise InputError(
                    f"input {port['name']!r} is {port['datatype']} {port['shape']}: random values do not fit it"
                )
            inputs[port["name"]] = random.integers(0, 2, shape).astype(NUMPY[port["datatype"]])
        requests.append(infer_request(load.model, inputs, host, load.timeout_s, load.token))
    return requests


def run_load(load: Load) -> Answers:
    """The answers to a load.

    Raises InputError for a wrong address, model, or server.
    """
    import uvloop

    parts = urlsplit(load.url)
    if parts.scheme != "http" or not parts.hostname:
        raise InputError(f"{load.url!r} must be http://HOST:PORT")
    host, port = parts.hostname, parts.port or 80
    requests = random_requests(load, f"{host}:{port}")

    async def go() -> Answers:
        if load.arrivals_s is None:
            return await closed_loop(host, port, requests, load.n_in_flight, load.duration_s)
        return await open_loop(host, port, requests, load.arrivals_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(go())
