"""Regions of system shared memory that clients registered: tensors are read from them and written to them, and do not cross a socket.

A region is never mapped: a client may cut its file short at any time, and touching a page that is gone would end the server. It is read
and written by `preadv` and `pwrite`, which come back short instead, straight into and out of the memory of the model's process.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import Any

from jouleflow.serve.limits import Limits
from jouleflow.serve.request_error import NotOffered, RequestError

FOLDER = "/dev/shm"  # nosec B108  # nothing is made there, and what is opened is checked
MAX_NAME = 256
FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not blocking: a pipe or a lease would make the server wait
REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
OFF = "shared memory is off on this server: start it with --shared-memory"


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a request says that a tensor lies: bytes of a region by name."""

    region: str
    offset: int
    size_bytes: int

    @property
    def parameters(self) -> dict[str, str | int]:
        """The same in the protocol's words."""
        own: dict[str, str | int] = {REGION: self.region, SIZE: self.size_bytes}
        return {**own, OFFSET: self.offset} if self.offset else own


def extent_of(parameters: dict[str, Any], where: str) -> Extent | None:
    """The extent that a tensor's parameters name, if they do.

    Raises RequestError.
    """
    if REGION not in parameters:
        for key in (SIZE, OFFSET):
            if key in parameters:
                raise RequestError(400, f"{where}.parameters has {key}, but no {REGION}")
        return None
    name, size, offset = parameters[REGION], parameters.get(SIZE), parameters.get(OFFSET, 0)
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise RequestError(400, f"{where}.parameters.{REGION} must be a name of 1 to {MAX_NAME} characters")
    return Extent(name, _whole(offset, f"{where}.parameters.{OFFSET}"), _whole(size, f"{where}.parameters.{SIZE}"))


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise RequestError(400, f"{where} {str(value)[:40]} must be an integer from 0 to 2^63 - 1")
    return value


