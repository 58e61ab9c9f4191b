"""How much a gRPC message becomes once it is read: a part of two bytes may be an object of ninety. So the parts of large messages are
counted on the wire before they are parsed, and what has too many is refused unread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from jouleflow.serve.request_error import RequestError

LARGE_BYTES = 1 << 20  # what is smaller may become some 44 MB at most, and is not looked at
MAX_PARTS = 1 << 17  # fields, each of its inner messages counted too: some tens of milliseconds
MAX_PACKED_BYTES = (
    10 << 20
)  # of lists of integers, of which a byte becomes eight: the longest that rpc_messages takes, at ten each
VARINTS = {
    FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_ENUM,
}  # fmt: skip
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # types on the wire; groups, which none of our messages has, are 3 and 4


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of a message that are messages too, and those that are integers, which on the wire may be a list of them."""

    messages: dict[int, _Fields]
    integers: frozenset[int]


def check_parts(raw: bytes, descriptor: Any) -> None:
    """Looks a message of that type over. Takes as long as it has parts, at most MAX_PARTS.

    Raises RequestError when it has too many, or too long lists of integers, or is no message at all.
    """
    if len(raw) <= LARGE_BYTES:
        return
    name: str = descriptor.name
    at = n_parts = n_packed_bytes = 0
    open_to = [(len(raw), _fields(descriptor))]
    while open_to:
        end, known = open_to[-1]
        if at == end:
            open_to.pop()
            continue
        n_parts += 1
        if n_parts > MAX_PARTS:
            raise RequestError(
                413, f"the message has more than {MAX_PARTS} parts: send tensors in raw_input_contents, or over HTTP"
            )
        tag, at = _varint(raw, at, name)
        kind = tag & 7
        if kind == VARINT:
            _, at = _varint(raw, at, name)
        elif kind == FIXED64:
            at += 8
        elif kind == FIXED32:
            at += 4
        elif kind == BYTES:
            n_bytes, at = _varint(raw, at, name)
            field = tag >> 3
            if field in known.messages:
                open_to.append((at + n_bytes, known.messages[field]))
                n_bytes = 0
            elif field in known.integers:
                n_packed_bytes += n_bytes
            if n_packed_bytes > MAX_PACKED_BYTES:
                raise RequestError(
                    413,
                    f"the message has more than {MAX_PACKED_BYTES} bytes of integers: send them in raw_input_contents",
                )
            at += n_bytes
        else:
            raise _no_message(name)
        if at > end or open_to[-1][0] > end:
            raise _no_message(name)


def _varint(raw: bytes, at: int, name: str) -> tuple[int, int]:
    """The number there, seven bits a byte, and where it ends."""
    value = shift = 0
    while at < len(raw) and shift < 70:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _no_message(name)


def _no_message(name: str) -> RequestError:
    return RequestError(400, f"the message is no {name}")


@cache
def _fields(descriptor: Any) -> _Fields:
    return _Fields(
        {f.number: _fields(f.message_type) for f in descriptor.fields if f.message_type is not None},
        frozenset(f.number for f in descriptor.fields if f.type in VARINTS),
    )
