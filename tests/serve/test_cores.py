"""Batches run on the CPU that they are given; short ones, and those of several threads, where they like."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from jouleflow.load.client import infer_request, open_loop
from jouleflow.policy import dispatch
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving
from tests.serve.test_chaos import X

OURS = set(os.sched_getaffinity(0))


def test_a_batch_is_bound_to_the_cpu_of_its_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SHORT_S", 0.0)
    affine(tmp_path / "one" / "model.onnx")
    affine(tmp_path / "two" / "model.onnx")
    (tmp_path / "two" / "jouleflow.toml").write_text("threads = 2\ninstances = 1\n")
    with serving(tmp_path) as server:
        for name in ("one", "two"):
            answers = asyncio.run(open_loop("127.0.0.1", server.port, [infer_request(name, X)], np.arange(5) * 0.01))
            assert answers.status == [200] * 5
        assert min(map(len, cpus(server, "one"))) == 1
        assert cpus(server, "two") == [OURS]


def test_short_batches_are_left_to_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SHORT_S", 60.0)
    affine(tmp_path / "one" / "model.onnx")
    with serving(tmp_path) as server:
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [infer_request("one", X)], np.arange(5) * 0.01))
        assert answers.status == [200] * 5
        assert all(on == OURS for on in cpus(server, "one"))


@pytest.mark.slow
@pytest.mark.parametrize("n_more", [1, -1])
def test_more_or_fewer_batches_than_cpus_are_left_to_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_more: int
) -> None:
    monkeypatch.setattr(dispatch, "SHORT_S", 0.0)
    affine(tmp_path / "one" / "model.onnx")
    with serving(tmp_path, ServerSettings(n_cores=max(len(OURS) + n_more, 1))) as server:
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [infer_request("one", X)], np.arange(5) * 0.01))
        assert answers.status == [200] * 5
        assert all(on == OURS for on in cpus(server, "one"))


def cpus(server: Running, name: str) -> list[set[int]]:
    """Where the threads of a model may run."""
    return [os.sched_getaffinity(t) for t in server.inside(lambda: server.app.server.models[name].process.threads)]
