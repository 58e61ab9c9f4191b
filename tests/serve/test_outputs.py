"""What of a batch's outputs is whose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jouleflow.runtime.tensors import Piece, decode_strings, encode_strings
from jouleflow.serve.served import _Output, rows_of


def rows(piece: Piece, raw: bytes, first: int, n: int, of: int) -> tuple[str, tuple[int, ...], Any]:
    return rows_of(_Output.of(memoryview(raw), piece, of), True, first, n)


def test_rows_are_cut_where_they_begin() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    piece = Piece("y", "FP32", (4, 3), 64, values.nbytes)
    raw = bytes(64) + values.tobytes() + bytes(9)
    assert rows(piece, raw, 1, 2, 4) == ("FP32", (2, 3), values[1:3].tobytes())
    assert rows(piece, raw, 0, 4, 4) == ("FP32", (4, 3), values.tobytes())


def test_rows_of_nothing_are_rows() -> None:
    assert rows(Piece("y", "FP32", (4, 0), 0, 0), b"", 1, 2, 4) == ("FP32", (2, 0), b"")


def test_rows_of_strings() -> None:
    words = np.array(["a", "bcd", "", "e"], np.object_)
    raw = encode_strings(words)
    datatype, shape, cut = rows(Piece("y", "BYTES", (4,), 0, len(raw)), raw, 1, 2, 4)
    assert (datatype, shape, list(decode_strings(cut, shape))) == ("BYTES", (2,), [b"bcd", b""])


@pytest.mark.parametrize("shape", [(), (1, 3), (3, 4)])
def test_an_output_without_a_row_for_each_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="max_batch = 1"):
        rows(Piece("y", "FP32", shape, 0, 48), bytes(48), 1, 2, 4)
