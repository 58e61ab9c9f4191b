"""A request over HTTP, whoever read it, and the bytes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote_to_bytes

REASONS = {s.value: s.phrase.encode() for s in HTTPStatus} | {499: b"Client Closed Request"}
Headers = Sequence[tuple[bytes, bytes]]
LARGE_BYTES = 64 << 10  # a body that has memory of its own, which is given back as soon as it can be
JSON_HEADERS: Headers = ((b"content-type", b"application/json"),)


class HttpError(Exception):
    """A request that cannot be read; the connection ends with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Cancellable(Protocol):
    """What a request became."""

    cancelled: bool


class Sender(Protocol):
    """Where a request came from: it writes the answers that are due. is_last: whether nothing comes after this answer."""

    def is_last(self, request: Request) -> bool: ...

    def flush(self) -> None: ...


class Request:
    """A complete request. `respond` is called exactly once. job: what it became; it is cancelled when the sender goes away. waited_s: of
    its time, what had passed before it came here."""

    __slots__ = (
        "_body", "_connection", "answer", "headers", "job", "keep_alive", "method", "n_body", "target", "waited_s",
    )  # fmt: skip

    def __init__(self, connection: Sender) -> None:
        self.method = self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = True
        self._body = bytearray()
        self.n_body = 0  # bytes of it that have come
        self._connection = connection
        self.answer: bytes | None = None
        self.job: Cancellable | None = None
        self.waited_s = 0.0

    @property
    def body(self) -> memoryview:
        return memoryview(self._body)[: self.n_body]

    def forget_body(self) -> None:
        """Gives its memory back: all of it was read."""
        self._body, self.n_body = bytearray(), 0

    @property
    def path(self) -> str:
        """Without the query; percent-escapes undone once."""
        return unquote_to_bytes(self.target.split(b"?", 1)[0]).decode("utf-8", "replace")

    def respond(self, status: int, headers: Headers, *chunks: bytes) -> None:
        """Answers: it goes out after the answers to earlier requests of the connection."""
        self.respond_with(answer_head(status, headers, sum(map(len, chunks))), chunks)

    def respond_with(self, head: bytes, chunks: Sequence[bytes]) -> None:
        """The same with a head of `answer_head`, which may be used again."""
        if not self.keep_alive or self._connection.is_last(self):
            lines, end, rest = head.partition(b"\r\n\r\n")
            head = lines + b"\r\nconnection: close" + end + rest
        self.job = None  # it knows this request in its turn: a ring that would be left to the garbage collector
        self.answer = head if self.method == b"HEAD" else b"".join((head, *chunks))
        self._connection.flush()
        if self.n_body >= LARGE_BYTES:
            self.forget_body()  # earlier requests of its connection may have to be answered first


Handler = Callable[[Request], None]


def relayed_request(
    sender: Sender, method: bytes, target: bytes, headers: dict[bytes, bytes], body: bytes, waited_s: float
) -> Request:
    """A request that was read elsewhere, waited_s ago."""
    request = Request(sender)
    request.method, request.target, request.headers, request.waited_s = method, target, headers, waited_s
    request._body, request.n_body = bytearray(body), len(body)
    return request


def answer_head(status: int, headers: Headers, size_bytes: int) -> bytes:
    """The first lines of an answer whose body has so many bytes."""
    lines = [b"HTTP/1.1 %d %s\r\ncontent-length: %d\r\n" % (status, REASONS.get(status, b""), size_bytes)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    return b"".join((*lines, b"\r\n"))


def answer_error(request: Request, status: int, message: str) -> None:
    """Answers a request that cannot be handled."""
    more: Headers = ((b"retry-after", b"1"),) if status == 503 else ()
    request.respond(status, (*JSON_HEADERS, *more), b'{"error":"%s"}' % message.replace('"', "'").encode())
