"""What a tensor is between processes: a name, a type, a shape, and bytes at a place. Types by the Open Inference Protocol's words."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

import numpy as np
from numpy.typing import NDArray

NUMPY: dict[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
ONNX = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in NUMPY.items()}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model. Sides of -1 may be anything."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(slots=True)
class Piece:
    """A tensor inside a region. Not frozen, as making it then takes a third of the time."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


ALIGN = 64


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> tuple[list[Piece], int]:
    """Tensors (name, type, shape, bytes) one after another in a region, each at a multiple of ALIGN; and the bytes in all."""
    pieces, at = [], 0
    for name, datatype, shape, size_bytes in tensors:
        pieces.append(Piece(name, datatype, shape, at, size_bytes))
        at += -(-size_bytes // ALIGN) * ALIGN
    return pieces, at


def encode_strings(values: NDArray[np.object_]) -> bytes:
    """Strings as length (4 bytes, little-endian) and bytes, one after another."""
    parts: list[bytes] = []
    for value in values.ravel():
        raw = value if isinstance(value, bytes) else str(value).encode()
        parts += (struct.pack("<I", len(raw)), raw)
    return b"".join(parts)


def decode_strings(raw: bytes | memoryview, shape: Sequence[int]) -> NDArray[np.object_]:
    """The strings of `encode_strings`.

    Raises ValueError when the bytes are not as many strings as the shape says.
    """
    n = prod(shape)
    if len(raw) < 4 * n:
        raise ValueError(f"{len(raw)} bytes are too few for the {n} strings of shape {list(shape)}")
    values = list(islice(_strings(bytes(raw)), n + 1))  # millions of empty ones are not read to be refused
    if len(values) != n:
        found = f"only {len(values)}" if len(values) < n else "more"
        raise ValueError(f"{found} strings, but shape {list(shape)} needs {n}")
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array.reshape(tuple(shape))


def texts(raw: bytes | memoryview, shape: Sequence[int]) -> NDArray[np.object_]:
    """The strings as text, which is what ONNX Runtime takes: of bytes it would take what Python prints for them.

    Raises ValueError as `decode_strings`, and when a string is not UTF-8.
    """
    array = decode_strings(raw, shape)
    flat = array.reshape(-1)
    flat[:] = [value.decode() for value in flat]
    return array


def _strings(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise ValueError("a string's length is cut off")
        size = struct.unpack_from("<I", raw, at)[0]
        at += 4
        if at + size > len(raw):
            raise ValueError(f"a string of {size} bytes goes past the end")
        yield raw[at : at + size]
        at += size


def array_of(piece: Piece, memory: memoryview) -> NDArray[np.generic]:
    """The tensor as an array: a view, except of strings.

    Raises ValueError when bytes and shape do not agree.
    """
    raw = memory[piece.offset : piece.offset + piece.size_bytes]
    if piece.datatype == "BYTES":
        return texts(raw, piece.shape)
    dtype = NUMPY[piece.datatype]
    if len(raw) != prod(piece.shape) * dtype.itemsize:
        raise ValueError(f"{piece.name}: {len(raw)} bytes for shape {list(piece.shape)} of {piece.datatype}")
    return np.frombuffer(raw, dtype).reshape(piece.shape)
