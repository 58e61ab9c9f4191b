"""The fields of a request in JSON, untrusted: each is what it must be, or a RequestError names it and says what it must be."""

from __future__ import annotations

from math import prod
from typing import Any

import orjson

from jouleflow.serve.request_error import RequestError

MAX_TENSORS = 64
MAX_RANK = 8
MAX_ELEMENTS = 1 << 28
MAX_NAME = 256
MAX_TIMEOUT_US, MAX_PRIORITY = 3_600_000_000, 255


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that a request is.

    Raises RequestError when it is none.
    """
    try:
        return as_object(orjson.loads(raw), "the request")
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the request is not JSON: {str(error)[:120]}") from error


def as_object(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise RequestError(400, f"{where} must be a JSON object")
    return value


def as_tensors(value: Any, where: str) -> list[Any]:
    """The value, which must be a list of tensors."""
    if not isinstance(value, list) or not value or len(value) > MAX_TENSORS:
        raise RequestError(400, f"{where} must be a list of 1 to {MAX_TENSORS} tensors")
    return value


def as_text(value: Any, where: str) -> str:
    """The value, which must be a short string."""
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise RequestError(400, f"{where} must be a string of at most {MAX_NAME} characters")
    return value


def as_flag(value: Any, where: str) -> bool:
    """The value, which must be true or false."""
    if not isinstance(value, bool):
        raise RequestError(400, f"{where} must be true or false")
    return value


def timeout_s_of(parameters: dict[str, Any]) -> float:
    """How long the sender will wait; 0 when it does not say."""
    value = parameters.get("timeout", 0)  # in microseconds, as Triton has it
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TIMEOUT_US:
        raise RequestError(400, f"parameters.timeout {value!r} must be microseconds, 0 to an hour")
    return value * 1e-6


def priority_of(parameters: dict[str, Any]) -> int:
    """The priority that a request asks for, which can only be less urgent than its model's; 0 when it does not."""
    value = parameters.get("priority", 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_PRIORITY:
        raise RequestError(400, f"parameters.priority {value!r} must be 0 to {MAX_PRIORITY}")
    return value


def as_shape(value: Any, where: str) -> tuple[int, ...]:
    """The value, which must be the sides of a tensor."""
    if not isinstance(value, list) or len(value) > MAX_RANK:
        raise RequestError(400, f"{where} must be a list of at most {MAX_RANK} sides")
    if not all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in value):
        raise RequestError(400, f"{where} {str(value)[:80]} must hold integers >= 0")
    if prod(value) > MAX_ELEMENTS:
        raise RequestError(400, f"{where} {value} has more than {MAX_ELEMENTS} elements")
    return tuple(value)
