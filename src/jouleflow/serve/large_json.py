"""Large requests in JSON, a slice at a time with a turn of the loop after each. At no time is there more than a slice as Python's objects,
of which some take fifty times their text.

The values of the tensors are cut out first; what is left is small and read at once. Values are numbers or strings in lists
in lists, so that a slice that ends before a comma is JSON once the brackets that are open there are added.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from jouleflow.serve.fields import MAX_RANK, parse_object
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.tensor_data import json_data

SLICE_BYTES = 16 << 10  # read in a millisecond or two
MAX_VALUE_BYTES = 1 << 20  # a single string is read in one go: tens of milliseconds if every character of it is escaped
KEY = re.compile(rb'(?<!\\)"data"[ \t\r\n]*:[ \t\r\n]*(?=\[)')  # in a string its quotes would have a backslash
ESCAPED = re.compile(rb"\\.", re.DOTALL)
QUOTE, COMMA = ord('"'), ord(",")
STEPS = np.zeros(256, np.int16)  # of the depth
STEPS[ord("[")], STEPS[ord("]")] = 1, -1
BRACES, OF_VALUES = np.zeros(256, np.bool_), np.ones(256, np.bool_)
BRACES[list(b"{}")] = True
OF_VALUES[list(b"[], \t\r\n")] = False


@dataclass(frozen=True, slots=True)
class Values:
    """Where the values of a tensor are in a body. slices: from, to, and the lists that are open at both."""

    slices: tuple[tuple[int, int, int, int], ...]


async def parse_large(body: memoryview, max_rest_bytes: int) -> dict[str, Any]:
    """The JSON object that a request is, with `Values` for the data of its inputs.

    Raises RequestError when it is none, or more than max_rest_bytes of it are something else.
    """
    mark, rest, at = secrets.token_hex(16), bytearray(), 0  # no sender knows the mark
    found: list[Values] = []
    while True:
        window = bytes(body[at : at + max_rest_bytes + 1 - len(rest)])
        key = KEY.search(window)
        rest += window if key is None else window[: key.end()]
        if len(rest) > max_rest_bytes:
            raise RequestError(400, f"the JSON has more than {max_rest_bytes} bytes besides the data of its inputs")
        if key is None:
            break
        values = await _find_values(body, at + key.end())
        rest += b'"%s%d"' % (mark.encode(), len(found))
        found.append(values)
        at = values.slices[-1][1]
    asked = parse_object(bytes(rest))
    inputs = asked.get("inputs")
    for each in inputs if isinstance(inputs, list) else ():
        data = each.get("data") if isinstance(each, dict) else None
        if isinstance(data, str) and data.startswith(mark):
            each["data"] = found[int(data[len(mark) :])]
    return asked


async def _find_values(body: memoryview, start: int) -> Values:
    """The values in the list that begins there."""
    slices, at, depth, n_bytes = [], start, 0, SLICE_BYTES
    while True:
        await asyncio.sleep(0)
        text = bytes(body[at : at + n_bytes])
        codes, depths = _structure(text, depth)
        ends = np.flatnonzero(depths == 0)
        if ends.size:
            codes, depths = codes[: ends[0] + 1], depths[: ends[0] + 1]
        if BRACES[codes].any() or depths.max(initial=0) > MAX_RANK:
            raise RequestError(400, f"data must be numbers or strings, in lists at most {MAX_RANK} deep")
        if ends.size:
            slices.append((at, at + len(codes), depth, 0))
            return Values(tuple(slices))
        commas = np.flatnonzero(codes == COMMA)
        if commas.size:
            cut = int(commas[-1])
            slices.append((at, at + cut, depth, int(depths[cut])))
            at, depth, n_bytes = at + cut + 1, int(depths[cut]), SLICE_BYTES
        elif len(text) < n_bytes:
            raise RequestError(400, "the request is not JSON: a list of data does not end")
        elif n_bytes > MAX_VALUE_BYTES:
            raise RequestError(413, f"a value in data exceeds {MAX_VALUE_BYTES} bytes of JSON: send it as binary data")
        else:
            n_bytes *= 2  # a long string


def _structure(text: bytes, depth: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """The bytes of a slice that does not begin in a string, strings as quotes only, and how many lists are open after each."""
    if b"\\" in text:
        text = ESCAPED.sub(b"__", text)
    codes = np.frombuffer(text, np.uint8)
    if QUOTE in text:
        inside = np.logical_xor.accumulate(codes == QUOTE)
        codes = np.where(inside, np.uint8(QUOTE), codes)
    depths = np.cumsum(STEPS[codes], dtype=np.int16)
    depths += np.int16(depth)
    return codes, depths


async def large_data(
    body: memoryview, values: Values, datatype: str, shape: tuple[int, ...], where: str
) -> bytes | bytearray:
    """The bytes of a tensor that is given as JSON, as `json_data`."""
    if len(values.slices) == 1:
        start, end, _, _ = values.slices[0]
        return json_data(_parsed(bytes(body[start:end])), datatype, shape, where)
    data = bytearray()
    n_values, rank = 0, 0
    for start, end, before, after in values.slices:
        await asyncio.sleep(0)
        text = bytes(body[start:end])
        codes, depths = _structure(text, before)
        deep = depths[OF_VALUES[codes]]
        rank = rank or int(deep.max(initial=1))
        counts = n_values + 1 + np.arange(np.count_nonzero(codes == COMMA) + (after > 0))
        told = np.append(depths[codes == COMMA], [after] * (after > 0))
        if (
            rank not in (1, len(shape))
            or (deep != rank).any()
            or (told != _depths_of_commas(counts, shape[-rank:] if rank > 1 else ())).any()
        ):
            raise RequestError(400, f"{where} is not a list of {datatype} of shape {list(shape)}")
        here = _parsed(b"[" * before + text + b"]" * after)
        for _ in range(rank - 1):
            here = list(chain.from_iterable(here))
        n_values += len(here)
        if len(here) != len(counts) + (after == 0) or n_values > prod(shape):
            raise RequestError(400, f"{where} has not as many values as shape says: {list(shape)}")
        data += json_data(here, datatype, (len(here),), where)
    if n_values != prod(shape):
        raise RequestError(400, f"{where} has {n_values} values, but shape says {list(shape)}")
    return data


def _depths_of_commas(counts: NDArray[np.int_], shape: tuple[int, ...]) -> NDArray[np.int_]:
    """How many lists are open at the comma after so many values of a tensor; an empty shape is a flat list."""
    depths = np.full(len(counts), max(len(shape), 1))
    for k in range(1, len(shape)):
        depths -= counts % max(prod(shape[k:]), 1) == 0
    return depths


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the request is not JSON: {str(error)[:120]}") from error
