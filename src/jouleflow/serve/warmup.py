"""First batches of a model before it is in service: its memory is touched, and its latencies are known from the start.

At the end all slots run the largest batch at once: about as much memory as will ever be needed is then taken, and does not grow
under load.
"""

from __future__ import annotations

import asyncio

from jouleflow.errors import ModelError
from jouleflow.runtime.micro_batch import find_micro_batch
from jouleflow.runtime.trial import Trial, can_be_tried
from jouleflow.serve.served import ServedModel

BUDGET_S = 2.0  # for a model


async def warm_up(served: ServedModel, run_s: float) -> None:
    """Runs zeros of each size of batch a few times, within BUDGET_S, and finds out how many rows are best run at once. A model whose
    other sides are open, or that cannot run zeros, is left cold, and one that takes longer than run_s for a batch is ended."""
    if not can_be_tried(served.process.inputs, served.batchable):
        return
    queue = served.queue
    most = queue.max_batch if served.batchable else 1
    try:
        largest = await find_micro_batch(served.process, most, BUDGET_S, run_s, queue.latencies.start_from)
    except ModelError:
        return
    await _all_at_once(served, largest, run_s)


async def _all_at_once(served: ServedModel, n_rows: int, run_s: float) -> None:
    """A batch of so many rows on every slot. What fails will fail under load as well, where its sender is told."""
    trials = [Trial(served.process, n_rows) for _ in list(served.process.free)]
    try:
        await asyncio.gather(*(trial.run(run_s) for trial in trials), return_exceptions=True)
    finally:
        for trial in trials:
            trial.end()
