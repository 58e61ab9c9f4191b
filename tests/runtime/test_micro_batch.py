"""A batch that is best run in parts is, with the same answers; one that is best run whole is not."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from jouleflow.runtime import micro_batch
from jouleflow.runtime.messages import order_of
from jouleflow.runtime.micro_batch import find_micro_batch
from jouleflow.runtime.process import Answer, ModelProcess, Settings
from jouleflow.runtime.tensors import Piece, array_of
from tests.runtime.models import affine, quadratic


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "SIZE_S", 0.02)


async def found(path: Path) -> tuple[int, int, dict[int, float]]:
    """The micro-batch, the largest size that was tried, and the times of all."""
    process, seconds = await ModelProcess.start(Settings(path)), {}
    largest = await find_micro_batch(process, 512, 5.0, None, seconds.__setitem__)
    await process.stop()
    return process.micro_batch, largest, seconds


def test_small_ones_where_a_row_costs_more_in_a_large_batch(tmp_path: Path, short: None) -> None:
    def dearer() -> float:
        """How many times as much a row of the largest batch costs as one of the micro-batch that was found: 4.5 if it were run whole."""
        step, largest, seconds = asyncio.run(found(quadratic(tmp_path / "m.onnx")))
        assert 1 <= step < 512
        assert largest == 512
        return seconds[512] / 512 / (seconds[step] / step)

    assert any(dearer() < 1.5 for _ in range(5)), "as it will be served"  # the machine may be slow for a moment


def test_the_whole_where_a_batch_costs_the_same_at_any_size(tmp_path: Path, short: None) -> None:
    step, largest, seconds = asyncio.run(found(affine(tmp_path / "m.onnx")))
    assert step in (0, 256)  # half of the largest does nearly as well
    assert largest == 512
    assert sorted(seconds) == [2**k for k in range(10)]


def test_sizes_that_nobody_had_time_to_try_are_not_ruled_out(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        process = await ModelProcess.start(Settings(affine(tmp_path / "m.onnx")))
        largest = await find_micro_batch(process, 512, 0.0)
        await process.stop()
        return process.micro_batch, largest

    assert asyncio.run(main()) == (0, 1)


@pytest.mark.parametrize(("n_rows", "step"), [(7, 3), (6, 3), (3, 3), (2, 3), (5, 1), (5, 0)])
def test_answers_do_not_depend_on_it(tmp_path: Path, n_rows: int, step: int) -> None:
    value = np.arange(4 * n_rows, dtype=np.float32).reshape(n_rows, 4)

    async def main() -> np.ndarray:
        process = await ModelProcess.start(Settings(affine(tmp_path / "m.onnx")))
        process.place(0, value.nbytes)[:] = value.tobytes()
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        process.run(0, order_of([Piece("x", "FP32", value.shape, 0, value.nbytes)], ["y"], step), answered.set_result)
        answer = await asyncio.wait_for(answered, 30)
        piece = answer.outputs[0]
        y = array_of(piece, process.result(0, piece.offset + piece.size_bytes)).copy()
        await process.stop()
        return y

    np.testing.assert_array_equal(asyncio.run(main()), 2 * value + 1)
