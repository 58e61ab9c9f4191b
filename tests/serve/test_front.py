"""A cluster's front from its start to its end, without Ray: when it is told to stop, what was accepted is answered and read."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import uvloop

from jouleflow.serve.app import AppSettings
from jouleflow.serve.cluster import front_until_told
from jouleflow.serve.limits import Limits
from jouleflow.serve.replica import Answers, Wire
from jouleflow.serve.request import JSON_HEADERS, answer_head
from jouleflow.serve.settings import ServerSettings

ASK = b"POST /v2/models/large/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
BODY = bytes(range(256)) * (64 << 10)  # 16 MiB: more than the system keeps of what is not read


class OneNode:
    """Answers each request with BODY, as soon as it may."""

    def __init__(self) -> None:
        self.slos_s: dict[str, float] = {}
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def carry(self, wires: Sequence[Wire]) -> AsyncIterator[Answers]:
        self.asked.set()
        await self.may_answer.wait()
        yield [(k, answer_head(200, JSON_HEADERS, len(BODY)) + BODY) for k in range(len(wires))]

    async def ask_all(self) -> list[dict[str, Any]]:
        polite = {"node": "there", "models": [], "problems": {}, "niceness": 15}
        return [{"node": "here", "models": [], "problems": {"broken": "no model"}, "niceness": 0}, polite]

    def n_running(self) -> int:
        return 1


class Front:
    """`front_until_told` before one node. notes: what it said."""

    def __init__(self, limits: Limits) -> None:
        self.node, self.notes = OneNode(), list[str]()
        self._listens = asyncio.Event()
        settings = ServerSettings(limits=limits), AppSettings(http="127.0.0.1:0")
        self.task = asyncio.create_task(front_until_told(self.node, 1, *settings, self._note))

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if "listening" in text:
            self._listens.set()

    async def port(self) -> int:
        await self._listens.wait()
        return int(self.notes[-1].rpartition(" ")[2])

    async def tell(self) -> None:
        """Tells it to stop, and waits until it takes nothing new."""
        port = await self.port()
        signal.raise_signal(signal.SIGTERM)
        while await accepts(port):
            await asyncio.sleep(0.001)


async def accepts(port: int) -> bool:
    """Whether somebody listens."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def ask(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which the large answer was asked for, of a client that keeps little of what it has not yet read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(ASK)
    return reader, writer


def fronted(work: Callable[[Front], Awaitable[None]], limits: Limits | None = None) -> list[str]:
    """What a front said that was asked by work(front), which tells it to stop, and then ended by itself."""

    async def main() -> list[str]:
        front = Front(limits or Limits())
        async with asyncio.timeout(30):
            await work(front)
            await front.task
        return front.notes

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


@pytest.mark.parametrize("answered", ["before it is told", "after it was told"])
def test_who_reads_slowly_gets_all_of_it(answered: str) -> None:
    async def work(front: Front) -> None:
        reader, writer = await ask(await front.port())
        await front.node.asked.wait()
        if answered == "before it is told":
            front.node.may_answer.set()
            await reader.readuntil(b"\r\n\r\n")
            await front.tell()
        else:
            await front.tell()
            assert not front.task.done()
            front.node.may_answer.set()
            assert b"\r\nconnection: close\r\n" in await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(BODY), 1 << 20):
            await asyncio.sleep(0.02)  # meanwhile the front looks whether it may end
            assert at or not front.task.done()
            assert await reader.readexactly(1 << 20) == BODY[at : at + (1 << 20)]
        assert await reader.read() == b""
        writer.close()

    fronted(work)


def test_who_reads_nothing_is_waited_for_no_longer_than_was_set() -> None:
    async def work(front: Front) -> None:
        front.node.may_answer.set()
        reader, _ = await ask(await front.port())
        await reader.readuntil(b"\r\n\r\n")
        await front.tell()
        await front.task
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await reader.readexactly(len(BODY))

    fronted(work, Limits(drain_s=0.1))


def test_what_it_says() -> None:
    told, niceness, listens, stops = fronted(lambda front: front.tell())
    assert told == "not served on node here: broken: no model"
    assert niceness.startswith("node there runs the models at niceness 15, ")
    assert listens.startswith("listening: http on port ")
    assert stops == "stopping: answering what was accepted"
