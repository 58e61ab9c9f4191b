"""First batches of a model before it is in service: its memory is touched, and its latencies are known from the start."""

from __future__ import annotations

import asyncio
from math import inf, prod
from time import monotonic

from jouleflow.runtime.messages import order_of
from jouleflow.runtime.process import Answer
from jouleflow.runtime.tensors import NUMPY, lay_out
from jouleflow.serve.served import ServedModel

BUDGET_S = 2.0  # for a model
SIZE_S = 0.1  # for a size of batch, beyond its first runs
LEAST_REPEATS = 3


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 4 ... and most."""
    sizes, size = [], 1
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, most]


async def warm_up(served: ServedModel, run_s: float) -> None:
    """Runs zeros of each size of batch a few times, within BUDGET_S. A model whose other sides are open is left cold, and one that
    takes longer than run_s for a batch is ended."""
    ports = served.process.inputs
    if any(p.datatype == "BYTES" or -1 in p.shape[1:] or (not served.batchable and -1 in p.shape) for p in ports):
        return
    start_s = monotonic()
    for n_rows in sizes_up_to(served.queue.max_batch if served.batchable else 1):
        best_s, n, size_start_s = inf, 0, monotonic()
        while n < LEAST_REPEATS or monotonic() - size_start_s < SIZE_S:
            seconds = await _run_zeros(served, n_rows, run_s)
            if seconds is None:
                return
            best_s, n = min(best_s, seconds), n + 1
            if monotonic() - start_s > BUDGET_S:
                break
        served.queue.latencies.start_from(n_rows, best_s)
        if monotonic() - start_s > BUDGET_S:
            return


async def _run_zeros(served: ServedModel, n_rows: int, run_s: float) -> float | None:
    process = served.process
    shapes = [(n_rows, *p.shape[1:]) if served.batchable else p.shape for p in process.inputs]
    pieces, at = lay_out(
        (p.name, p.datatype, shape, prod(shape) * NUMPY[p.datatype].itemsize)
        for p, shape in zip(process.inputs, shapes, strict=True)
    )
    slot = process.free.pop()
    process.place(slot, at)[:] = bytes(at)
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    start_s = monotonic()
    process.run(slot, order_of(pieces, [p.name for p in process.outputs]), answered.set_result)
    try:
        answer = await asyncio.wait_for(asyncio.shield(answered), run_s)
    except TimeoutError:
        process.kill()
        return None
    if not process.alive:
        return None
    process.free.append(slot)
    return None if answer.error else monotonic() - start_s
