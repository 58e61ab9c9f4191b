"""What an ONNX file would become, before protobuf builds objects from it: a file that passes needs a small multiple of its own size,
plus a few hundred MB at worst, when it is parsed.
"""

from __future__ import annotations

import onnx

from jouleflow.errors import ModelError
from jouleflow.wire import WireError, walk

MAX_FIELDS = 2_000_000
MAX_DEPTH = 24


def check_wire(data: bytes, name: str) -> None:
    """Nothing, if the bytes are well-formed protobuf with at most MAX_FIELDS fields nested at most MAX_DEPTH deep.

    Raises ModelError naming the file.
    """
    try:
        for n_before, (depth, field, _) in enumerate(walk(data, onnx.ModelProto.DESCRIPTOR)):
            if n_before >= MAX_FIELDS:
                raise ModelError(f"{name} has more than {MAX_FIELDS} fields: refused; store tensors as raw_data")
            if field is not None and field.message_type is not None and depth + 1 >= MAX_DEPTH:
                raise ModelError(f"{name} nests messages more than {MAX_DEPTH} deep: refused")
    except WireError as error:
        raise ModelError(f"{name} is not an ONNX file, or {error}: export it again") from error
