"""HTTP/1.1 on the event loop: one small object a connection, bodies straight into the buffer that the model reads from.

Knows nothing of inference: it gives complete requests to a handler, and writes answers in the order of the requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httptools

from jouleflow.serve.inflate import Inflating
from jouleflow.serve.limits import Limits
from jouleflow.serve.reading import Reading
from jouleflow.serve.request import JSON_HEADERS, LARGE_BYTES, Headers, HttpError, Request
from jouleflow.serve.request_error import RequestError

Handler = Callable[[Request], None]
LINGER_S = 2.0
RECEIVE_BYTES = 16 << 10
MAX_SPARE_BYTES, MAX_SPARES_BYTES = 4 << 20, 64 << 20  # of a connection, of all
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


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of a request that came in one piece, n_bytes with its body, and what it means."""

    raw: bytes
    n_bytes: int
    method: bytes
    target: bytes
    headers: dict[bytes, bytes]


class Connection(asyncio.BufferedProtocol):
    """One client."""

    def __init__(self, owner: Connections) -> None:
        self.owner, self.limits = owner, owner.limits
        self.transport: Any = None
        self.parser: Any = httptools.HttpRequestParser(self)
        self.waiting: deque[Request] = deque()  # in the order of arrival, answered or not
        self.held: deque[Request] = deque()  # the last of them, when there are too many to be handled yet
        self.most = owner.limits.max_pipelined  # with so many waiting another is held; 0 while answers are unread
        self.releasing = False
        self.n_unsent_bytes = 0  # of the owner's
        self.now: Request | None = None  # being read
        self.header_bytes = 0
        self.in_body = False
        self.since_s = 0.0
        self.known_head: _Head | None = None
        self.last_request: Request | None = None
        self.n_requests = 0  # completed by the bytes that are being parsed
        self.n_missing = 0  # bytes of a large body
        self.spare: bytearray | None = None  # memory of an earlier large body, to be used again
        self.n_claimed_bytes = 0  # of the owner's n_arriving_bytes
        self.unread_since_s: float | None = None  # since when the client has left answers unread
        self.n_unread_bytes = 0
        self.paused = False  # nothing is read, until answers have gone
        self.broken = False
        self.lingering = False  # after an error: what still comes is thrown away, so that the answer can be read
        self.finished = False  # nothing more is written
        self.passing_over = False  # an offer to speak another protocol

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

    def pause_writing(self) -> None:
        self.unread_since_s, self.most = monotonic(), 0
        self.n_unread_bytes = self.transport.get_write_buffer_size()
        self._pause()
        asyncio.get_running_loop().call_soon(self._bound_unsent)  # it may end the connection, which is being written to

    def resume_writing(self) -> None:
        self.unread_since_s, self.most = None, self.limits.max_pipelined
        self.count_unsent()
        self._read_on()

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

    def count_unsent(self) -> None:
        """Tells the owner how many bytes of answers are due to a client that reads too slowly, or waits for an earlier one."""
        if self.transport is None:
            return
        n_bytes = self.transport.get_write_buffer_size() + sum([len(r.answer) for r in self.waiting if r.answer])
        self.owner.n_unsent_bytes += n_bytes - self.n_unsent_bytes
        self.n_unsent_bytes = n_bytes

    def end(self) -> None:
        """Ends the connection without another word; what was not sent is given up."""
        self.broken = True
        self.transport.abort()

    def _keep_spare(self, body: bytearray | None) -> None:
        """Keeps the memory of a body for the next one, in place of what was kept before."""
        n_bytes = 0 if body is None else len(body)
        n_bytes -= 0 if self.spare is None else len(self.spare)
        if body is None or self.owner.n_spare_bytes + n_bytes <= MAX_SPARES_BYTES:
            self.spare = body
            self.owner.n_spare_bytes += n_bytes

    def is_last(self, request: Request) -> bool:
        """Whether the answer to a request is the last of this connection, as the server is stopping."""
        return self.owner.draining and bool(self.waiting) and self.waiting[-1] is request

    def _claim(self, n_bytes: int) -> None:
        """Counts bytes of a body that are to be kept.

        Raises HttpError when all bodies together would be too much.
        """
        if self.owner.n_arriving_bytes + n_bytes > self.limits.max_arriving_bytes:
            raise HttpError(503, "too many large bodies are arriving")
        self.owner.n_arriving_bytes += n_bytes
        self.n_claimed_bytes += n_bytes

    def _release(self) -> None:
        self.owner.n_arriving_bytes -= self.n_claimed_bytes
        self.n_claimed_bytes = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: those of a large body to their place, all others through the parser."""
        if self.n_missing > 0 and self.now is not None:
            at = self.now.n_body
            return memoryview(self.now._body)[at : at + self.n_missing]
        return self.owner.received

    def buffer_updated(self, nbytes: int) -> None:
        request = self.now
        if self.broken:
            return
        if self.n_missing > 0 and request is not None:
            request.n_body += nbytes
            self.n_missing -= nbytes
            if self.n_missing == 0:
                self.parser = httptools.HttpRequestParser(self)  # the old one waits for the body still
                self._guarded(self.on_message_complete)
        elif request is not None:
            self._guarded(self._parse, self.owner.received[:nbytes])
        elif self._same_head_again(nbytes):
            return
        else:
            self._guarded(self._feed, nbytes)
        self.last_request = None  # with its body and its answer, which nobody needs while the client says nothing

    def _same_head_again(self, nbytes: int) -> bool:
        """Whether this was one whole request that begins like the last one: clients repeat themselves byte for byte, and then
        the parser would find what it found before."""
        known, owner = self.known_head, self.owner
        if known is None or known.n_bytes != nbytes or not owner.received_bytes.startswith(known.raw):
            return False
        request = Request(self)
        request.method, request.target, request.headers = known.method, known.target, known.headers
        request.keep_alive = not owner.draining
        n_head = len(known.raw)
        request._body, request.n_body = owner.received_bytes[n_head:nbytes], nbytes - n_head
        self._take_in(request)
        return True

    def _feed(self, nbytes: int) -> None:
        """The first bytes of a request through the parser; if they were all of it, its head is kept."""
        n_before = len(self.waiting)
        self.n_requests = 0
        received = self.owner.received_bytes
        self._parse(self.owner.received[:nbytes])
        if self.n_requests != 1 or self.now is not None or self.n_missing:
            return
        head = self.last_request
        if head is None or not head.keep_alive or b"content-encoding" in head.headers or n_before:
            return
        end = received.find(b"\r\n\r\n", 0, nbytes) + 4
        if end + head.n_body == nbytes and b"transfer-encoding" not in head.headers and b"expect" not in head.headers:
            raw = bytes(received[:end])
            self.known_head = _Head(raw, nbytes, head.method, head.target, head.headers)

    def _parse(self, data: memoryview) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._pass_over(data[stopped.args[0] :])

    def _pass_over(self, rest: memoryview) -> None:
        """Goes on with a request that offers to speak another protocol: nobody need take that up (RFC 9110, section 7.8), but the
        parser stops at its head."""
        request, self.passing_over = self.now, False
        assert request is not None
        self.parser = httptools.HttpRequestParser(self)
        n = min(len(rest), self.n_missing)
        request._body[:n] = rest[:n]
        request.n_body = n
        self.n_missing -= n
        if not self.n_missing:
            self.on_message_complete()
            if n < len(rest):
                self._parse(rest[n:])

    def _guarded(self, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            work(*arguments)
        except HttpError as error:
            self._fail(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, HttpError) else HttpError(400, "bad request"))
        except httptools.HttpParserError:
            self._fail(HttpError(400, "this is not HTTP/1.1"))

    def on_message_begin(self) -> None:
        self.now = Request(self)
        self.header_bytes, self.in_body, self.since_s = 0, False, monotonic()

    def on_url(self, url: bytes) -> None:
        assert self.now is not None
        self.now.target += url
        if len(self.now.target) > self.limits.max_target_bytes:
            raise HttpError(414, f"the target exceeds {self.limits.max_target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self.now is not None
        self.header_bytes += len(name) + len(value) + 4
        if self.header_bytes > self.limits.max_header_bytes:
            raise HttpError(431, f"the headers exceed {self.limits.max_header_bytes} bytes")
        name = name.lower()
        if name in self.now.headers and name in (b"content-length", b"host", b"transfer-encoding", b"authorization"):
            raise HttpError(400, f"{name.decode('latin-1')} is there twice")
        self.now.headers[name] = value

    def on_headers_complete(self) -> None:
        request = self.now
        assert request is not None
        request.method = self.parser.get_method()
        request.keep_alive = self.parser.should_keep_alive() and not self.owner.draining
        declared = request.headers.get(b"content-length", b"0")
        n_declared = int(declared) if declared.isdigit() else 0
        if not declared.isdigit():
            raise HttpError(400, "content-length must be a number")
        if int(declared) > self.limits.max_body_bytes:
            raise HttpError(413, f"a body of {int(declared)} bytes: at most {self.limits.max_body_bytes} are taken")
        if request.headers.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.in_body, self.since_s = True, monotonic()
        if n_declared >= LARGE_BYTES:
            self._claim(n_declared)
            if self.spare is not None and n_declared <= len(self.spare) <= 2 * n_declared:
                request._body = self.spare
                self._keep_spare(None)
            else:
                request._body = bytearray(n_declared)
            self.n_missing = n_declared
        if self.parser.should_upgrade():
            if b"transfer-encoding" in request.headers:
                raise HttpError(400, "an upgrade is not offered to a body in chunks")
            self.passing_over = True
            if not self.n_missing:
                request._body, self.n_missing = bytearray(n_declared), n_declared

    def on_body(self, body: bytes) -> None:
        request = self.now
        assert request is not None
        at = request.n_body
        request.n_body += len(body)
        if request.n_body > self.limits.max_body_bytes:
            raise HttpError(413, f"the body exceeds {self.limits.max_body_bytes} bytes")
        if len(request._body) >= request.n_body:
            request._body[at : request.n_body] = body
            self.n_missing -= len(body)
        else:
            self._claim(len(body))
            request._body += body

    def on_message_complete(self) -> None:
        if self.passing_over:
            return  # so says the parser, which leaves the body to us
        request = self.now
        assert request is not None
        self.n_missing = 0
        self._release()
        self.now, self.since_s = None, monotonic()
        self.last_request, self.n_requests = request, self.n_requests + 1
        if b"content-encoding" not in request.headers:
            self._take_in(request)
            return
        self.waiting.append(request)
        if not self._is_held(request):
            self._inflate(request)

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
            self._inflate(request)
        else:
            self.owner.handler(request)

    def _inflate(self, request: Request) -> None:
        """Undoes the content-encoding of a body and has the request handled; where it grows large, beside everything else."""
        encoding, limit = request.headers[b"content-encoding"].lower(), self.limits.max_body_bytes

        def handle(inflating: Inflating) -> None:
            request._body, request.n_body, request.job = inflating.data, len(inflating.data), None
            self.owner.handler(request)

        async def inflate() -> None:
            inflating = Inflating(request.body, encoding, limit)
            try:
                while not inflating.step():
                    await asyncio.sleep(0)
            except HttpError as error:
                _answer_error(request, error.status, str(error))
            else:
                handle(inflating)

        try:
            first = Inflating(request.body, encoding, limit)
            if first.step():
                handle(first)
            else:
                self.owner.reading.start(request, inflate)
        except (HttpError, RequestError) as error:
            _answer_error(request, error.status, str(error))

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

    def _fail(self, error: HttpError) -> None:
        """Answers with the error, after what is due, and closes."""
        self.broken = self.lingering = True
        self._release()
        request = self.now or Request(self)
        self.now, request.keep_alive = None, False
        self.waiting.append(request)
        _answer_error(request, error.status, str(error))


def _answer_error(request: Request, status: int, message: str) -> None:
    more: Headers = ((b"retry-after", b"1"),) if status == 503 else ()
    request.respond(status, (*JSON_HEADERS, *more), b'{"error":"%s"}' % message.replace('"', "'").encode())
