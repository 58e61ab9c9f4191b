"""Answers over HTTP/1.1: they go out in the order of their requests, and no more is worked for than a client reads.

What comes in belongs to http_requests, which builds on this; when a connection ends, to http.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from jouleflow.serve.inflate import inflate
from jouleflow.serve.request import LARGE_BYTES, Request

if TYPE_CHECKING:
    from jouleflow.serve.http import Connections

MAX_SPARE_BYTES, MAX_SPARES_BYTES = 4 << 20, 64 << 20  # of a connection, of all


class AnswerWriter(asyncio.BaseProtocol):
    """The half of a connection that writes, and the requests that wait for it. One object with the half that reads: between two
    they would cost calls for each request."""

    def __init__(self, owner: Connections) -> None:
        self.owner, self.limits = owner, owner.limits
        self.transport: Any = None
        self.waiting: deque[Request] = deque()  # in the order of arrival, answered or not
        self.held: deque[Request] = deque()  # the last of them, when there are too many to be handled yet
        self.most = owner.limits.max_pipelined  # with so many waiting another is held; 0 while answers are unread
        self.releasing = False
        self.n_unsent_bytes = 0  # of the owner's
        self.since_s = 0.0
        self.spare: bytearray | None = None  # memory of an earlier large body, to be used again
        self.unread_since_s: float | None = None  # since when the client has left answers unread
        self.n_unread_bytes = 0
        self.paused = False  # nothing is read, until answers have gone
        self.broken = False
        self.lingering = False  # after an error: what still comes is thrown away, so that the answer can be read
        self.finished = False  # nothing more is written

    def pause_writing(self) -> None:
        self.unread_since_s, self.most = monotonic(), 0
        self.n_unread_bytes = self.transport.get_write_buffer_size()
        self._pause()
        asyncio.get_running_loop().call_soon(self._bound_unsent)  # it may end the connection, which is being written to

    def resume_writing(self) -> None:
        self.unread_since_s, self.most = None, self.limits.max_pipelined
        self.count_unsent()
        self._read_on()

    def count_unsent(self) -> None:
        """Tells the owner how many bytes of answers are due to a client that reads too slowly, or waits for an earlier one."""
        if self.transport is None:
            return
        n_bytes = self.transport.get_write_buffer_size() + sum([len(r.answer) for r in self.waiting if r.answer])
        self.owner.n_unsent_bytes += n_bytes - self.n_unsent_bytes
        self.n_unsent_bytes = n_bytes

    def is_last(self, request: Request) -> bool:
        """Whether the answer to a request is the last of this connection, as the server is stopping."""
        return self.owner.draining and bool(self.waiting) and self.waiting[-1] is request

    def _take_in(self, request: Request) -> None:
        self.waiting.append(request)
        if len(self.waiting) >= self.most and self._is_held(request):
            return
        self.owner.handler(request)

    def _is_held(self, request: Request) -> bool:
        """Whether a request that has come must wait until answers to earlier ones were read; nothing more is read meanwhile."""
        if len(self.waiting) < self.most:
            return False
        if not self.paused:
            self._pause()
        if len(self.waiting) <= self.most:
            return False
        self.held.append(request)
        return True

    def _handle(self, request: Request) -> None:
        if b"content-encoding" in request.headers:
            inflate(request, self.limits.max_body_bytes, self.owner.reading, self.owner.handler)
        else:
            self.owner.handler(request)

    def _pause(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def _read_on(self) -> None:
        if self.held and not self.releasing:
            self.releasing = True  # an answer that is there at once leads back here
            try:
                while self.held and len(self.waiting) - len(self.held) < self.most:
                    self._handle(self.held.popleft())
            finally:
                self.releasing = False
        if self.paused and len(self.waiting) < self.most and not self.held and self.transport is not None:
            self.paused = False
            self.transport.resume_reading()

    def flush(self) -> None:
        """Writes the answers that are due."""
        ready, waiting, transport = [], self.waiting, self.transport
        while waiting and (answer := waiting[0].answer) is not None:
            request = waiting.popleft()
            ready.append(answer)
            if LARGE_BYTES <= len(request._body) <= MAX_SPARE_BYTES:
                self._keep_spare(request._body)
            if not request.keep_alive:
                waiting.clear()
                self.held.clear()
                self.broken = True
        if transport is None or transport.is_closing():
            return
        if ready and not self.finished:
            transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
            self.since_s = monotonic()
            if self.paused:
                self._bound_unsent()
                self._read_on()
        elif waiting:
            self._bound_unsent()
        if waiting or transport.is_closing():
            return  # what is due comes first
        if self.lingering or self.owner.draining:
            self._linger()
        elif self.broken:
            transport.close()

    def _bound_unsent(self) -> None:
        self.count_unsent()
        self.owner.bound_unsent()

    def _linger(self) -> None:
        """Sends no more, and throws away what still comes until the client has closed: with a plain close, bytes that were not
        read would make the system withdraw the answer."""
        self.broken = self.lingering = self.finished = True
        self.since_s = monotonic()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def _keep_spare(self, body: bytearray | None) -> None:
        """Keeps the memory of a body for the next one, in place of what was kept before."""
        n_bytes = 0 if body is None else len(body)
        n_bytes -= 0 if self.spare is None else len(self.spare)
        if body is None or self.owner.n_spare_bytes + n_bytes <= MAX_SPARES_BYTES:
            self.spare = body
            self.owner.n_spare_bytes += n_bytes
