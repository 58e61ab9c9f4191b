"""How much memory a model's process may take when nobody has said: a share of what this machine has, so that one model cannot have all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SHARE_FRAC = 0.75  # of the memory; the rest is the server's, and the system's
# Address space that is set aside and never written to costs nothing, but is counted. Measured with ONNX Runtime 1.31 on Linux x86-64:
# 240 MiB with a small model, and for each further thread 72 MiB, 136 MiB for a moment (its stack, and a heap of glibc, aligned).
SET_ASIDE_BYTES, SET_ASIDE_BYTES_PER_THREAD = 512 << 20, 144 << 20


def machine_memory_bytes(root: Path = Path("/")) -> int:
    """The memory of this machine, or of the container or other cgroup that this process is in, if that is less. root: of the file system.

    Source: proc(5), MemTotal; Linux cgroup-v2, memory.max; cgroup-v1, memory.limit_in_bytes; a group is also held to what those above may take.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            found = [int(line.split()[1]) << 10]
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            mount, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = mount / name.lstrip("/")
        for folder in (group, *group.parents):
            found += [int(limit) for limit in _lines(folder / file) if limit.isdecimal()]  # "max" is none
            if folder == mount:
                break
    return min(found)


def address_space_bytes(n_threads: int, share_frac: float = SHARE_FRAC, root: Path = Path("/")) -> int:
    """What a model's process may map with so many threads: a share of the memory, and what Python, ONNX Runtime and threads set aside."""
    shared = int(share_frac * machine_memory_bytes(root))
    return shared + SET_ASIDE_BYTES + (n_threads + 1) * SET_ASIDE_BYTES_PER_THREAD


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text().splitlines()
    except OSError:
        return
