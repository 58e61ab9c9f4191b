"""Which CPU a batch runs on.

Left to itself, Linux often puts two batches on one CPU while another has nothing to do: whoever wakes a thread is about to sleep but
does not yet, and a thread that was put in the wrong place stays there for a slice of some milliseconds, which is longer than most batches.
So each of the batches that run at once has a CPU of its own, unless all are short. It needs no privilege.

Source: Linux, `sched_setaffinity`(2), `sched`(7).
"""

from __future__ import annotations

import contextlib
import os


def cpus_for(n_batches: int) -> tuple[int, ...]:
    """A CPU for each of so many batches at once, if they are as many as the CPUs that this process may use; else none: with fewer the
    system finds a free one, and another server that was given the rest would take the same. None when it cannot bind threads."""
    if not hasattr(os, "sched_setaffinity"):
        return ()
    ours = tuple(sorted(os.sched_getaffinity(0)))
    return ours if n_batches == len(ours) else ()


def bind(thread: int, cpu: int | None) -> None:
    """Lets a thread run on one CPU only; wherever this process may if that is None, or was taken from us meanwhile."""
    if cpu is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, (cpu,))
            return
    with contextlib.suppress(OSError):  # it has ended
        os.sched_setaffinity(thread, os.sched_getaffinity(0))
