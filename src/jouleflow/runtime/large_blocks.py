"""Memory of large bodies and answers goes back to the system when it is freed."""

from __future__ import annotations

import contextlib
import ctypes

MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE_BYTES = 4 << 20


def give_large_blocks_back() -> bool:
    """Has glibc map each block of LARGE_BYTES or more by itself, always. As it comes, it takes blocks of a size from its heap once it has
    seen one of that size freed, and keeps them for as long as anything lies above them. Returns whether this was possible."""
    with contextlib.suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE_BYTES))
    return False
