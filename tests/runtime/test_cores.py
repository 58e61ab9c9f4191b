"""Each of the batches that run at once has a CPU of its own."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from jouleflow.runtime.cores import bind, cpus_for
from jouleflow.runtime.process import ModelProcess, Settings
from tests.runtime.models import affine
from tests.runtime.test_process import output, run

OURS = sorted(os.sched_getaffinity(0))


def test_a_cpu_for_each_batch_or_none_for_all() -> None:
    assert cpus_for(len(OURS)) == tuple(OURS)
    assert cpus_for(len(OURS) + 1) == ()
    assert cpus_for(len(OURS) - 1) == ()  # two servers of one core each must not meet on one CPU


def test_the_batches_of_a_slot_run_where_they_were_put(tmp_path: Path) -> None:
    async def main() -> None:
        process = await ModelProcess.start(Settings(affine(tmp_path / "m.onnx"), n_slots=2))
        value = np.ones((2, 4), np.float32)
        for cpu in (OURS[-1], OURS[0], OURS[0]):
            process.keep_on(1, cpu)
            answer = await run(process, 1, "x", value, "FP32")
            np.testing.assert_array_equal(output(process, 1, answer), 2 * value + 1)
            assert os.sched_getaffinity(process.threads[1]) == {cpu}
            assert os.sched_getaffinity(process.threads[0]) == set(OURS)
            assert os.sched_getaffinity(process.pid) == set(OURS)
        process.keep_on(1, None)
        assert os.sched_getaffinity(process.threads[1]) == set(OURS)
        await process.stop()

    asyncio.run(main())


def test_a_cpu_that_is_not_ours_any_more_binds_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        process = await ModelProcess.start(Settings(affine(tmp_path / "m.onnx")))
        process.keep_on(0, OURS[0])
        process.keep_on(0, 100_000)
        answer = await run(process, 0, "x", np.ones((1, 4), np.float32), "FP32")
        assert answer.error == ""
        assert os.sched_getaffinity(process.threads[0]) == set(OURS)
        await process.stop()

    asyncio.run(main())


def test_binding_a_thread_that_ended_is_no_error() -> None:
    bind(2**22 - 1, OURS[0])


def test_a_system_that_cannot_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    assert cpus_for(len(OURS)) == ()
