"""How many rows of a batch are best run at once. A batch may be run as several smaller ones, one right after the other: it is ordered,
woken up for and answered once, and yet its activations stay in the cache.

On CPUs a convolutional network often has its best rate at one row, and a batch of sixteen costs a fifth more a row and sixteen times the
memory; a small network has it at many.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from jouleflow.runtime.process import ModelProcess
from jouleflow.runtime.trial import Trial, sizes_up_to

SIZE_S = 0.1  # for a size of batch, beyond its first runs
LEAST_REPEATS = 3
WORSE_FRAC, WORSE_SIZES = 0.05, 2  # a row, in so many sizes one after another: larger ones are not tried
WORTH_FRAC = 0.03  # a row, for which a larger micro-batch is taken


async def find_micro_batch(
    process: ModelProcess,
    max_rows: int,
    budget_s: float,
    run_s: float | None = None,
    heard: Callable[[int, float], None] = lambda n_rows, seconds: None,
) -> int:
    """Runs zeros of each size of batch a few times and sets `process.micro_batch`: 0 when the largest that was tried is best.
    heard: told each size and its best time, larger ones as micro-batches. Returns the largest size that was tried.

    Raises ModelError when a batch cannot be run, or takes longer than run_s, which ends the process.
    """
    end_s, sizes = monotonic() + budget_s, sizes_up_to(max_rows)
    best, best_row_s, last, n_worse = sizes[0], 0.0, sizes[0], 0
    process.micro_batch = 0
    for n_rows in sizes:
        seconds = await _best_s(process, n_rows, run_s, end_s)
        heard(n_rows, seconds)
        row_s, last = seconds / n_rows, n_rows
        if not best_row_s or row_s < best_row_s * (1 - WORTH_FRAC):
            best, best_row_s = n_rows, row_s
        n_worse = n_worse + 1 if row_s > best_row_s * (1 + WORSE_FRAC) else 0
        if n_worse == WORSE_SIZES or monotonic() > end_s:
            break
    if best == last or (last == max_rows and row_s < best_row_s * (1 + WORTH_FRAC)):
        return last
    process.micro_batch = best
    for n_rows in sizes:
        if n_rows > best and monotonic() < end_s:
            heard(n_rows, await _best_s(process, n_rows, run_s, end_s))
            last = max(last, n_rows)
    return last


async def _best_s(process: ModelProcess, n_rows: int, run_s: float | None, end_s: float) -> float:
    trial = Trial(process, n_rows)
    try:
        best_s, n, start_s = (await trial.run(run_s))[0], 1, monotonic()
        while (n < LEAST_REPEATS or monotonic() - start_s < SIZE_S) and monotonic() < end_s:
            best_s, n = min(best_s, (await trial.run(run_s))[0]), n + 1
        return best_s
    finally:
        trial.end()
