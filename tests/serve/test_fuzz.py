"""Requests that nobody would send: whatever comes, the decoder gives an Ask that fits the model or a RequestError with a reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.runtime.tensors import NUMPY, Port, decode_strings, encode_strings
from jouleflow.serve.limits import Limits
from jouleflow.serve.oip import Decoder, encode_answer
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.shared_memory import OFFSET, REGION, SIZE, ClientRegions
from tests.serve.decoding import asked

PORTS = (Port("x", "FP32", (-1, 4)), Port("n", "INT8", (-1,)), Port("s", "BYTES", (-1, 2)))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
inputs = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "n", "s", "y"]) | json_values,
        "datatype": st.sampled_from(["FP32", "INT8", "BYTES", "FP99"]) | json_values,
        "shape": st.lists(st.integers(-3, 2**40), max_size=10) | json_values,
        "data": json_values,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "classification", "x"]), json_values)
        | st.dictionaries(st.sampled_from([REGION, SIZE, OFFSET]), json_values)
        | json_values,
    },
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "inputs": st.lists(inputs, max_size=5) | json_values,
        "outputs": st.lists(json_values, max_size=3) | json_values,
        "parameters": st.dictionaries(st.sampled_from(["timeout", "priority", "binary_data_output"]), json_values)
        | json_values,
    },
)


def decoder() -> Decoder:
    return Decoder(PORTS, (Port("y", "FP32", (-1, 3)),), True, 8, ClientRegions(Limits(), on=True))


def fits(body: bytes, header_bytes: int | None) -> None:
    ask, refused = None, None
    try:
        ask = asked(decoder(), body, header_bytes)
    except RequestError as error:
        refused = error
    if refused is not None:
        assert refused.status == 400
        assert 0 < len(str(refused)) < 2000
        return
    assert ask is not None
    assert len(ask.data) == len(PORTS)
    assert 1 <= ask.header.n_rows <= 8
    assert ask.size_bytes == sum(len(d) for d in ask.data)


@settings(max_examples=400, deadline=None)
@given(requests, st.binary(max_size=64), st.none() | st.integers(0, 500))
def test_anything_is_an_ask_or_a_reason(request: dict, tail: bytes, header_bytes: int | None) -> None:
    head = json.dumps(request).encode()
    fits(head, None)
    fits(head + tail, len(head))
    fits(head + tail, header_bytes)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.none() | st.integers(0, 400))
def test_rubbish_is_a_reason(body: bytes, header_bytes: int | None) -> None:
    fits(body, header_bytes)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10), st.binary(max_size=10))
def test_strings_there_and_back(values: list[bytes], tail: bytes) -> None:
    array = np.empty(len(values), np.object_)
    array[:] = values
    raw = encode_strings(array)
    assert list(decode_strings(raw, (len(values),))) == values
    for broken in (raw[:-1], raw + tail) if tail else (raw[:-1],):
        try:
            assert len(decode_strings(broken, (len(values),))) == len(values)
        except ValueError:
            continue


@pytest.mark.parametrize("datatype", NUMPY)
@pytest.mark.parametrize("as_binary", [True, False])
def test_every_type_there_and_back(datatype: str, as_binary: bool) -> None:
    dtype = NUMPY[datatype]
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    port = Port("x", datatype, (-1, 2))
    spec: dict = {"name": "x", "datatype": datatype, "shape": [2, 2]}
    if as_binary or datatype == "FP16":
        spec["parameters"] = {"binary_data_size": values.nbytes}
        head = json.dumps({"inputs": [spec]}).encode()
        ask = asked(Decoder((port,), (), True, 8), head + values.tobytes(), len(head))
    else:
        spec["data"] = values.tolist()
        ask = asked(Decoder((port,), (), True, 8), json.dumps({"inputs": [spec]}).encode())
    assert bytes(ask.data[0]) == values.tobytes()
    from jouleflow.serve.oip import Wanted

    text, binary = encode_answer("m", "1", "", [Wanted("y", as_binary)], [(datatype, (2, 2), values.tobytes())])
    answer = json.loads(text)["outputs"][0]
    if as_binary:
        assert binary == [values.tobytes()]
    else:
        np.testing.assert_array_equal(np.array(answer["data"]).reshape(2, 2).astype(dtype), values)
