"""Measures a box and its models: each batch alone, several instances of it, and random sets of batches that run at once.

Every cell is kept as soon as it is measured, by the hashes of its models and the machine, so that a profile can be interrupted,
goes on where it stopped, and costs nothing the second time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic

import onnxruntime as ort

from jouleflow.errors import InputError
from jouleflow.profile.serving import Batch, Cell, ProfiledModel, ServingProfile
from jouleflow.profile.spread import spread_of
from jouleflow.runtime.memory_limit import address_space_bytes
from jouleflow.runtime.meter import Meter, cpu_s, open_meter
from jouleflow.runtime.micro_batch import find_micro_batch
from jouleflow.runtime.process import ModelProcess, Settings
from jouleflow.runtime.trial import Trial, batchable, can_be_tried, sizes_up_to

ALONE_S, TOGETHER_S = 0.12, 0.2  # of each phase of a cell
MICRO_BATCH_S = 2.0  # for each model, to find out how many rows are best run at once
COLD_S, IDLE_S = 4.0, 0.002  # for all models in turn; between two of them
DISTURBED_RATIO, DISTURBED_S, TRIES = (
    1.15,
    0.0003,
    3,
)  # a batch that takes longer than this over its CPU time did not have its core
LEAST_RUNS = 4
MAX_REPEATED_SETS = 200  # draws in a row that were known: then nearly all are
MAX_CACHE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to profile."""

    name: str
    path: Path
    max_batch: int
    n_instances: int
    threads: int
    slo_s: float
    priority: int


