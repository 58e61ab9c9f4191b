"""Short time slices for a thread that does little and often: with them Linux (6.12 and later) lets it interrupt threads that compute,
once it is woken, rather than wait for the end of their slice of some milliseconds. It gets no more of the CPU than before, and
no privilege is needed.

Source: Linux, `sched_setattr`(2) and kernel/sched/fair.c (EEVDF, custom slices).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SLICE_S = 100e-6  # the least that Linux takes
_SYSCALLS = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
_ATTRIBUTES = struct.Struct("IIQiIQQQ")  # size, policy, flags, nice, priority, runtime (the slice), deadline, period
_NORMAL, _RESET_ON_FORK, _OWN_THREAD = 0, 1, 0


def ask_for_short_slices() -> bool:
    """Of the calling thread; processes and threads that it starts have the usual ones. Whether the system took it: only Linux does, an
    older one without effect, and only from a thread that is scheduled as usual."""
    number = _SYSCALLS.get(platform.machine()) if sys.platform == "linux" else None
    if number is None or os.sched_getscheduler(_OWN_THREAD) != _NORMAL:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, _OWN_THREAD)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, _NORMAL, _RESET_ON_FORK, nice, 0, round(SLICE_S * 1e9), 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, _OWN_THREAD, wanted, 0) == 0)
