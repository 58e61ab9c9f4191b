"""How much a gRPC message becomes once it is read: a part of two bytes may be an object of ninety. So the parts of large messages are
counted on the wire before they are parsed, and what has too many is refused unread.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from jouleflow.serve.request_error import RequestError
from jouleflow.wire import WireError, walk

LARGE_BYTES = 1 << 20  # what is smaller may become some 44 MB at most, and is not looked at
MAX_PARTS = 1 << 17  # fields, each of its inner messages counted too: some tens of milliseconds
MAX_PACKED_BYTES = (
    10 << 20
)  # of lists of integers, of which a byte becomes eight: the longest that rpc_messages takes, at ten each
VARINTS = {
    FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_ENUM,
}  # fmt: skip


def check_parts(raw: bytes, descriptor: Any) -> None:
    """Looks a message of that type over. Takes as long as it has parts, at most MAX_PARTS.

    Raises RequestError when it has too many, or too long lists of integers, or is no message at all.
    """
    if len(raw) <= LARGE_BYTES:
        return
    n_packed_bytes = 0
    try:
        for n_before, (_, field, size) in enumerate(walk(raw, descriptor)):
            if n_before >= MAX_PARTS:
                raise RequestError(
                    413,
                    f"the message has more than {MAX_PARTS} parts: send tensors in raw_input_contents, or over HTTP",
                )
            if field is not None and field.type in VARINTS:
                n_packed_bytes += size
            if n_packed_bytes > MAX_PACKED_BYTES:
                raise RequestError(
                    413,
                    f"the message has more than {MAX_PACKED_BYTES} bytes of integers: send them in raw_input_contents",
                )
    except WireError as error:
        raise RequestError(400, f"the message is no {descriptor.name}: {error}") from error
