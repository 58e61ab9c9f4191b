"""A walk over the bytes of an ONNX file before protobuf builds objects from them.

Two bytes of a hostile file can ask for an object of 150. The walk counts fields and nesting without building anything;
a file that passes needs a small multiple of its own size, plus a few hundred MB at worst, when it is parsed.
"""

from __future__ import annotations

from typing import Any

import onnx

from jouleflow.errors import ModelError

MAX_FIELDS = 2_000_000
MAX_DEPTH = 24
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def check_wire(data: bytes, name: str) -> None:
    """Nothing, if the bytes are well-formed protobuf with at most MAX_FIELDS fields nested at most MAX_DEPTH deep.

    Raises ModelError naming the file.
    """
    n_fields = 0
    stack: list[tuple[int, int, Any]] = [(0, len(data), onnx.ModelProto.DESCRIPTOR)]
    while stack:
        at, end, message = stack.pop()
        if len(stack) >= MAX_DEPTH:
            raise ModelError(f"{name} nests messages more than {MAX_DEPTH} deep: refused")
        while at < end:
            n_fields += 1
            if n_fields > MAX_FIELDS:
                raise ModelError(f"{name} has more than {MAX_FIELDS} fields: refused; store tensors as raw_data")
            tag, at = _varint(data, at, end, name)
            number, wire = tag >> 3, tag & 7
            if wire == VARINT:
                _, at = _varint(data, at, end, name)
            elif wire in (FIXED64, FIXED32):
                at += 8 if wire == FIXED64 else 4
            elif wire == LENGTH:
                size, at = _varint(data, at, end, name)
                field = message.fields_by_number.get(number)
                if size > end - at:
                    raise ModelError(f"{name} is truncated or damaged at byte {at}: export it again")
                if field is not None and field.message_type is not None:
                    stack.append((at + size, end, message))
                    end, message = at + size, field.message_type
                    if len(stack) >= MAX_DEPTH:
                        raise ModelError(f"{name} nests messages more than {MAX_DEPTH} deep: refused")
                else:
                    at += size
            else:
                raise ModelError(f"{name} is not an ONNX file, or damaged at byte {at} (wire type {wire})")
            if at > end:
                raise ModelError(f"{name} is truncated or damaged at byte {at}: export it again")


def _varint(data: bytes, at: int, end: int, name: str) -> tuple[int, int]:
    """(value, position after it)."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ModelError(f"{name} is truncated or damaged at byte {at}: export it again")
