"""What the server takes at most: every one a number that an operator may change, in a file for `jouleflow serve --limits`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jouleflow.errors import InputError, near_matches
from jouleflow.runtime.memory_limit import SHARE_FRAC

MOST = {"bytes": 1 << 50, "s": 1e6, "frac": 1.0}  # by the unit that a name ends in
MOST_COUNT = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Of HTTP and gRPC alike. max_waiting_bytes: of requests that wait in the queues of one model, and of large bodies that wait to be
    read; max_arriving_bytes: of large
    bodies that are being received, over all connections of a listener; max_unsent_bytes: of answers that their clients do not read, the
    same; max_region_bytes: of all registered regions of shared memory.

    Only gRPC's core knows how long a message will be, so that one that takes a while counts as max_body_bytes of those that arrive. What
    its core holds of messages that come quickly is bounded by max_calls times max_body_bytes alone."""

    max_body_bytes: int = 64 << 20
    max_header_bytes: int = 16 << 10
    max_target_bytes: int = 4 << 10
    max_connections: int = 1024
    max_pipelined: int = 16
    max_streams: int = 256  # of one gRPC connection
    max_calls: int = 1024  # of gRPC at once, over all connections
    least_ping_s: float = 5.0  # between pings of a gRPC client; one that does not keep to it is cut off
    max_waiting_bytes: int = 256 << 20
    max_arriving_bytes: int = 1 << 30
    max_unsent_bytes: int = 256 << 20
    max_regions: int = 128
    max_region_bytes: int = 1 << 30
    model_memory_frac: float = (
        SHARE_FRAC  # of the machine's, for a model's process whose jouleflow.toml has no memory_mb
    )
    header_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_s: float = 60.0  # from there to the end of its body
    send_s: float = 30.0  # that a client may leave an answer unread
    idle_s: float = 75.0  # between requests
    run_s: float = 120.0  # of one batch; a model that takes longer is ended and started again
    drain_s: float = 30.0  # for what was accepted, when the server is told to stop


def load_limits(path: Path) -> Limits:
    """The limits of a TOML file; what it does not name is as it is without one. Whatever is a field of Limits can be in it.

    Raises InputError for a file that cannot be read, a name that is no limit, or a value that cannot be one.
    """
    try:
        given = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also numbers too long and lists too deep for Python
        raise InputError(f"{path} is not TOML: {error}") from error
    defaults = {field.name: getattr(Limits(), field.name) for field in fields(Limits)}
    for name, value in given.items():
        if name not in defaults:
            raise InputError(f"{path}: {name!r} is no limit: {near_matches(name, defaults)}")
        _check(f"{path}: {name}", value, defaults[name], MOST.get(name.rpartition("_")[2], MOST_COUNT))
    return Limits(**given)


def _check(where: str, value: Any, default: float, most: float) -> None:
    """Raises InputError for what cannot be in the place of a default."""
    if isinstance(default, int):
        fits = type(value) is int and 1 <= value <= most
        allowed = f"a whole number, 1 to {most}"
    else:
        fits = type(value) in (int, float) and 0 < value <= most
        allowed = f"a number above 0, up to {most:g}"
    if not fits:
        raise InputError(f"{where} = {value!r} must be {allowed}: change it, or leave it out for {default}")
