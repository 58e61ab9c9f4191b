"""Tensor data that lies in files beside the ONNX file. A hostile model must not make us read any other file.

Only plain files under the model's own folder are read: no absolute path, no `..`, no links of any kind.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from jouleflow.errors import ModelError
from jouleflow.graph.check import MAX_FILE_BYTES

MAX_READ_FACTOR = 4  # tensors may share bytes of a file, but not without end


class ExternalFiles:
    """The external data under one folder; counts what was asked for and read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read_bytes = 0
        self._claimed_bytes = 0
        self._sizes: dict[str, int] = {}

    def check(self, tensor: Any, want_bytes: int) -> None:
        """Nothing, if the tensor's bytes lie inside a plain file of the folder.

        Raises ModelError naming the tensor and its location.
        """
        location, offset, length = _entries(tensor, want_bytes)
        if length != want_bytes:
            raise ModelError(f"external tensor {tensor.name!r} has length {length}: its type and shape need {want_bytes}")
        handle = self._open(tensor.name, location)
        try:
            size = os.fstat(handle).st_size
        finally:
            os.close(handle)
        if offset + length > size:
            raise ModelError(f"external tensor {tensor.name!r} needs bytes {offset} to {offset + length} of {location!r}, which has {size}")
        self._sizes[location] = size
        self._claimed_bytes += length
        if self._claimed_bytes > min(MAX_READ_FACTOR * sum(self._sizes.values()), MAX_FILE_BYTES):
            raise ModelError(f"the external tensors claim {self._claimed_bytes} bytes of {sum(self._sizes.values())} bytes of files: refused")

    def read(self, tensor: Any, want_bytes: int) -> bytes:
        """The bytes of a tensor that passed `check`."""
        location, offset, length = _entries(tensor, want_bytes)
        handle = self._open(tensor.name, location)
        with os.fdopen(handle, "rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise ModelError(f"external data {location!r} became shorter while it was read")
        self.read_bytes += length
        return data

    def _open(self, name: str, location: str) -> int:
        """A descriptor of the file, opened so that no link is followed."""
        path = PurePosixPath(location)
        parts = path.parts
        if not parts or path.is_absolute() or ".." in parts or "\\" in location or "\0" in location or ":" in location:
            raise ModelError(f"external tensor {name!r} lies at {location!r}: only a plain path under the model's folder is read")
        at = self.folder
        for part in parts:
            at = at / part
            if at.is_symlink():
                raise ModelError(f"external tensor {name!r}: {location!r} goes through a symbolic link: refused; copy the file")
        try:
            handle = os.open(at, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:
            raise ModelError(f"external tensor {name!r}: cannot open {location!r} beside the model: {error}") from error
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(handle)
            raise ModelError(f"external tensor {name!r}: {location!r} is no plain file, or has other hard links: refused; copy the file")
        return handle


def _entries(tensor: Any, default_length: int) -> tuple[str, int, int]:
    """(location, offset, length) of a tensor's external data."""
    entries = {e.key: e.value for e in tensor.external_data}
    if len(entries) != len(tensor.external_data) or "location" not in entries:
        raise ModelError(f"external tensor {tensor.name!r} has keys {sorted(entries)}: location once, offset and length at most once")
    numbers = []
    for key, default in (("offset", 0), ("length", default_length)):
        text = entries.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise ModelError(f"external tensor {tensor.name!r} has {key} {text[:40]!r}: it must be a count of bytes")
        numbers.append(int(text))
    if tensor.HasField("raw_data"):
        raise ModelError(f"external tensor {tensor.name!r} has raw data too: the file is damaged")
    return entries["location"], numbers[0], numbers[1]
