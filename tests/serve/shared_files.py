"""Files under /dev/shm that a test makes, and requests that name them."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tests.serve.conftest import Running

X = np.arange(8, dtype=np.float32).reshape(2, 4)


class SharedFile:
    """A file under /dev/shm, gone with the block."""

    def __init__(self, name: str, content: bytes) -> None:
        self.key = f"/jouleflow_test_{os.getpid()}_{name}"
        self.path = Path(f"/dev/shm{self.key}")
        self.path.write_bytes(content)

    def __enter__(self) -> SharedFile:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def extent(region: str, size_bytes: int, offset: int = 0) -> dict[str, Any]:
    return {"shared_memory_region": region, "shared_memory_byte_size": size_bytes, "shared_memory_offset": offset}


def tensor(parameters: dict[str, Any], shape: tuple[int, ...] = X.shape, name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(shape), "parameters": parameters}


def register(server: Running, name: str, key: Any, size_bytes: Any, offset: Any = 0) -> tuple[int, str]:
    body = {"key": key, "offset": offset, "byte_size": size_bytes}
    status, _, text = server.ask("POST", f"/v2/systemsharedmemory/region/{name}/register", body)
    return status, json.loads(text)["error"] if text else ""


def unregister(server: Running, name: str = "") -> int:
    return server.ask("POST", f"/v2/systemsharedmemory{f'/region/{name}' if name else ''}/unregister", b"")[0]


def infer(server: Running, body: dict[str, Any], model: str = "double") -> tuple[int, dict[str, Any]]:
    status, _, text = server.ask("POST", f"/v2/models/{model}/infer", body)
    return status, json.loads(text)
