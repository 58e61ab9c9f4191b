"""Work that was run for nothing is known: how much, why, and what it cost; what ends while it waits cost nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jouleflow.load.client import closed_loop, infer_request, open_loop
from jouleflow.policy.dispatch import Start
from jouleflow.policy.job import Job
from jouleflow.runtime.process import Answer
from jouleflow.serve.tally import Tally
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving
from tests.serve.test_chaos import SLOW, X, assert_adds_up, counts, ready_again, slow


def wasted_core_s(server: Running, model: str) -> dict[str, float]:
    return counts(server, model)["wasted"]["core_s"]  # type: ignore[index,return-value]


def test_joules_are_charged_once_at_the_power_of_the_moment() -> None:
    tally = Tally()
    tally.wasted_core_s["late"] += 2.0
    tally.charge(5.0)
    tally.charge(7.0)
    tally.wasted_core_s["late"] += 1.0
    tally.wasted_core_s["gone"] += 0.5
    tally.charge(3.0)
    assert tally.wasted_j == {"late": 13.0, "gone": 1.5, "failed": 0.0}


def test_what_is_answered_in_time_wastes_nothing(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        asyncio.run(closed_loop("127.0.0.1", server.port, [infer_request("double", X)], 4, 0.3, 0.0))
        assert wasted_core_s(server, "double") == {"late": 0.0, "gone": 0.0, "failed": 0.0}


def test_an_answer_that_is_too_late_was_run_for_nothing(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_batch = 1\n")
    with serving(tmp_path) as server:
        server.inside(lambda: setattr(server.app.server.models["slow"].queue.latencies, "_now", None))  # admits all
        hasty = infer_request("slow", SLOW, timeout_s=0.002)  # a row takes longer
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [hasty], np.array([0.01])))
        assert answers.status == [200]
        wasted = wasted_core_s(server, "slow")
        assert wasted["late"] > 0.002
        assert wasted["gone"] == wasted["failed"] == 0.0
        server.inside(server.app.history.sample)
        live = json.loads(server.ask("GET", "/live.json")[2])
        energy_j = live["models"]["slow"]["wasted"]["energy_j"]["late"]
        assert energy_j == pytest.approx(wasted["late"] * server.app.history.meter.core_w)
        assert live["samples"][-1]["models"]["slow"]["wasted_w"] >= 0.0
        text = server.ask("GET", "/metrics")[2].decode()
        line = 'jouleflow_wasted_core_seconds_total{model="slow",version="1",why="late"} '
        assert float(text.partition(line)[2].split("\n")[0]) == wasted["late"]
        assert 'jouleflow_wasted_joules_total{model="slow",provenance="modelled",version="1",why="late"} ' in text


def test_what_ran_for_a_sender_that_went_is_told_from_what_never_ran(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_batch = 1\ninstances = 1\n")
    with serving(tmp_path) as server:
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for s in sockets:
            s.sendall(infer_request("slow", SLOW))
        while not counts(server, "slow")["running_batches"]:
            time.sleep(0.001)
        for s in sockets:
            s.close()
        c: dict[str, Any] = assert_adds_up(server, "slow")
        assert c["cancelled"] > 5
        assert c["wasted"]["core_s"]["gone"] > 0
        stats = json.loads(server.ask("GET", "/v2/models/slow/stats")[2])["model_stats"][0]["batch_stats"]
        run_s = sum(s["compute_infer"]["ns"] for s in stats) * 1e-9
        assert c["wasted"]["core_s"]["gone"] <= run_s + 1e-6  # those that waited cost no run


@pytest.mark.slow
def test_a_batch_that_died_was_run_for_nothing(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    with serving(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(infer_request("slow", SLOW))
            while not counts(server, "slow")["running_batches"]:
                time.sleep(0.001)
            os.kill(server.inside(lambda: server.app.server.models["slow"].process.pid), signal.SIGKILL)
            assert s.recv(100).startswith(b"HTTP/1.1 503")
        assert ready_again(server)
        assert wasted_core_s(server, "slow")["failed"] > 0


def test_rows_of_a_batch_share_its_time(tmp_path: Path) -> None:
    """A batch of four rows ran for two seconds on two threads; three rows of it were late."""
    affine(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text("threads = 2\n")
    with serving(tmp_path) as server:
        served = server.inside(lambda: server.app.server.models["double"])

        def end_one() -> None:
            now_s, nothing_wanted = time.monotonic(), SimpleNamespace(header=SimpleNamespace(wanted=()), shared=None)
            jobs = [
                Job(nothing_wanted, 0, n_rows, (), now_s - 2.0, deadline_s, 5, lambda _: None)
                for n_rows, deadline_s in ((3, now_s - 1.0), (1, now_s + 9.0))
            ]
            start = Start("double", served.queue, jobs, 4, now_s - 2.0, now_s)
            served.queue.n_running += 1
            server.app.server.dispatcher.running.append(start)
            served._ended(served.process.free.pop(), start, Answer())

        server.inside(end_one)
        assert wasted_core_s(server, "double")["late"] == pytest.approx(2.0 * 2 * 3 / 4, rel=0.05)


def test_counts_go_on_over_a_reload_and_are_kept_of_older_versions(tmp_path: Path) -> None:
    affine(tmp_path / "many" / "1" / "model.onnx")
    with serving(tmp_path) as server:
        load = lambda: asyncio.run_coroutine_threadsafe(server.app.server.load("many"), server.loop).result(30)  # noqa: E731
        ask = lambda: asyncio.run(open_loop("127.0.0.1", server.port, [infer_request("many", X)], np.zeros(3)))  # noqa: E731
        ask()
        load()
        ask()
        assert counts(server, "many")["completed"] == 6
        affine(tmp_path / "many" / "2" / "model.onnx")
        load()
        ask()
        assert counts(server, "many")["completed"] == 3
        text = server.ask("GET", "/metrics")[2].decode()
        assert 'jouleflow_requests_total{end="completed",model="many",version="1"} 6.0' in text
        assert 'jouleflow_requests_total{end="completed",model="many",version="2"} 3.0' in text


def test_outputs_that_cannot_be_read_are_not_in_time(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        served = server.app.server.models["double"]
        before = served.queue.n_in_time

        def unreadable(size_bytes: int) -> memoryview:
            raise OSError("gone")

        for _, outputs, _ in served.process.slots:
            outputs.view = unreadable  # type: ignore[method-assign]
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [infer_request("double", X)], np.array([0.01])))
        assert answers.status == [500]
        assert served.queue.n_in_time == before
        assert wasted_core_s(server, "double")["failed"] > 0
