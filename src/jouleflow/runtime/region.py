"""Memory that two processes see: grown by either, never by a name that others could open."""

from __future__ import annotations

import mmap
import os


class Region:
    """Anonymous shared memory behind a file descriptor. Each side maps what it has seen so far; `view` maps more when needed."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map: mmap.mmap | None = None
        self._size_bytes = 0  # at least so large

    @classmethod
    def create(cls, size_bytes: int, name: str) -> Region:
        region = cls(os.memfd_create(f"jouleflow-{name}", os.MFD_CLOEXEC))
        region.reserve(size_bytes)
        return region

    def reserve(self, size_bytes: int) -> None:
        """At least so many bytes, for both sides."""
        if size_bytes <= self._size_bytes:
            return
        page = mmap.PAGESIZE
        wanted = -(-max(size_bytes, 1) // page) * page
        if os.fstat(self.fd).st_size < wanted:
            os.ftruncate(self.fd, wanted)
        self._size_bytes = wanted

    def view(self, size_bytes: int) -> memoryview:
        """The first bytes of it, to read and to write.

        Raises ValueError when the other side promised more than there is.
        """
        if self._map is None or len(self._map) < size_bytes:
            whole = os.fstat(self.fd).st_size
            if whole < size_bytes:
                raise ValueError(f"{size_bytes} bytes are wanted of {whole}")
            self._map = mmap.mmap(self.fd, whole)  # an older map lives as long as its views
        return memoryview(self._map)[:size_bytes]

    def close(self) -> None:
        """Gives the descriptor back; memory goes when the last view of it does."""
        os.close(self.fd)
        self._map = None