def machine_name() -> str:
    """This machine as far as latencies depend on it: processor, cores, memory, ONNX Runtime."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))), cpu)
    except OSError:
        pass
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory_gb:.0f} GiB, ONNX Runtime {ort.__version__}"


@dataclass(frozen=True, slots=True)
class Sized:
    """The sizes of batch of a model."""

    name: str
    sizes: tuple[int, ...]


class CellCache:
    """The cells of one machine: a line of JSON each, in a file named by the machine. Models are named by hash, threads and micro-batch."""

    def __init__(self, folder: Path, machine: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.jsonl"
        self._cells: dict[tuple[tuple[str, int], ...], Cell] = {}
        if self.path.is_file() and self.path.stat().st_size <= MAX_CACHE_BYTES:
            text = self.path.read_text()
            if text and not text.endswith("\n"):
                self._append("\n")  # or the next cell would be lost with the one that was cut off
            for line in text.splitlines():
                try:
                    cell = Cell.model_validate_json(line)
                except ValueError:
                    continue  # the last line of a run that was cut off
                self._cells[self._key(cell.models, cell.rows)] = cell

    def _key(self, models: Sequence[str], rows: Sequence[int]) -> tuple[tuple[str, int], ...]:
        return tuple(zip(models, rows, strict=True))

    def get(self, models: Sequence[str], rows: Sequence[int]) -> Cell | None:
        return self._cells.get(self._key(models, rows))

    def put(self, cell: Cell) -> None:
        self._cells[self._key(cell.models, cell.rows)] = cell
        self._append(cell.model_dump_json() + "\n")

    def _append(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(text)


@asynccontextmanager
async def _processes(wanted: Sequence[Wanted], n_cores: int) -> AsyncIterator[dict[str, ModelProcess]]:
    running: dict[str, ModelProcess] = {}
    try:
        for w in wanted:
            memory_bytes = address_space_bytes(n_cores * w.threads)
            running[w.name] = await ModelProcess.start(Settings(w.path, n_cores, w.threads, memory_bytes))
        yield running
    finally:
        for process in running.values():
            process.kill()


@asynccontextmanager
async def rows_alone(
    wanted: Sequence[Wanted], n_cores: int
) -> AsyncIterator[Callable[[], Awaitable[dict[str, float]]]]:
    """Models in processes of their own for a while. What it gives finds out how many seconds a row of each takes now, alone, again
    and again."""
    async with _processes(wanted, n_cores) as processes:

        async def measure() -> dict[str, float]:
            found = {}
            for name, process in processes.items():
                trial = Trial(process, 1)
                try:
                    found[name] = _medians((await _together([trial], ALONE_S))[0])[0]
                finally:
                    trial.end()
            return found

        yield measure


async def measure_cell(
    batches: Sequence[Batch], processes: Mapping[str, ModelProcess], meter: Meter
) -> tuple[Cell, bool]:
    """Runs batches alone, each after the other, then all at once; and whether something else had the cores meanwhile, so that the
    times alone are not those of this machine.

    Raises ModelError when one cannot run.
    """
    trials = [Trial(processes[b.model], b.n_rows) for b in batches]
    pids = {processes[b.model].pid for b in batches}
    try:
        alone: dict[Batch, tuple[float, float]] = {}
        spent = _Spent(pids, meter)
        for batch, trial in zip(batches, trials, strict=True):
            if batch not in alone:
                spent = _Spent(pids, meter)
                runs = (await _together([trial], ALONE_S))[0]
                spent.end(len(runs))
                alone[batch] = _medians(runs)
        slowdown = [1.0 for _ in batches]
        if len(batches) > 1:
            spent = _Spent(pids, meter)
            found = await _together(trials, TOGETHER_S)
            spent.end(sum(map(len, found)) / len(batches))
            slowdown = [_medians(runs)[1] / max(alone[b][1], 1e-9) for b, runs in zip(batches, found, strict=True)]
    finally:
        for trial in trials:
            trial.end()
    disturbed = any(
        _disturbed(seconds, work_s)
        for batch, (seconds, work_s) in alone.items()
        if processes[batch.model].settings.threads == 1
    )
    cell = Cell(
        models=tuple(b.model for b in batches), rows=tuple(b.n_rows for b in batches),
        alone_s=tuple(alone[b][0] for b in batches), slowdown=tuple(slowdown), core_s=spent.core_s, energy_j=spent.energy_j,
    )  # fmt: skip
    return cell, disturbed


async def _undisturbed(
    batches: Sequence[Batch], processes: Mapping[str, ModelProcess], meter: Meter
) -> tuple[Cell, bool]:
    """The first of a few tries that nothing disturbed, or the last."""
    cell, disturbed = await measure_cell(batches, processes, meter)
    for _ in range(TRIES - 1):
        if not disturbed:
            break
        cell, disturbed = await measure_cell(batches, processes, meter)
    return cell, disturbed


async def measure_cold(processes: Mapping[str, ModelProcess]) -> dict[str, tuple[float, ...]]:
    """How much longer a batch of one takes when its core was idle for a moment and others ran before: caches are cold, the thread
    sleeps. Equally likely values, of rounds of all models in turn, less what it takes when it is run again at once."""
    trials = {name: Trial(process, 1) for name, process in processes.items()}
    cold_s: dict[str, list[float]] = {name: [] for name in trials}
    warm_s: dict[str, list[float]] = {name: [] for name in trials}
    start_s = monotonic()
    try:
        while monotonic() - start_s < COLD_S or len(next(iter(cold_s.values()))) < LEAST_RUNS:
            for name, trial in trials.items():
                await asyncio.sleep(IDLE_S)
                cold_s[name].append((await trial.run())[0])
                warm_s[name].append((await trial.run())[0])
    finally:
        for trial in trials.values():
            trial.end()
    return {name: spread_of([max(s - median(warm_s[name]), 0.0) for s in cold_s[name]]) for name in trials}


def _disturbed(seconds: float, work_s: float) -> bool:
    """Whether a batch of one thread took too long for its CPU time: it did not have its core."""
    return seconds > DISTURBED_RATIO * work_s + DISTURBED_S


async def _together(trials: Sequence[Trial], least_s: float) -> list[list[tuple[float, float]]]:
    """Seconds and work of the runs of each, all running again and again until each has run for some time and often enough."""
    runs: list[list[tuple[float, float]]] = [[] for _ in trials]
    end_s = monotonic() + least_s

    async def repeat(k: int) -> None:
        await trials[k].run()
        while monotonic() < end_s or min(map(len, runs)) < LEAST_RUNS:
            runs[k].append(await trials[k].run())

    await asyncio.gather(*(repeat(k) for k in range(len(trials))))
    return runs


def _medians(runs: list[tuple[float, float]]) -> tuple[float, float]:
    return median(r[0] for r in runs), median(r[1] for r in runs)


class _Spent:
    """CPU time and energy from its making to `end`, a round."""

    def __init__(self, pids: set[int], meter: Meter) -> None:
        self.pids, self.meter = pids, meter
        self.core_s, self.energy_j = -self._cpu_s(), -meter.read_j()

    def _cpu_s(self) -> float:
        return sum(cpu_s(pid) or 0.0 for pid in self.pids)

    def end(self, n_rounds: float) -> None:
        self.core_s = max(self.core_s + self._cpu_s(), 0.0) / (n_rounds + 1)
        self.energy_j = max(self.energy_j + self.meter.read_j(), 0.0) / (n_rounds + 1)


def planned_cells(wanted: Sequence[Sized], n_cores: int, seed: int) -> Iterator[tuple[Batch, ...]]:
    """What is measured, in order: every batch alone, several instances of it, then random sets without end."""
    batches = [Batch(w.name, n) for w in wanted for n in w.sizes]
    yield from ((b,) for b in batches)
    for n in range(2, n_cores + 1):
        yield from ((b,) * n for b in batches)
    chooser = random.Random(seed)
    while n_cores > 1:
        yield tuple(sorted(chooser.choice(batches) for _ in range(chooser.randint(2, n_cores))))


async def profile_models(
    wanted: Sequence[Wanted],
    cache_folder: Path,
    budget_s: float,
    n_cores: int = 0,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda done, frac: None,
) -> ServingProfile:
    """The profile of models on this machine. Batches alone and several instances are always measured; random sets as far as budget_s
    goes. progress: told how many cells there are, and the share of the budget that is gone.

    Raises InputError or ModelError for a model that cannot be loaded or run.
    """
    if not wanted:
        raise InputError("there is no model to profile: give a folder of ONNX models")
    n_cores = n_cores or len(os.sched_getaffinity(0))
    cache = CellCache(cache_folder, machine_name())
    async with _processes(wanted, n_cores) as processes:
        meter = open_meter(lambda: [p.pid for p in processes.values()])
        sized = [_sized(w, processes[w.name]) for w in wanted]
        for w, s in zip(wanted, sized, strict=True):
            await find_micro_batch(processes[w.name], max(s.sizes), MICRO_BATCH_S)
        keys = {w.name: _key(processes[w.name]) for w in wanted}
        cells: dict[tuple[Batch, ...], Cell] = {}
        n_must = sum(len(w.sizes) for w in sized) * n_cores
        start_s = monotonic()
        misses = n_disturbed = 0
        for n, batches in enumerate(planned_cells(sized, n_cores, seed)):
            spent_frac = (monotonic() - start_s) / budget_s if budget_s > 0 else 1.0
            if (n >= n_must and spent_frac >= 1.0) or misses > MAX_REPEATED_SETS:
                break
            if batches in cells:
                misses += 1
                continue
            models, rows = [keys[b.model] for b in batches], [b.n_rows for b in batches]
            cell = cache.get(models, rows)
            if cell is None:
                cell, disturbed = await _undisturbed(batches, processes, meter)
                n_disturbed += disturbed
                if not disturbed:  # or it would be believed for ever
                    cache.put(cell.model_copy(update={"models": tuple(models)}))
            cells[batches] = cell.model_copy(update={"models": tuple(b.model for b in batches)})
            misses = 0
            progress(len(cells), min(spent_frac, 1.0))
        spreads_s = await measure_cold(processes)
        models_by_name = {
            w.name: _described(w, s, processes[w.name], spreads_s[w.name]) for w, s in zip(wanted, sized, strict=True)
        }
    return ServingProfile(
        machine=machine_name(), n_cores=n_cores, energy=meter.provenance, energy_source=meter.source, models=models_by_name,
        cells=tuple(cells.values()), n_disturbed=n_disturbed,
    )  # fmt: skip


def _key(process: ModelProcess) -> str:
    """What its times depend on."""
    return f"{process.sha256}/{process.settings.threads}/{process.micro_batch}"


def _sized(wanted: Wanted, process: ModelProcess) -> Sized:
    rows_open = batchable(process.inputs, process.outputs)
    if not can_be_tried(process.inputs, rows_open):
        raise InputError(
            f"model {wanted.name!r} has inputs of open shape or of strings: it cannot be profiled; take it out of the folder"
        )
    return Sized(wanted.name, tuple(sizes_up_to(wanted.max_batch if rows_open else 1)))


def _described(wanted: Wanted, sized: Sized, process: ModelProcess, cold_spread_s: tuple[float, ...]) -> ProfiledModel:
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return ProfiledModel(
        sha256=process.sha256, threads=wanted.threads, max_batch=max(sized.sizes), n_instances=wanted.n_instances, slo_s=wanted.slo_s,
        priority=wanted.priority, memory_bytes=pages * os.sysconf("SC_PAGE_SIZE"), cold_spread_s=cold_spread_s,
    )  # fmt: skip
