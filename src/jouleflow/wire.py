"""A walk over the bytes of a protobuf message before objects are built from them: two bytes of a hostile one can ask for an object of
150. Nothing is built here; who walks counts, and stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # groups, which none of our messages has, are 3 and 4


class WireError(ValueError):
    """The bytes are no message: what is wrong, and at which of them."""


def walk(data: bytes, descriptor: Any) -> Iterator[tuple[int, Any, int]]:
    """Each field of a message of that type, and of the messages in it, as they stand: how many messages it is nested in, its descriptor, and
    its size in bytes. Of what says no size, and of fields that the type does not have, the descriptor is None.

    Raises WireError where the bytes are no message.
    """
    open_to: list[tuple[int, Any]] = []
    at, end, message = 0, len(data), descriptor
    while True:
        while at == end:
            if not open_to:
                return
            end, message = open_to.pop()
        tag, at = _varint(data, at, end)
        field, wire, size = message.fields_by_number.get(tag >> 3), tag & 7, 0
        if wire == VARINT:
            _, at = _varint(data, at, end)
        elif wire == FIXED64:
            at += 8
        elif wire == FIXED32:
            at += 4
        elif wire == LENGTH:
            size, at = _varint(data, at, end)
        else:
            raise WireError(f"wire type {wire} at byte {at}")
        if at + size > end:
            raise WireError(f"truncated or damaged at byte {at}")
        yield len(open_to), field if wire == LENGTH else None, size
        if wire == LENGTH and field is not None and field.message_type is not None:
            open_to.append((end, message))
            end, message = at + size, field.message_type
        else:
            at += size


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The number there, seven bits a byte, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise WireError(f"truncated or damaged at byte {at}")
