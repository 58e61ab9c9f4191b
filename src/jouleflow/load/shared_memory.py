"""Inputs of a load in system shared memory: a file that the server is told of, so that requests only say where in it they lie."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.load.ask import ask

FOLDER = Path("/dev/shm")  # nosec B108  # files are made with a name of our own, and only if there is none
Extents = dict[str, dict[str, Any]]  # of each input: its parameters, in the protocol's words


@contextlib.contextmanager
def shared_inputs(url: str, token: str, requests: Sequence[Mapping[str, NDArray[Any]]]) -> Iterator[list[Extents]]:
    """Where the inputs of each request lie, while the block lasts.

    Raises InputError when the server does not take the region.
    """
    name = f"jouleflow_load_{secrets.token_hex(8)}"
    path, region = FOLDER / name, f"{url}/v2/systemsharedmemory/region/{name}"
    extents, at = [Extents() for _ in requests], 0
    with contextlib.ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                for inputs, lies in zip(requests, extents, strict=True):
                    for key, tensor in inputs.items():
                        file.write(tensor.tobytes())
                        lies[key] = {"shared_memory_region": name, "shared_memory_byte_size": tensor.nbytes, "shared_memory_offset": at}  # fmt: skip
                        at += tensor.nbytes
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        asked = {"key": f"/{name}", "offset": 0, "byte_size": at}
        ask(f"{region}/register", token, body=orjson.dumps(asked))
        undo.callback(_forget, f"{region}/unregister", token)
        yield extents


def _forget(address: str, token: str) -> None:
    with contextlib.suppress(InputError):  # the server may have gone
        ask(address, token, body=b"")
