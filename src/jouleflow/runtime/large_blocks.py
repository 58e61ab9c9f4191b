"""Memory of large bodies and answers goes back to the system when it is freed, and that of small ones is kept."""

from __future__ import annotations

import contextlib
import ctypes

# parameters of glibc's mallopt
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGE_BYTES = 4 << 20
KEPT_BYTES = 2 * LARGE_BYTES  # at the heap's end: what glibc itself would keep, had it seen such a block freed


def give_large_blocks_back() -> bool:
    """Has glibc map each block of LARGE_BYTES or more by itself, always. As it comes, it takes blocks of a size from its heap once it has
    seen one of that size freed, and keeps them for as long as anything lies above them. Returns whether this was possible.

    A threshold that is given also ends glibc's adapting of how much it keeps: with the 128 KiB that it begins with, memory would come and
    go twice with each batch of a small model, and each page of it be cleared.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(MMAP_THRESHOLD, LARGE_BYTES) and mallopt(TRIM_THRESHOLD, KEPT_BYTES))
    return False
