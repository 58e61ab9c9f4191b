"""First batches of a model before it is in service: its memory is touched, and its latencies are known from the start.

At the end all slots run the largest batch at once: about as much memory as will ever be needed is then taken, and does not grow
under load.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic

from jouleflow.errors import ModelError
from jouleflow.runtime.trial import Trial, can_be_tried, sizes_up_to
from jouleflow.serve.served import ServedModel

BUDGET_S = 2.0  # for a model
SIZE_S = 0.1  # for a size of batch, beyond its first runs
LEAST_REPEATS = 3


async def warm_up(served: ServedModel, run_s: float) -> None:
    """Runs zeros of each size of batch a few times, within BUDGET_S. A model whose other sides are open, or that cannot run
    zeros, is left cold, and one that takes longer than run_s for a batch is ended."""
    if not can_be_tried(served.process.inputs, served.batchable):
        return
    start_s = monotonic()
    for n_rows in sizes_up_to(served.queue.max_batch if served.batchable else 1):
        trial = Trial(served.process, n_rows)
        best_s, n, size_start_s = inf, 0, monotonic()
        try:
            while n < LEAST_REPEATS or monotonic() - size_start_s < SIZE_S:
                best_s, n = min(best_s, (await trial.run(run_s))[0]), n + 1
                if monotonic() - start_s > BUDGET_S:
                    break
        except ModelError:
            return
        finally:
            trial.end()
        served.queue.latencies.start_from(n_rows, best_s)
        if monotonic() - start_s > BUDGET_S:
            break
    await _all_at_once(served, n_rows, run_s)


async def _all_at_once(served: ServedModel, n_rows: int, run_s: float) -> None:
    """A batch of so many rows on every slot. What fails will fail under load as well, where its sender is told."""
    trials = [Trial(served.process, n_rows) for _ in list(served.process.free)]
    try:
        await asyncio.gather(*(trial.run(run_s) for trial in trials), return_exceptions=True)
    finally:
        for trial in trials:
            trial.end()
