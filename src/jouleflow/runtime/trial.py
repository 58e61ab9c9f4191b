"""Batches of zeros on a model's process: for warm-up and for profiles."""

from __future__ import annotations

import asyncio
from math import prod
from time import monotonic

from jouleflow.errors import ModelError
from jouleflow.runtime.messages import order_of
from jouleflow.runtime.process import Answer, ModelProcess
from jouleflow.runtime.tensors import NUMPY, Port, lay_out


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 4 ... and most."""
    sizes, size = [], 1
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, most]


def batchable(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> bool:
    """Whether the first side of all is open: then rows of different requests can share a batch."""
    return bool(inputs) and all(p.shape and p.shape[0] == -1 for p in (*inputs, *outputs))


def can_be_tried(inputs: tuple[Port, ...], rows_open: bool) -> bool:
    """Whether zeros can be made for it: numbers, and no open side but the rows."""
    return not any(p.datatype == "BYTES" or -1 in p.shape[1:] or (not rows_open and -1 in p.shape) for p in inputs)


class Trial:
    """One size of batch of zeros, laid out once, to be run as often as wanted on a slot that it keeps."""

    def __init__(self, process: ModelProcess, n_rows: int) -> None:
        self.process = process
        rows_open = batchable(process.inputs, process.outputs)
        shapes = [(n_rows, *p.shape[1:]) if rows_open else p.shape for p in process.inputs]
        pieces, at = lay_out(
            (p.name, p.datatype, shape, prod(shape) * NUMPY[p.datatype].itemsize)
            for p, shape in zip(process.inputs, shapes, strict=True)
        )
        self._order = order_of(pieces, [p.name for p in process.outputs], process.micro_batch)
        self._slot = process.free.pop()
        process.place(self._slot, at)[:] = bytes(at)

    async def run(self, at_most_s: float | None = None) -> tuple[float, float]:
        """Seconds of one batch from its order to its answer, and of its work: CPU time, in which the time that others had the
        core is not, or time inside ONNX Runtime when it has several threads.

        Raises ModelError when it fails, the process dies, or it takes longer than at_most_s, which ends the process.
        """
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        start_s = monotonic()
        self.process.run(self._slot, self._order, answered.set_result)
        try:
            answer = await asyncio.wait_for(asyncio.shield(answered), at_most_s)
        except TimeoutError as error:
            self.process.kill()
            raise ModelError(f"{self.process.settings.path.name}: a batch took more than {at_most_s:g} s") from error
        if answer.error:
            raise ModelError(f"{self.process.settings.path.name}: {answer.error}")
        seconds = monotonic() - start_s
        return seconds, answer.core_s if self.process.settings.threads == 1 else answer.run_s

    def end(self) -> None:
        """Gives the slot back."""
        if self.process.alive:
            self.process.free.append(self._slot)