@dataclass(slots=True)
class ClientRegion:
    """A part of a client's file. fd: to read; writing_fd: to write, opened when it is first needed."""

    name: str
    key: str
    offset: int
    size_bytes: int
    fd: int
    writing_fd: int = -1

    def check_open(self) -> None:
        """Raises RequestError when it was unregistered meanwhile."""
        if self.fd < 0:
            raise RequestError(400, f"shared memory region {self.name!r} was unregistered while the request waited")

    def open_to_write(self) -> None:
        """The very file that was registered, whatever has its name now.

        Raises RequestError.
        """
        if self.writing_fd < 0:
            try:
                self.writing_fd = os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise RequestError(400, f"region {self.name!r} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        for fd in (self.fd, self.writing_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.writing_fd = -1


class Span:
    """Bytes of a region, read or written when they are needed."""

    __slots__ = ("at", "region", "size_bytes")

    def __init__(self, region: ClientRegion, extent: Extent) -> None:
        self.region, self.at, self.size_bytes = region, region.offset + extent.offset, extent.size_bytes

    def __len__(self) -> int:
        return self.size_bytes

    def read_into(self, memory: memoryview) -> None:
        """Fills memory of the span's size.

        Raises RequestError when the region or its bytes are no longer there.
        """
        self.region.check_open()
        done = 0
        while done < self.size_bytes:
            try:
                n = os.preadv(self.region.fd, [memory[done:]], self.at + done)
            except OSError as error:
                raise RequestError(400, f"region {self.region.name!r} cannot be read: {error.strerror}") from error
            if not n:
                raise RequestError(400, self._short())
            done += n

    def write(self, raw: memoryview | bytes) -> None:
        """Puts bytes at the span's beginning.

        Raises RequestError when they are too many, or the region or its memory is no longer there.
        """
        region, done = self.region, 0
        if len(raw) > self.size_bytes:
            raise RequestError(
                400, f"an output of {len(raw)} bytes does not fit {SIZE} {self.size_bytes} in region {region.name!r}"
            )
        region.check_open()
        try:
            if os.fstat(region.writing_fd).st_size < self.at + len(raw):
                raise RequestError(400, self._short())
            while done < len(raw):
                done += os.pwrite(region.writing_fd, raw[done:], self.at + done)
        except OSError as error:
            raise RequestError(400, f"region {region.name!r} cannot be written: {error.strerror}") from error

    def _short(self) -> str:
        return f"the file {self.region.key!r} of region {self.region.name!r} was truncated: it is shorter than what was registered"


@dataclass(slots=True)
class Shared:
    """What a request has in shared memory. sinks: by output, where it goes. error: why an input could not be read."""

    sinks: dict[str, Span] = field(default_factory=dict)
    error: str = ""


class ClientRegions:
    """The regions that are registered now. on: whether any may be."""

    def __init__(self, limits: Limits, on: bool) -> None:
        self.limits, self.on = limits, on
        self._regions: dict[str, ClientRegion] = {}

    def check_on(self) -> None:
        """Raises NotOffered when the server was not told to offer shared memory."""
        if not self.on:
            raise NotOffered(OFF)

    def register(self, name: str, key: Any, offset: Any, size_bytes: Any) -> None:
        """Takes a region of a client's file under /dev/shm.

        Raises RequestError saying what is wrong with it.
        """
        self.check_on()
        _check_name(name)
        if name in self._regions:
            raise RequestError(409, f"region {name!r} is registered already: unregister it first")
        offset, size_bytes = _whole(offset, "offset"), _whole(size_bytes, "byte_size")
        if not size_bytes:
            raise RequestError(400, "byte_size must be more than 0")
        if len(self._regions) >= self.limits.max_regions:
            raise RequestError(400, f"{len(self._regions)} regions are registered, as many as there may be")
        taken = sum(r.size_bytes for r in self._regions.values())
        if taken + size_bytes > self.limits.max_region_bytes:
            raise RequestError(
                400, f"{size_bytes} bytes: {taken} of the {self.limits.max_region_bytes} that may be are registered"
            )
        fd = _opened(key)
        whole = os.fstat(fd).st_size
        if offset + size_bytes > whole:
            os.close(fd)
            raise RequestError(
                400, f"offset {offset} and byte_size {size_bytes} go past the {whole} bytes of {str(key)!r}"
            )
        self._regions[name] = ClientRegion(name, key, offset, size_bytes, fd)

    def unregister(self, name: str = "") -> None:
        """Forgets a region, all of them without a name. What is not there is no error, as with Triton.

        Raises RequestError for what is no name.
        """
        self.check_on()
        if name:
            _check_name(name)
        for each in [name] if name else list(self._regions):
            if (region := self._regions.pop(each, None)) is not None:
                region.close()

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """The region of a name, all of them without one.

        Raises RequestError when there is none of that name.
        """
        self.check_on()
        if name and name not in self._regions:
            raise RequestError(404, f"no shared memory region {name[:MAX_NAME]!r} is registered")
        found = [self._regions[name]] if name else self._regions.values()
        return [{"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.size_bytes} for r in found]

    def source(self, extent: Extent) -> Span:
        """The bytes of an input.

        Raises RequestError when there is no such region, or they lie outside it.
        """
        return Span(self._holding(extent), extent)

    def sink(self, extent: Extent) -> Span:
        """Where an output goes.

        Raises RequestError, also when the region cannot be written.
        """
        region = self._holding(extent)
        region.open_to_write()
        return Span(region, extent)

    def _holding(self, extent: Extent) -> ClientRegion:
        self.check_on()
        region = self._regions.get(extent.region)
        if region is None:
            raise RequestError(400, f"shared memory region {extent.region!r} is not registered")
        if extent.offset + extent.size_bytes > region.size_bytes:
            raise RequestError(
                400,
                f"{SIZE} {extent.size_bytes} at {OFFSET} {extent.offset} go past the {region.size_bytes} bytes of region {extent.region!r}",
            )
        if extent.size_bytes > self.limits.max_body_bytes:
            raise RequestError(
                413, f"{SIZE} {extent.size_bytes}: at most {self.limits.max_body_bytes}, as of a body, are taken"
            )
        return region

    def close(self) -> None:
        """Forgets all."""
        while self._regions:
            self._regions.popitem()[1].close()


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or "/" in name:
        raise RequestError(400, f"a region's name must have 1 to {MAX_NAME} characters and no '/'")


def _opened(key: Any) -> int:
    """A file under /dev/shm, to read: a regular one of the server's own user, and no link.

    Raises RequestError.
    """
    if not isinstance(key, str):
        raise RequestError(400, "key must be a string")
    name = key.removeprefix("/")
    if not 0 < len(name) <= MAX_NAME or "/" in name or "\0" in name or ".." in name or name == ".":
        raise RequestError(400, f"key {key[:80]!r} must be a name under {FOLDER}, such as /my_region")
    try:
        fd = os.open(f"{FOLDER}/{name}", os.O_RDONLY | FLAGS)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no name"
        raise RequestError(400, f"key {key!r} cannot be opened under {FOLDER}: {why}") from error
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid():
        os.close(fd)
        raise RequestError(400, f"key {key!r} must be a regular file of the user that the server runs as")
    return fd
