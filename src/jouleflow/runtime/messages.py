"""What goes over the socket of a slot: an order, and an answer that begins with how it went."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import orjson

from jouleflow.runtime.tensors import Piece

MAX_MESSAGE_BYTES = 1 << 20
DONE, FAILED = b"+", b"-"
TIMES = struct.Struct("<dd")  # after DONE: run_s, core_s
OUTPUTS_AT = 1 + TIMES.size


def order_of(inputs: Sequence[Piece], outputs: Sequence[str], micro_batch: int = 0) -> bytes:
    """The order to run inputs that lie so, for those outputs, so many rows at a time; all at once when 0."""
    rows = [(p.name, p.datatype, p.shape, p.offset, p.size_bytes) for p in inputs]
    return orjson.dumps({"inputs": rows, "outputs": list(outputs), "micro_batch": micro_batch})


def message_buffer() -> memoryview:
    """Memory for any message, to be used for all: so much anew for each would be mapped and cleared each time. What messages do not reach
    takes none."""
    return np.empty(MAX_MESSAGE_BYTES, np.uint8).data
