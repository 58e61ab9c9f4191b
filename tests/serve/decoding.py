"""A request decoded in one go."""

from __future__ import annotations

from jouleflow.serve.oip import Ask, Decoder


def asked(decoder: Decoder, body: bytes, header_bytes: int | None = None) -> Ask:
    """header_bytes: of the JSON; None when all is JSON."""
    whole, n = memoryview(body), len(body) if header_bytes is None else header_bytes
    return decoder.ask(decoder.header_of(whole, n), whole, n)
