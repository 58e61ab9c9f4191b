"""Bodies that were compressed, untrusted: a small one must not become a large one, nor keep the loop busy."""

from __future__ import annotations

import asyncio
import zlib

from jouleflow.serve.reading import Reading
from jouleflow.serve.request import Handler, HttpError, Request, answer_error
from jouleflow.serve.request_error import RequestError

TAKEN_BYTES, GIVEN_BYTES = 64 << 10, 256 << 10  # of a step


class Inflating:
    """A body whose content-encoding is undone step by step into `data`.

    Raises HttpError, here and in `step`, when it is not what the encoding says, or longer than the limit.
    """

    def __init__(self, body: memoryview, encoding: bytes, limit: int) -> None:
        if encoding not in (b"gzip", b"deflate", b"identity"):
            raise HttpError(415, "content-encoding must be gzip, deflate or identity")
        self.data = bytearray()
        self._body, self._limit, self._n_taken = body, limit, 0
        self._machine = None if encoding == b"identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)

    def step(self) -> bool:
        """Undoes some more; whether that was all."""
        machine = self._machine
        if machine is None:
            self.data += self._body
            return True
        taken: memoryview | bytes = machine.unconsumed_tail
        if not taken:
            taken = self._body[self._n_taken : self._n_taken + TAKEN_BYTES]
            self._n_taken += len(taken)
        try:
            given = machine.decompress(taken, GIVEN_BYTES)
        except zlib.error as error:
            raise HttpError(400, "the body is not what content-encoding says") from error
        self.data += given
        if len(self.data) > self._limit:
            raise HttpError(413, f"the body exceeds {self._limit} bytes once decompressed")
        if not machine.eof and not given and not machine.unconsumed_tail and self._n_taken == len(self._body):
            raise HttpError(400, "the compressed body is cut off")
        return machine.eof


def inflate(request: Request, limit: int, reading: Reading, handler: Handler) -> None:
    """Undoes the content-encoding of a body and has the request handled; where it grows large, beside everything else."""
    encoding = request.headers[b"content-encoding"].lower()

    def handle(inflating: Inflating) -> None:
        request._body, request.n_body, request.job = inflating.data, len(inflating.data), None
        handler(request)

    async def in_turns() -> None:
        inflating = Inflating(request.body, encoding, limit)
        try:
            while not inflating.step():
                await asyncio.sleep(0)
        except HttpError as error:
            answer_error(request, error.status, str(error))
        else:
            handle(inflating)

    try:
        first = Inflating(request.body, encoding, limit)
        if first.step():
            handle(first)
        else:
            reading.start(request, in_turns)
    except (HttpError, RequestError) as error:
        answer_error(request, error.status, str(error))
