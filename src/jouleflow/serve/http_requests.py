"""Requests over HTTP/1.1: bytes as they come into requests, large bodies straight into the buffer that the model reads from, and what
is refused on the way.

Knows nothing of inference: a complete request goes to the handler, unless it must wait for answers to be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import httptools

from jouleflow.serve.http_answers import AnswerWriter
from jouleflow.serve.inflate import inflate
from jouleflow.serve.request import LARGE_BYTES, HttpError, Request, answer_error

if TYPE_CHECKING:
    from jouleflow.serve.http import Connections


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of a request that came in one piece, n_bytes with its body, and what it means."""

    raw: bytes
    n_bytes: int
    method: bytes
    target: bytes
    headers: dict[bytes, bytes]


class RequestReader(AnswerWriter, asyncio.BufferedProtocol):
    """The half of a connection that reads."""

    def __init__(self, owner: Connections) -> None:
        super().__init__(owner)
        self.parser: Any = httptools.HttpRequestParser(self)
        self.now: Request | None = None  # being read
        self.header_bytes = 0
        self.in_body = False
        self.known_head: _Head | None = None
        self.last_request: Request | None = None
        self.n_requests = 0  # completed by the bytes that are being parsed
        self.n_missing = 0  # bytes of a large body
        self.n_claimed_bytes = 0  # of the owner's n_arriving_bytes
        self.passing_over = False  # an offer to speak another protocol

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
        except httptools.HttpParserCallbackError as raised:
            cause = raised.__context__
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
            inflate(request, self.limits.max_body_bytes, self.owner.reading, self.owner.handler)

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

    def _fail(self, error: HttpError) -> None:
        """Answers with the error, after what is due, and closes."""
        self.broken = self.lingering = True
        self._release()
        request = self.now or Request(self)
        self.now, request.keep_alive = None, False
        self.waiting.append(request)
        answer_error(request, error.status, str(error))
