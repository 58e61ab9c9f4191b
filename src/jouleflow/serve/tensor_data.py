"""The tensors of a request, untrusted: whether shape, size and values are the model's; all raise RequestError with what was expected."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.runtime.tensors import NUMPY, Port, encode_strings, texts
from jouleflow.serve.request_error import RequestError


def check_shape(port: Port, shape: tuple[int, ...], where: str) -> None:
    """Raises RequestError when a shape is not one that the input takes."""
    fits = len(shape) == len(port.shape) and all(s in (-1, side) for s, side in zip(port.shape, shape, strict=True))
    if not fits or (shape and shape[0] == 0):
        raise RequestError(400, f"{where}.shape {list(shape)}: input {port.name!r} takes {list(port.shape)}")


def check_size(datatype: str, shape: tuple[int, ...], size: int, where: str) -> None:
    """Raises RequestError when so many bytes are not the shape's."""
    if datatype != "BYTES" and size != prod(shape) * NUMPY[datatype].itemsize:
        expected = prod(shape) * NUMPY[datatype].itemsize
        raise RequestError(400, f"{where}: {size} bytes, but {list(shape)} of {datatype} is {expected}")


def json_data(data: Any, datatype: str, shape: tuple[int, ...], where: str) -> bytes:
    """The bytes of a tensor that is given as JSON."""
    if data is None:
        raise RequestError(400, f"{where} is missing")
    try:
        if datatype == "BYTES":
            array = np.asarray(data, np.object_)
            if not all(isinstance(v, str) for v in array.ravel()):
                raise RequestError(400, f"{where} must hold strings")
        else:
            array = np.asarray(data)
            _check_kind(array, datatype, where)
            if datatype != "BOOL" and _has_bool(data):
                raise RequestError(400, f"{where} must hold {datatype} values only")
            array = array.astype(NUMPY[datatype])
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(400, f"{where} is not a list of {datatype}: {str(error)[:80]}") from error
    if array.size != prod(shape) or array.shape not in (shape, (array.size,)):
        raise RequestError(400, f"{where} has shape {list(array.shape)}, but shape says {list(shape)}")
    return encode_strings(array) if datatype == "BYTES" else array.tobytes()


def _check_kind(array: NDArray[Any], datatype: str, where: str) -> None:
    dtype = NUMPY[datatype]
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]
    if array.size and array.dtype.kind not in allowed:
        raise RequestError(400, f"{where} must hold {datatype} values only")
    if array.size and dtype.kind in "iuf":
        least, most = limits_of(dtype)
        low, high = array.min().item(), array.max().item()
        if low < least or high > most:
            raise RequestError(400, f"{where} has values from {low} to {high}, outside {datatype}")


def limits_of(dtype: np.dtype[np.generic]) -> tuple[float, float]:
    """The least and the largest number of a type, exact."""
    if dtype.kind == "f":
        most = float(np.finfo(dtype.str).max)
        return -most, most
    return int(np.iinfo(dtype.str).min), int(np.iinfo(dtype.str).max)


def _has_bool(data: Any) -> bool:
    """Whether true or false is among numbers: NumPy would take them for 1 and 0."""
    if not isinstance(data, list):
        return isinstance(data, bool)
    kinds = set(map(type, data))
    return bool in kinds or (list in kinds and any(map(_has_bool, data)))


def check_strings(raw: memoryview | bytes, shape: tuple[int, ...], name: str) -> None:
    """Raises RequestError when the bytes are not as many strings of UTF-8 as the shape says."""
    try:
        texts(raw, shape)
    except ValueError as error:
        raise RequestError(400, f"input {name!r}: {error}") from error
