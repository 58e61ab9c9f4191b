"""Bodies that were compressed, untrusted: a small one must not become a large one."""

from __future__ import annotations

import zlib

from jouleflow.serve.request import HttpError


def inflated(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its content-encoding.

    Raises HttpError when it is not what the encoding says, or longer than the limit.
    """
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
