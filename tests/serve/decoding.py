"""A request decoded in one go."""

from __future__ import annotations

from jouleflow.serve.oip import Ask, Decoder


def asked(decoder: Decoder, body: bytes, header_bytes: int | None = None) -> Ask:
    """header_bytes: of the JSON; None when all is JSON."""
    whole = memoryview(body)
    return decoder.ask(decoder.header_of(whole, header_bytes), whole, header_bytes)
