"""A model that is served: its process, its queue, and batches between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod
from time import monotonic, time
from typing import Any

from jouleflow.policy.dispatch import Start
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.queue import ModelQueue
from jouleflow.runtime.messages import order_of
from jouleflow.runtime.process import Answer, ModelProcess
from jouleflow.runtime.tensors import NUMPY, Piece, decode_strings, encode_strings, lay_out
from jouleflow.runtime.trial import batchable
from jouleflow.serve.latency import MANY
from jouleflow.serve.oip import Ask, Decoder
from jouleflow.serve.repository import ModelSpec
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.shared_memory import ClientRegions, Shared, Span
from jouleflow.serve.tally import Tally

MAX_LAYOUTS = 256
Layout = tuple[tuple[tuple[int, ...], ...], int, tuple[int, ...], tuple[str, ...]]  # kind, rows, bytes, outputs


class ServedModel:
    """One version of one model in service. `freed` is called whenever a batch ended and a core is free again. cpus: the CPU of each core
    that the dispatcher gives out; none to leave it to the system."""

    def __init__(
        self,
        spec: ModelSpec,
        process: ModelProcess,
        queue: ModelQueue,
        freed: Callable[[Start], None],
        tally: Tally,
        regions: ClientRegions,
        cpus: tuple[int, ...] = (),
    ) -> None:
        self.spec, self.process, self.queue, self.freed, self.tally = spec, process, queue, freed, tally
        self.cpus = cpus if spec.settings.threads == 1 else ()  # several threads need several
        queue.counts = tally.counts
        self.batchable = batchable(process.inputs, process.outputs)
        self.fixed_rows = (
            0 if self.batchable else (process.inputs[0].shape[0] if process.inputs and process.inputs[0].shape else 1)
        )
        max_rows = queue.max_batch if self.batchable else 1
        self.decoder = Decoder(process.inputs, process.outputs, self.batchable, max_rows, regions)
        self._layouts: dict[Layout, tuple[list[int], int, bytes]] = {}  # offsets, bytes in all, the order
        tally.latencies.slo_s = spec.slo_s

    @property
    def ready(self) -> bool:
        return self.process.alive

    def job(self, ask: Ask, now_s: float, done: Callable[[Result], None]) -> Job:
        """The job of a checked request."""
        header, slo_s = ask.header, self.spec.slo_s
        limit_s = min(header.timeout_s or inf, slo_s or inf)
        priority = max(header.priority, self.spec.priority)  # who goes first is the operator's to say, not a client's
        return Job(ask, ask.size_bytes, header.n_rows, header.kind, now_s, now_s + limit_s, priority, done)

    def start(self, start: Start) -> None:
        """Runs a batch on a free slot."""
        batch, n_rows = start.batch, start.n_rows
        slot = self.process.free.pop()
        offsets, size_bytes, order = self._layout(batch, n_rows)
        try:
            memory = self.process.place(slot, size_bytes)
        except (OSError, ValueError, MemoryError) as error:
            self._ended(slot, start, Answer(error=f"no memory for the {size_bytes} bytes of a batch ({error})"))
            return
        for k, at in enumerate(offsets):
            for job in batch:
                data = job.payload.data[k]
                if type(data) is Span:
                    _read(data, memory[at : at + len(data)], job.payload.shared)
                else:
                    memory[at : at + len(data)] = data
                at += len(data)
        if self.cpus:
            self.process.keep_on(slot, None if start.core is None else self.cpus[start.core])
        self.process.run(slot, order, lambda answer: self._ended(slot, start, answer))

    def _layout(self, batch: list[Job], n_rows: int) -> tuple[list[int], int, bytes]:
        """Where the inputs of a batch lie, and the order to run them; kept, as batches look alike."""
        first = batch[0].payload
        wanted = first.header.wanted
        if any(j.payload.header.wanted is not wanted for j in batch):
            names = tuple(dict.fromkeys(w.name for j in batch for w in j.payload.header.wanted))
        else:
            names = tuple([w.name for w in wanted])
        sizes = tuple([sum([len(j.payload.data[k]) for j in batch]) for k in range(len(first.data))])
        key = (first.header.kind, n_rows, sizes, names)
        known = self._layouts.get(key)
        if known is None:
            rows = (n_rows,) if self.batchable else ()
            parts = zip(self.process.inputs, first.header.kind, sizes, strict=True)
            pieces, at = lay_out((port.name, port.datatype, (*rows, *shape), size) for port, shape, size in parts)
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            known = self._layouts[key] = (
                [p.offset for p in pieces],
                at,
                order_of(pieces, names, self.process.micro_batch),
            )
        return known

    def _ended(self, slot: int, start: Start, answer: Answer) -> None:
        """Takes the outputs of a batch, lets the next one start in its place, and only then answers: writing takes as long as a small
        batch does."""
        queue, tally, now_s = self.queue, self.tally, monotonic()
        seconds = now_s - start.started_s
        whole = memoryview(b"")
        if not answer.error:
            try:
                whole = self.process.result(slot, max((p.offset + p.size_bytes for p in answer.outputs), default=0))
            except (OSError, ValueError) as error:
                answer = Answer(error=f"the outputs cannot be read ({error})")
        results = self._results(whole, start, answer, seconds)
        row_core_s, n_failed = self.spec.settings.threads * seconds / start.n_rows, 0
        for job, result in zip(start.batch, results, strict=True):
            if result.end is End.FAILED:
                n_failed += 1
                tally.wasted_core_s["failed"] += row_core_s * job.n_rows
            elif job.cancelled:
                tally.wasted_core_s["gone"] += row_core_s * job.n_rows
            elif job.deadline_s < now_s:
                tally.wasted_core_s["late"] += row_core_s * job.n_rows
        if not answer.error:
            tally.last_end_s = time()
            entry = tally.batch_sizes.setdefault(start.n_rows, [0, 0.0])
            entry[0] += 1
            entry[1] += seconds
            answered = start.batch
            if n_failed:
                answered = [j for j, r in zip(answered, results, strict=True) if r.end is not End.FAILED]
            queue.batch_ended(answered, start.n_rows, start.started_s, now_s)
        if self.process.alive:
            self.process.free.append(slot)
        else:
            queue.ready = False  # its owner hears of the death only after this
        self.freed(start)
        for job, result in zip(start.batch, results, strict=True):
            queue.end(job, result)
        if len(tally.latencies.recent_s) >= MANY:
            tally.latencies.count()

    def _results(self, whole: memoryview, start: Start, answer: Answer, seconds: float) -> list[Result]:
        """Of each job of a batch; the outputs are copied, as the next batch writes over them."""
        batch, started_s, tally = start.batch, start.started_s, self.tally
        if answer.error:
            status = 500 if self.process.alive else 503
            return [
                Result(End.FAILED, message=answer.error, status=status, queue_s=started_s - job.arrived_s)
                for job in batch
            ]
        outputs, row, results = {p.name: _Output.of(whole, p, start.n_rows) for p in answer.outputs}, 0, []
        for job in batch:
            waited_s = started_s - job.arrived_s
            try:
                if job.payload.shared is not None:
                    values = self._shared_values(outputs, row, job)
                else:
                    values = [
                        rows_of(outputs[w.name], self.batchable, row, job.n_rows) for w in job.payload.header.wanted
                    ]
                result = Result(End.COMPLETED, values, "", 200, waited_s, seconds)
                tally.queue_s += waited_s
                tally.compute_s += seconds
                tally.latencies.recent_s.append(waited_s + seconds)
            except (ValueError, LookupError) as problem:
                result = Result(End.FAILED, message=str(problem), status=500, queue_s=waited_s)
            except RequestError as error:
                result = Result(End.FAILED, message=str(error), status=error.status, queue_s=waited_s)
            row += job.n_rows
            results.append(result)
        return results

    def _shared_values(
        self, outputs: dict[str, _Output], first: int, job: Job
    ) -> list[tuple[str, tuple[int, ...], bytes]]:
        """The outputs of a job that has something in shared memory. Those that go there are written, and have no bytes here; nothing
        is written for a sender that has gone: it may use its memory for something else."""
        shared: Shared = job.payload.shared
        if shared.error:
            raise RequestError(400, shared.error)
        values = []
        for want in job.payload.header.wanted:
            output = outputs[want.name]
            if want.name not in shared.sinks:
                values.append(rows_of(output, self.batchable, first, job.n_rows))
                continue
            datatype, shape, raw = rows_of(output, self.batchable, first, job.n_rows, memoryview)
            if not job.cancelled:
                shared.sinks[want.name].write(raw)
            values.append((datatype, shape, b""))
        return values


@dataclass(slots=True)
class _Output:
    """An output of a batch, and its bytes. row_bytes: None when its bytes cannot be cut into rows."""

    piece: Piece
    raw: Any  # memoryview, whose name mypyc does not find
    n_rows: int
    row_bytes: int | None

    @classmethod
    def of(cls, memory: memoryview, piece: Piece, n_rows: int) -> _Output:
        shape, row_bytes = piece.shape, None
        if piece.datatype in NUMPY and shape[:1] == (n_rows,):
            row_bytes = prod(shape[1:]) * NUMPY[piece.datatype].itemsize
        return cls(piece, memory[piece.offset : piece.offset + piece.size_bytes], n_rows, row_bytes)


def rows_of(
    output: _Output, batchable: bool, first: int, n: int, take: Callable[[memoryview], Any] = bytes
) -> tuple[str, tuple[int, ...], Any]:
    """The rows of one job in an output of the batch. take: `bytes` copies them, `memoryview` does not."""
    piece, raw, size = output.piece, output.raw, output.row_bytes
    shape = piece.shape
    if not batchable or n == output.n_rows:
        return piece.datatype, shape, take(raw)
    if size is not None:
        return piece.datatype, (n, *shape[1:]), take(raw[first * size : (first + n) * size])
    if not shape or shape[0] != output.n_rows:
        raise ValueError(
            f"output {piece.name!r} has shape {list(shape)} for a batch of {output.n_rows}: set max_batch = 1"
        )
    return "BYTES", (n, *shape[1:]), encode_strings(decode_strings(raw, shape)[first : first + n])


def _read(span: Span, memory: memoryview, shared: Shared) -> None:
    """An input from shared memory. When it cannot be read its rows are zeros, so that the rest of the batch runs, and its sender hears
    why."""
    try:
        span.read_into(memory)
    except RequestError as error:
        memory[:] = bytes(len(memory))
        shared.error = str(error)  # the exception itself knows this frame, which knows it: a ring
