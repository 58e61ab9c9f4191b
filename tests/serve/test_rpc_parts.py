"""Messages that would become many times their size are refused on the wire, and only those."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.serve import rpc_parts
from jouleflow.serve.proto import message
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.rpc_messages import decoded
from jouleflow.serve.rpc_parts import LARGE_BYTES, MAX_PACKED_BYTES, MAX_PARTS, check_parts
from tests.serve.test_fuzz_rpc import requests

INFER = message("ModelInferRequest")
INPUTS, RAW = b"\x2a", b"\x3a"  # tags of fields 5 and 7


def long(tag: bytes, inner: bytes) -> bytes:
    """A field of bytes, its length in four groups of seven bits."""
    n = len(inner)
    return tag + bytes([n & 127 | 128, n >> 7 & 127 | 128, n >> 14 & 127 | 128, n >> 21]) + inner


@pytest.mark.parametrize(
    "raw",
    [
        (INPUTS + b"\0") * MAX_PARTS + INPUTS + b"\0",
        (RAW + b"\0") * (LARGE_BYTES + 1),
        long(INPUTS, b"\x2a\0" * LARGE_BYTES),  # contents, again and again
        long(INPUTS, long(b"\x2a", b"\x42\0" * LARGE_BYTES)),  # strings in contents
        long(INPUTS, long(b"\x2a", b"\x18\1" * LARGE_BYTES)),  # integers, each with a tag
        long(INPUTS, b"\x22\0" * LARGE_BYTES),  # parameters
        b"\x08\1" * LARGE_BYTES,  # a field with a wrong type
    ],
)
def test_too_many_parts(raw: bytes) -> None:
    raw += long(RAW, bytes(LARGE_BYTES))
    with pytest.raises(RequestError, match="more than 131072 parts") as caught:
        decoded(INFER, raw)
    assert caught.value.status == 413


def test_too_many_integers() -> None:
    half = long(b"\x1a", bytes(MAX_PACKED_BYTES // 2 + 1))
    one = long(INPUTS, long(b"\x2a", half))
    assert len(decoded(INFER, one).inputs) == 1
    with pytest.raises(RequestError, match="bytes of integers"):
        decoded(INFER, one * 2)


def test_what_is_large_and_simple_is_taken() -> None:
    fields = {"model_name": "x", "inputs": [{"name": "x", "shape": [1 << 20], "datatype": "FP32"}]}
    asked = INFER(**fields, raw_input_contents=[bytes(4 << 20)])
    assert decoded(INFER, asked.SerializeToString()) == asked
    asked = INFER(inputs=[{"name": "x", "contents": {"fp32_contents": [1.5] * (1 << 20)}}])
    assert decoded(INFER, asked.SerializeToString()) == asked


@pytest.mark.parametrize("raw", [b"\x3b\x3c", RAW + b"\xff" * 12, RAW + b"\x05", INPUTS + b"\x02\x2a\x05", b"\x09\0"])
def test_no_message(raw: bytes) -> None:
    with pytest.raises(RequestError, match="is no ModelInferRequest"):
        check_parts(long(RAW, bytes(LARGE_BYTES)) + raw, INFER.DESCRIPTOR)


@pytest.fixture(scope="module")
def all_looked_over() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rpc_parts, "LARGE_BYTES", -1)
        yield


@settings(max_examples=200, deadline=None)
@given(requests)
def test_any_message_passes(all_looked_over: None, fields: dict) -> None:
    check_parts(INFER(**fields).SerializeToString(), INFER.DESCRIPTOR)


def kinds(raw: bytes) -> set[int]:
    return {byte & 7 for byte in raw}


@settings(max_examples=200, deadline=None)
@given(requests, st.data())
def test_what_is_refused_as_no_message_is_none(all_looked_over: None, fields: dict, data: st.DataObject) -> None:
    raw = bytearray(INFER(**fields).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(
            st.sampled_from([0, 1, 2, 5, 8, 0x2A, 0x3A, 0x82, 0x12])
        )
    try:
        check_parts(bytes(raw), INFER.DESCRIPTOR)
    except RequestError:
        if not kinds(bytes(raw)) & {3, 4}:  # groups, which are refused where the parser passes over them
            with pytest.raises(DecodeError):
                INFER.FromString(bytes(raw))
