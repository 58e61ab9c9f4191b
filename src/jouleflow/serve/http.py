"""HTTP/1.1 on the event loop: one small object a connection, when it begins and ends, and all connections of a listener together.

What is read and written between belongs to http_requests and http_answers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any

from jouleflow.serve.http_requests import RequestReader
from jouleflow.serve.limits import Limits
from jouleflow.serve.reading import Reading
from jouleflow.serve.request import Handler, HttpError

LINGER_S = 2.0
RECEIVE_BYTES = 16 << 10
LEAST_READ_BYTES = 64 << 10  # that a client must read of what is due, each send_s


@dataclass
class Connections:
    """The open connections of a listener, their handler and their limits; swept once a second for slow ones. reading: where bodies are
    inflated that grow large."""

    handler: Handler
    limits: Limits
    reading: Reading

    def __post_init__(self) -> None:
        self.open: set[Connection] = set()
        self.draining = False
        self.received_bytes = bytearray(RECEIVE_BYTES)  # one for all: what is received is used before the next is
        self.received = memoryview(self.received_bytes)
        self.n_arriving_bytes = 0  # of bodies that are not complete
        self.n_unsent_bytes = 0  # of answers, as far as their connections have counted them
        self.n_spare_bytes = 0

    def protocol(self) -> Connection:
        return Connection(self)

    async def sweep(self) -> None:
        """Ends connections that are too slow, for as long as it runs."""
        while True:
            await asyncio.sleep(1.0)
            now_s = monotonic()
            for connection in list(self.open):
                connection.check(now_s)

    def bound_unsent(self) -> None:
        """Ends the connection with the most unsent answers when all together have too many."""
        if self.n_unsent_bytes <= self.limits.max_unsent_bytes:
            return
        for connection in self.open:  # they may have been sent since
            if connection.n_unsent_bytes:
                connection.count_unsent()
        if self.n_unsent_bytes > self.limits.max_unsent_bytes:
            max(self.open, key=lambda connection: connection.n_unsent_bytes).end()

    def drain(self) -> None:
        """What is being answered is answered, and the last answer of each connection says that it closes. What comes meanwhile is
        answered too: the handler knows that it must not be taken in."""
        self.draining = True

    async def close(self, within_s: float) -> None:
        """Closes the connections, each once its client has read what is due."""
        until_s = monotonic() + within_s
        for connection in list(self.open):
            connection.drain()
        while self.open and monotonic() < until_s:
            await asyncio.sleep(0.01)
        for connection in list(self.open):
            connection.transport.abort()


class Connection(RequestReader):
    """One client."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.since_s = monotonic()
        self.owner.open.add(self)
        if len(self.owner.open) > 2 * self.limits.max_connections:
            transport.abort()  # not even a word: those words are waited for by as many as may be served
        elif len(self.owner.open) > self.limits.max_connections or self.owner.draining:
            self._fail(HttpError(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.open.discard(self)
        self._release()
        self._keep_spare(None)
        self.owner.n_unsent_bytes -= self.n_unsent_bytes
        self.n_unsent_bytes = 0
        self.broken = True
        self.held.clear()
        for request in self.waiting:
            if request.answer is None and request.job is not None:
                request.job.cancelled = True
        self.waiting.clear()
        self.now = self.last_request = None
        self.parser = self.transport = None  # they know this object: a ring that would be left to the garbage collector

    def end(self) -> None:
        """Ends the connection without another word; what was not sent is given up."""
        self.broken = True
        self.transport.abort()

    def drain(self) -> None:
        """Closes the connection if nothing is due on it."""
        if self.transport is not None and not self.lingering and not self.waiting:
            if monotonic() - self.since_s > LINGER_S and not self.transport.get_write_buffer_size():
                self.transport.close()  # nothing has gone either way for a while
            else:
                self._linger()

    def check(self, now_s: float) -> None:
        """Ends the connection when its sender is too slow."""
        if self.n_unsent_bytes:
            self.count_unsent()
        passed_s, unread = now_s - self.since_s, self.transport.get_write_buffer_size()
        if self.unread_since_s is not None:
            if unread <= self.n_unread_bytes - LEAST_READ_BYTES:
                self.unread_since_s, self.n_unread_bytes = now_s, unread
            elif now_s - self.unread_since_s > self.limits.send_s:
                self.transport.abort()
            return
        if (self.lingering and not self.waiting) or self.transport.is_closing():
            if passed_s > (self.limits.send_s if unread else LINGER_S):
                self.transport.abort()
            return
        if passed_s > LINGER_S:
            self._keep_spare(None)
        if self.now is not None:
            if passed_s > (self.limits.body_s if self.in_body else self.limits.header_s):
                self._fail(HttpError(408, "the request took too long to arrive"))
        elif not self.waiting and passed_s > self.limits.idle_s:
            self.transport.close()
