"""A model in its own process: right answers from several slots, and errors, deaths and hostile files that stay there."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import ModelError
from jouleflow.runtime.messages import order_of
from jouleflow.runtime.process import Answer, ModelProcess, Settings
from jouleflow.runtime.tensors import Piece, array_of
from tests.runtime.models import affine, memory_hog


async def run(process: ModelProcess, slot: int, name: str, value: np.ndarray, datatype: str) -> Answer:
    process.place(slot, value.nbytes)[:] = value.tobytes()
    answered = asyncio.get_running_loop().create_future()
    piece = Piece(name, datatype, value.shape, 0, value.nbytes)
    process.run(slot, order_of([piece], [p.name for p in process.outputs]), answered.set_result)
    return await asyncio.wait_for(answered, 30)


def output(process: ModelProcess, slot: int, answer: Answer) -> np.ndarray:
    piece = answer.outputs[0]
    return array_of(piece, process.result(slot, piece.offset + piece.size_bytes)).copy()


def test_slots_run_side_by_side_and_grow(tmp_path: Path) -> None:
    async def main() -> None:
        process = await ModelProcess.start(Settings(affine(tmp_path / "m.onnx"), n_slots=3))
        assert [(p.name, p.datatype, p.shape) for p in process.inputs] == [("x", "FP32", (-1, 4))]
        for rows in (1, 7, 5000):
            values = [np.full((rows, 4), k, np.float32) for k in range(3)]
            answers = await asyncio.gather(*(run(process, k, "x", values[k], "FP32") for k in range(3)))
            for k, answer in enumerate(answers):
                assert answer.error == ""
                np.testing.assert_array_equal(output(process, k, answer), 2 * values[k] + 1)
        await process.stop()

    asyncio.run(main())


def test_a_model_is_told_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOULEFLOW_TOKEN", "JOULEFLOW_ADMIN_TOKEN", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere")

    async def main() -> bytes:
        process = await ModelProcess.start(Settings(affine(tmp_path / "m.onnx")))
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        await process.stop()
        return environment

    told = asyncio.run(main())
    assert b"hush-hush" not in told
    assert b"TOKEN" not in told
    kept = dict(entry.split("=", 1) for entry in told.decode().split("\0") if entry)
    assert kept["LD_LIBRARY_PATH"] == "/somewhere"
    assert kept["PATH"] == os.environ["PATH"]


def test_a_wrong_shape_is_an_answer(tmp_path: Path) -> None:
    async def main() -> None:
        process = await ModelProcess.start(Settings(affine(tmp_path / "m.onnx")))
        assert "INVALID" in (await run(process, 0, "x", np.ones((2, 5), np.float32), "FP32")).error.upper()
        assert (await run(process, 0, "x", np.ones((2, 4), np.float32), "FP32")).error == ""
        await process.stop()

    asyncio.run(main())


def test_death_is_told_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        process = await ModelProcess.start(Settings(memory_hog(tmp_path / "m.onnx"), n_slots=2))
        dead = asyncio.get_running_loop().create_future()
        process.on_death = lambda: dead.set_result(True)
        waiting = asyncio.ensure_future(run(process, 0, "n", np.array([6000], np.int64), "INT64"))
        await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        assert "died" in (await waiting).error
        assert await asyncio.wait_for(dead, 5)
        assert not process.alive

    asyncio.run(main())


def test_too_much_memory_is_an_error_of_that_batch_only(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(memory_hog(tmp_path / "m.onnx"), memory_bytes=3 << 30)
        process = await ModelProcess.start(settings)
        assert (await run(process, 0, "n", np.array([40_000], np.int64), "INT64")).error
        if process.alive:  # it may also have ended the process
            assert (await run(process, 0, "n", np.array([3], np.int64), "INT64")).error == ""
        process.kill()

    asyncio.run(main())


def test_too_little_memory_to_load_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"may take 100 MiB.*memory_mb"):
        asyncio.run(ModelProcess.start(Settings(affine(tmp_path / "m.onnx"), memory_bytes=100 << 20)))


def test_a_limit_of_who_started_us_is_not_raised(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, resource\n"
        "from jouleflow.runtime.process import ModelProcess, Settings\n"
        f"path = pathlib.Path({str(affine(tmp_path / 'm.onnx'))!r})\n"
        "process = asyncio.run(ModelProcess.start(Settings(path, memory_bytes=8 << 30)))\n"
        "print(resource.prlimit(process.pid, resource.RLIMIT_AS)[1])\n"
        "process.kill()\n"
    )
    command = ["/bin/sh", "-c", 'ulimit -v 4000000 && exec "$@"', "sh", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) == 4_000_000 << 10


@pytest.mark.parametrize("content", [b"", b"not a model", os.urandom(1000)])
def test_rubbish_is_refused_with_a_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx: "):
        asyncio.run(ModelProcess.start(Settings(tmp_path / "m.onnx")))


def test_a_missing_file_does_not_tell_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        asyncio.run(ModelProcess.start(Settings(tmp_path / "secret" / "m.onnx")))
    assert "secret" not in str(caught.value)
