"""A client's connection, and the connections of one run: what was sent, what came back, and which are free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any

import httptools

from jouleflow.load.answers import Answers
from jouleflow.runtime.time_slice import ask_for_short_slices

HEAD_END = b"\r\n\r\n"
MAX_HEADS = 256


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, owner: Connections) -> None:
        self.owner = owner
        self.parser = httptools.HttpResponseParser(self)
        self.transport: Any = None
        self.started_s = 0.0
        self.busy = False
        self.lost = False
        self.in_answer = False  # some of it has come

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.owner.open.add(self)

    def send(self, request: bytes, started_s: float) -> None:
        self.started_s, self.busy = started_s, True
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """An answer that begins like an earlier one, and is as long, need not be parsed."""
        if not self.in_answer:
            head = data[: data.find(HEAD_END) + 4]
            known = self.owner.heads.get(head)
            if known is not None and known[1] == len(data):
                self._answered(known[0])
                return
        self.in_answer = True
        self.parser.feed_data(data)
        if not self.in_answer and self.parser.should_keep_alive():
            self._remember(data)

    def _remember(self, data: bytes) -> None:
        """The head of an answer that ended with this data, if it was all of it."""
        head, _, body = data.partition(HEAD_END)
        if b"\r\ncontent-length: %d\r\n" % len(body) in head.lower() + b"\r\n" and len(self.owner.heads) < MAX_HEADS:
            self.owner.heads[head + HEAD_END] = self.parser.get_status_code(), len(data)

    def on_message_complete(self) -> None:
        self.in_answer = False
        if not self.parser.should_keep_alive():
            self.transport.close()
            self.owner.is_lost(self)
        self._answered(self.parser.get_status_code())

    def _answered(self, status: int) -> None:
        asked, self.busy = self.busy, False  # a server with too many connections says so before it is asked
        if asked:
            self.owner.answered(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.is_lost(self)
        if self.busy:
            self.busy = False
            self.owner.answered(self, 0)


class Connections:
    """The connections of one run to a server. Requests are sent in turn, again and again."""

    def __init__(self, host: str, port: int, requests: Sequence[bytes]) -> None:
        self.host, self.port, self.requests = host, port, requests
        self.loop = asyncio.get_running_loop()
        ask_for_short_slices()  # it is to measure the server, not its own wait for a core
        self.answers = Answers()
        self.heads: dict[bytes, tuple[int, int]] = {}  # of answers seen: status, and bytes in all
        self.free: list[Connection] = []
        self.open: set[Connection] = set()
        self.n_sent = self.n_flying = 0
        self.done: asyncio.Future[None] = self.loop.create_future()

    async def connect(self) -> None:
        """One more that is free.

        Raises OSError.
        """
        _, connection = await self.loop.create_connection(lambda: Connection(self), self.host, self.port)
        if not connection.lost:
            self.freed(connection)

    def is_lost(self, connection: Connection) -> None:
        if connection.lost:
            return
        connection.lost = True
        self.open.discard(connection)
        if connection in self.free:
            self.free.remove(connection)

    def send(self, connection: Connection, started_s: float) -> None:
        self.n_flying += 1
        connection.send(self.requests[self.n_sent % len(self.requests)], started_s)
        self.n_sent += 1

    def answered(self, connection: Connection, status: int) -> None:
        a = self.answers
        a.start_s.append(connection.started_s)
        a.latency_s.append(monotonic() - connection.started_s)
        a.status.append(status)
        self.n_flying -= 1
        if not connection.transport.is_closing():
            self.freed(connection)
        if not self.n_flying and self.is_over() and not self.done.done():
            self.done.set_result(None)

    def freed(self, connection: Connection) -> None:
        """It can be used (again)."""
        self.free.append(connection)

    def is_over(self) -> bool:
        """Whether nothing more will be sent."""
        return True

    def close(self) -> None:
        """All of them, at the end of the run: a server counts them until then."""
        for connection in list(self.open):
            connection.transport.close()
