"""An open loop sends when requests are due, on as many connections as that takes, and reads answers however they come."""

import asyncio
import contextlib
from itertools import pairwise
from time import monotonic

import numpy as np
import pytest
import uvloop

from jouleflow.load.client import closed_loop, open_loop
from jouleflow.load.pacer import SPACING_S, Pacer

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def test_moments_come_in_order_and_never_early() -> None:
    moments_s: list[float] = []
    told: list[tuple[float, int]] = []

    async def go() -> None:
        start_s = monotonic() + 0.02
        moments_s.extend(start_s + t for t in [0.0, *np.linspace(0.01, 0.1, 400), 0.2])
        over = asyncio.Event()

        def due(n: int) -> None:
            told.append((monotonic(), n))
            if n == len(moments_s):
                over.set()

        Pacer(moments_s, due)
        await asyncio.wait_for(over.wait(), 5)

    uvloop.run(go())
    counts = [n for _, n in told]
    assert counts == sorted(set(counts))
    for at_s, n in told:
        assert moments_s[n - 1] <= at_s
    assert min(b - a for (a, _), (b, _) in pairwise(told)) >= SPACING_S * 0.99
    assert len(told) < len(moments_s), "moments that are close share a call"


def test_a_pacer_that_was_stopped_calls_no_more() -> None:
    told: list[int] = []

    async def go() -> None:
        now_s = monotonic()
        pacer = Pacer([now_s + 0.02 * k for k in range(10)], told.append)
        await asyncio.sleep(0.05)
        pacer.stop()
        pacer.stop()
        n = len(told)
        await asyncio.sleep(0.1)
        assert len(told) == n < 10

    asyncio.run(go())


class _Server(asyncio.Protocol):
    """Answers the k-th request with the k-th of its answers, in pieces."""

    def __init__(self, answers: list[list[bytes]], close_after: int | None = None) -> None:
        self.answers, self.close_after, self.n = answers, close_after, 0
        self.n_connections = self.n_open = 0

    def __call__(self) -> asyncio.Protocol:
        self.n_connections += 1
        outer = self

        class One(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport
                outer.n_open += 1

            def connection_lost(self, exc: Exception | None) -> None:
                outer.n_open -= 1

            def data_received(self, data: bytes) -> None:
                asyncio.get_running_loop().create_task(self.answer(data.count(b"\r\n\r\n")))

            async def answer(self, n: int) -> None:
                for _ in range(n):
                    pieces = outer.answers[outer.n % len(outer.answers)]
                    outer.n += 1
                    for piece in pieces:
                        assert isinstance(self.transport, asyncio.Transport)
                        self.transport.write(piece)
                        await asyncio.sleep(0.005)

        return One()


async def _asked(server: _Server, n: int, **how: int) -> tuple[list[int], int]:
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    answers = await open_loop("127.0.0.1", port, [REQUEST], np.linspace(0, 0.1, n), **how)
    listener.close()
    assert len(answers.latency_s) == n
    assert min(answers.latency_s) > 0
    return answers.status, server.n_connections


@pytest.mark.parametrize("pieces", [[ANSWER + b"abcd"], [ANSWER, b"abcd"], [ANSWER[:9], ANSWER[9:] + b"ab", b"cd"]])
def test_answers_in_pieces(pieces: list[bytes]) -> None:
    refused = ANSWER.replace(b"200 OK", b"503 No") + b"late"
    server = _Server([[ANSWER + b"abcd"], pieces, [refused], pieces, [refused]])
    statuses, _ = asyncio.run(_asked(server, 50, max_connections=1))
    assert statuses == [200, 200, 503, 200, 503] * 10


def test_requests_beyond_the_connections_wait_and_that_counts() -> None:
    server = _Server([[ANSWER + b"abcd", b""]])

    async def go() -> None:
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        few = await open_loop("127.0.0.1", port, [REQUEST], np.zeros(60), max_connections=3)
        assert few.status == [200] * 60
        assert server.n_connections == 3
        many = await open_loop("127.0.0.1", port, [REQUEST], np.zeros(60))
        assert many.status == [200] * 60
        assert server.n_connections == 63
        listener.close()

    asyncio.run(go())


def test_what_is_due_in_the_warm_up_is_left_out() -> None:
    server = _Server([[ANSWER + b"abcd"]])

    async def go() -> None:
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        found = await open_loop("127.0.0.1", port, [REQUEST], np.linspace(0, 0.2, 21), warm_up_s=0.095)
        listener.close()
        assert found.status == [200] * 11
        assert len(found.latency_s) == len(found.start_s) == 11
        assert max(found.start_s) - min(found.start_s) == pytest.approx(0.1)
        assert found.duration_s == pytest.approx(0.105, abs=0.05)

    asyncio.run(go())


@pytest.mark.parametrize("loop", ["open", "closed", "open, given up"])
def test_a_run_leaves_no_connection_open(loop: str) -> None:
    """A server counts them: runs in turns in one process would use up what it allows."""
    answers = [[ANSWER]] if "given up" in loop else [[ANSWER + b"abcd"]]  # half an answer
    server = _Server(answers)

    async def go() -> None:
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        if loop == "closed":
            await closed_loop("127.0.0.1", port, [REQUEST], 5, 0.1, 0.0)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(open_loop("127.0.0.1", port, [REQUEST], np.linspace(0, 0.1, 20)), 0.5)
        for _ in range(100):
            if not server.n_open:
                break
            await asyncio.sleep(0.01)
        assert server.n_connections
        assert not server.n_open
        listener.close()

    asyncio.run(go())


def test_nobody_listens() -> None:
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(open_loop("127.0.0.1", 1, [REQUEST], np.zeros(3)))
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(closed_loop("127.0.0.1", 1, [REQUEST], 2, 0.1))


def test_no_requests_are_no_answers() -> None:
    assert asyncio.run(open_loop("127.0.0.1", 1, [REQUEST], np.empty(0))).status == []
