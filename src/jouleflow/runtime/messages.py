"""What goes over the socket of a slot: an order, and an answer that begins with how it went."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import orjson

from jouleflow.runtime.tensors import Piece

MAX_MESSAGE_BYTES = 1 << 20
DONE, FAILED = b"+", b"-"
TIMES = struct.Struct("<dd")  # after DONE: run_s, core_s
OUTPUTS_AT = 1 + TIMES.size


def order_of(inputs: Sequence[Piece], outputs: Sequence[str]) -> bytes:
    """The order to run inputs that lie so, for those outputs."""
    rows = [(p.name, p.datatype, p.shape, p.offset, p.size_bytes) for p in inputs]
    return orjson.dumps({"inputs": rows, "outputs": list(outputs)})
