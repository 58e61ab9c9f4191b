"""HTTP/1.1 on the event loop: one small object a connection, bodies straight into the buffer that the model reads from.

Knows nothing of inference: it gives complete requests to a handler, and writes answers in the order of the requests.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import httptools

from jouleflow.serve.limits import Limits

REASONS = {s.value: s.phrase.encode() for s in HTTPStatus} | {499: b"Client Closed Request"}
Headers = Sequence[tuple[bytes, bytes]]
JSON_HEADERS: Headers = ((b"content-type", b"application/json"),)


class HttpError(Exception):
    """A request that cannot be read; the connection ends with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Cancellable(Protocol):
    """What a request became."""

    cancelled: bool


class Request:
    """A complete request. `respond` is called exactly once. job: what it became; it is cancelled when the sender goes away."""

    __slots__ = ("_body", "_connection", "answer", "headers", "job", "keep_alive", "method", "n_body", "target")

    def __init__(self, connection: Connection) -> None:
        self.method = self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = True
        self._body = bytearray()
        self.n_body = 0  # bytes of it that have come
        self._connection = connection
        self.answer: bytes | None = None
        self.job: Cancellable | None = None

    @property
    def body(self) -> memoryview:
        return memoryview(self._body)[: self.n_body]

    @property
    def path(self) -> str:
        """Without the query; percent-escapes undone once."""
        return unquote_to_bytes(self.target.split(b"?", 1)[0]).decode("utf-8", "replace")

    def respond(self, status: int, headers: Headers, *chunks: bytes) -> None:
        """Answers: it goes out after the answers to earlier requests of the connection."""
        self.respond_with(answer_head(status, headers, sum(map(len, chunks))), chunks)

    def respond_with(self, head: bytes, chunks: Sequence[bytes]) -> None:
        """The same with a head of `answer_head`, which may be used again."""
        if not self.keep_alive:
            lines, end, rest = head.partition(b"\r\n\r\n")
            head = lines + b"\r\nconnection: close" + end + rest
        self.job = None  # it knows this request in its turn: a ring that would be left to the garbage collector
        self.answer = head if self.method == b"HEAD" else b"".join((head, *chunks))
        self._connection.flush()


def answer_head(status: int, headers: Headers, size_bytes: int) -> bytes:
    """The first lines of an answer whose body has so many bytes."""
    lines = [b"HTTP/1.1 %d %s\r\ncontent-length: %d\r\n" % (status, REASONS.get(status, b""), size_bytes)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    return b"".join((*lines, b"\r\n"))


Handler = Callable[[Request], None]
LINGER_S = 2.0
LARGE_BODY_BYTES = 64 << 10
RECEIVE_BYTES = 16 << 10


@dataclass
class Connections:
    """The open connections of a listener, their handler and their limits; swept once a second for slow ones."""

    handler: Handler
    limits: Limits

    def __post_init__(self) -> None:
        self.open: set[Connection] = set()
        self.draining = False

    def protocol(self) -> Connection:
        return Connection(self)

    async def sweep(self) -> None:
        """Ends connections that are too slow, for as long as it runs."""
        while True:
            await asyncio.sleep(1.0)
            now_s = monotonic()
            for connection in list(self.open):
                connection.check(now_s)

    def drain(self) -> None:
        """No more requests; what is being answered is answered, and each connection then closes."""
        self.draining = True
        for connection in list(self.open):
            connection.drain()


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
        self.parser = httptools.HttpRequestParser(self)
        self.waiting: deque[Request] = deque()  # in the order of arrival, answered or not
        self.now: Request | None = None  # being read
        self.header_bytes = 0
        self.in_body = False
        self.since_s = 0.0
        self.received_bytes = bytearray(RECEIVE_BYTES)
        self.received = memoryview(self.received_bytes)
        self.known_head: _Head | None = None
        self.last_request: Request | None = None
        self.n_requests = 0  # completed by the bytes that are being parsed
        self.n_missing = 0  # bytes of a large body
        self.spare: bytearray | None = None  # memory of an earlier large body, to be used again
        self.broken = False
        self.lingering = False  # after an error: what still comes is thrown away, so that the answer can be read

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.since_s = monotonic()
        self.owner.open.add(self)
        if len(self.owner.open) > self.limits.max_connections or self.owner.draining:
            self._fail(HttpError(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.open.discard(self)
        self.broken = True
        for request in self.waiting:
            if request.answer is None and request.job is not None:
                request.job.cancelled = True
        self.waiting.clear()
        self.now = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: those of a large body to their place, all others through the parser."""
        if self.n_missing > 0 and self.now is not None:
            at = self.now.n_body
            return memoryview(self.now._body)[at : at + self.n_missing]
        return self.received

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
            return
        if request is None and not self._same_head_again(nbytes):
            self._guarded(self._feed, nbytes)
        elif request is not None:
            self._guarded(self.parser.feed_data, self.received[:nbytes])

    def _same_head_again(self, nbytes: int) -> bool:
        """Whether this was one whole request that begins like the last one: clients repeat themselves byte for byte, and then
        the parser would find what it found before."""
        known = self.known_head
        if known is None or known.n_bytes != nbytes or self.received_bytes[: len(known.raw)] != known.raw:
            return False
        request = Request(self)
        request.method, request.target, request.headers = known.method, known.target, known.headers
        request.keep_alive = not self.owner.draining
        request._body += self.received[len(known.raw) : nbytes]
        request.n_body = nbytes - len(known.raw)
        self.waiting.append(request)
        if len(self.waiting) >= self.limits.max_pipelined:
            self.transport.pause_reading()
        self.owner.handler(request)
        return True

    def _feed(self, nbytes: int) -> None:
        """The first bytes of a request through the parser; if they were all of it, its head is kept."""
        n_before = len(self.waiting)
        self.n_requests = 0
        self.parser.feed_data(self.received[:nbytes])
        if self.n_requests != 1 or self.now is not None or self.n_missing:
            return
        head = self.last_request
        if head is None or not head.keep_alive or b"content-encoding" in head.headers or n_before:
            return
        end = self.received_bytes.find(b"\r\n\r\n", 0, nbytes) + 4
        if end + head.n_body == nbytes and b"transfer-encoding" not in head.headers and b"expect" not in head.headers:
            raw = bytes(self.received_bytes[:end])
            self.known_head = _Head(raw, nbytes, head.method, head.target, head.headers)

    def _guarded(self, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            work(*arguments)
        except HttpError as error:
            self._fail(error)
        except httptools.HttpParserUpgrade:
            self._fail(HttpError(400, "protocol upgrades are not offered"))
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
        if n_declared >= LARGE_BODY_BYTES:
            if self.spare is not None and len(self.spare) >= n_declared:
                request._body, self.spare = self.spare, None
            else:
                request._body = bytearray(n_declared)
            self.n_missing = n_declared

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
            request._body += body

    def on_message_complete(self) -> None:
        request = self.now
        assert request is not None
        self.n_missing = 0
        self.now, self.since_s = None, monotonic()
        self.last_request, self.n_requests = request, self.n_requests + 1
        encoding = request.headers.get(b"content-encoding")
        if encoding is not None:
            request._body = bytearray(_inflated(bytes(request.body), encoding.lower(), self.limits.max_body_bytes))
            request.n_body = len(request._body)
        self.waiting.append(request)
        if len(self.waiting) >= self.limits.max_pipelined:
            self.transport.pause_reading()
        self.owner.handler(request)

    def flush(self) -> None:
        """Writes the answers that are due."""
        ready = []
        while self.waiting and self.waiting[0].answer is not None:
            request = self.waiting.popleft()
            assert request.answer is not None
            ready.append(request.answer)
            if len(request._body) >= LARGE_BODY_BYTES:
                self.spare = request._body
            if not request.keep_alive:
                self.waiting.clear()
                self.broken = True
        if self.transport is None or self.transport.is_closing():
            return
        if ready:
            self.transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
            self.since_s = monotonic()
            self.transport.resume_reading()
        if self.lingering:
            if self.transport.can_write_eof():
                self.transport.write_eof()
        elif self.broken or (self.owner.draining and not self.waiting):
            self.transport.close()

    def drain(self) -> None:
        if not self.waiting and self.transport is not None:
            self.transport.close()

    def check(self, now_s: float) -> None:
        """Ends the connection when its sender is too slow."""
        passed_s = now_s - self.since_s
        if self.lingering:
            if passed_s > LINGER_S:
                self.transport.abort()
            return
        if self.now is not None:
            if passed_s > (self.limits.body_s if self.in_body else self.limits.header_s):
                self._fail(HttpError(408, "the request took too long to arrive"))
        elif not self.waiting and passed_s > self.limits.idle_s:
            self.transport.close()

    def _fail(self, error: HttpError) -> None:
        """Answers with the error, after what is due, and closes."""
        self.broken = self.lingering = True
        request = self.now or Request(self)
        self.now, request.keep_alive = None, False
        self.waiting.append(request)
        more: Headers = ((b"retry-after", b"1"),) if error.status == 503 else ()
        request.respond(error.status, (*JSON_HEADERS, *more), b'{"error":"%s"}' % str(error).replace('"', "'").encode())


def _inflated(body: bytes, encoding: bytes, limit: int) -> bytes:
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise HttpError(415, "content-encoding must be gzip, deflate or identity")
    machine = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        data = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise HttpError(400, "the body is not what content-encoding says") from error
    if len(data) > limit or machine.unconsumed_tail:
        raise HttpError(413, f"the body exceeds {limit} bytes once decompressed")
    if not machine.eof:
        raise HttpError(400, "the compressed body is cut off")
    return data
