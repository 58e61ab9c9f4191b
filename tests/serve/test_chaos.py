"""Under faults and overload: every accepted request ends once, the counts add up, and the server goes on."""

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jouleflow.load.answers import Answers
from jouleflow.load.client import closed_loop, infer_request, open_loop
from jouleflow.runtime.memory_limit import SHARE_FRAC, address_space_bytes, machine_memory_bytes
from jouleflow.serve.limits import Limits
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine, memory_hog
from tests.serve.conftest import Running, serving

X = {"x": np.ones((1, 4), np.float32)}
ENDS = ("completed", "rejected", "expired", "cancelled", "failed")


def statistics(server: Running, model: str) -> dict[str, Any]:
    return json.loads(server.ask("GET", f"/v2/models/{model}/stats")[2])["model_stats"][0]


def counts(server: Running, model: str) -> dict[str, int]:
    return statistics(server, model)["jouleflow"]


def assert_adds_up(server: Running, model: str) -> dict[str, int]:
    until = time.monotonic() + 10
    while True:
        c = counts(server, model)
        if not c["waiting"] and not c["running_batches"]:
            break
        assert time.monotonic() < until, c
        time.sleep(0.05)
    assert c["accepted"] == sum(c[end] for end in ENDS), c
    return c


def slow(path: Path, side: int = 1500) -> Path:
    """A model that takes some milliseconds a row."""
    from onnx import TensorProto, helper

    from tests.runtime.models import save

    w = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32) / side
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t0"])]
    nodes += [helper.make_node("MatMul", [f"t{k}", "w"], [f"t{k + 1}" if k < 299 else "y"]) for k in range(300)]
    return save(path, nodes, [("x", TensorProto.FLOAT, ["n", side])], [("y", TensorProto.FLOAT, ["n", side])], {"w": w})


SLOW = {"x": np.ones((1, 1500), np.float32)}


def ready_again(server: Running) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if server.ask("GET", "/v2/health/ready")[0] == 200:
            return True
        time.sleep(0.1)
    return False


def test_a_killed_model_comes_back_and_loses_nothing_silently(tmp_path: Path) -> None:
    slow(tmp_path / "slow.onnx")
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        pid = server.inside(lambda: server.app.server.models["slow"].process.pid)
        killer = threading.Timer(0.7, lambda: os.kill(pid, signal.SIGKILL))
        killer.start()
        answers = asyncio.run(closed_loop("127.0.0.1", server.port, [infer_request("slow", SLOW)], 8, 2.0, 0.0))
        assert set(answers.status) <= {200, 503}
        assert 503 in answers.status
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200
        assert ready_again(server)
        later = asyncio.run(closed_loop("127.0.0.1", server.port, [infer_request("slow", SLOW)], 4, 0.3, 0.0))
        assert set(later.status) == {200}
        assert assert_adds_up(server, "slow")["failed"] > 0
        assert "jouleflow_model_deaths_total" in server.ask("GET", "/metrics")[2].decode()


def test_a_dead_model_is_not_ready_until_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jouleflow.serve import server as module

    monkeypatch.setattr(module, "RESPAWN_S", (3.0,) * 4)  # long enough to be seen
    affine(tmp_path / "double.onnx")
    affine(tmp_path / "other.onnx")
    with serving(tmp_path) as server:

        def states() -> list[int]:
            paths = ("health/ready", "models/double/ready", "models/other/ready", "health/live")
            return [server.ask("GET", f"/v2/{path}")[0] for path in paths]

        assert states() == [200, 200, 200, 200]
        os.kill(server.inside(lambda: server.app.server.models["double"].process.pid), signal.SIGKILL)
        until = time.monotonic() + 2.0
        while (found := states()) != [503, 503, 200, 200] and time.monotonic() < until:
            time.sleep(0.01)
        assert found == [503, 503, 200, 200]
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 503
        assert ready_again(server)
        assert states() == [200, 200, 200, 200]
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200


def infer_body() -> dict:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}


def test_a_model_that_eats_memory_harms_itself_only(tmp_path: Path) -> None:
    memory_hog(tmp_path / "hog" / "model.onnx")
    (tmp_path / "hog" / "jouleflow.toml").write_text("memory_mb = 3000\n")
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        ask = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [60000]}]}
        assert server.ask("POST", "/v2/models/hog/infer", ask)[0] in (500, 503)
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200
        assert ready_again(server)
        assert_adds_up(server, "hog")


def test_a_model_that_nobody_limited_is_limited(tmp_path: Path) -> None:
    """Neither model has a jouleflow.toml; the machine's share is made small, and what is asked for is never there to be had."""
    memory_hog(tmp_path / "hog.onnx")
    affine(tmp_path / "double.onnx")
    affine(tmp_path / "free" / "model.onnx")
    (tmp_path / "free" / "jouleflow.toml").write_text('memory_mb = "unlimited"\n')

    def limit_bytes(name: str) -> int:
        pid = server.inside(lambda: server.app.server.models[name].process.pid)
        return resource.prlimit(pid, resource.RLIMIT_AS)[0]

    frac = (64 << 20) / machine_memory_bytes()
    with serving(tmp_path, ServerSettings(n_cores=2, limits=Limits(model_memory_frac=frac))) as server:
        assert limit_bytes("hog") == limit_bytes("double") == address_space_bytes(2, frac) < 1100 << 20
        assert limit_bytes("free") == resource.RLIM_INFINITY
        ask = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [20_000]}]}  # 1.5 GiB
        assert server.ask("POST", "/v2/models/hog/infer", ask)[0] in (500, 503)
        ask["inputs"][0]["data"] = [1000]
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200
        assert ready_again(server)
        assert server.ask("POST", "/v2/models/hog/infer", ask)[0] == 200
        assert_adds_up(server, "hog")
    with serving(tmp_path) as server:
        assert SHARE_FRAC * machine_memory_bytes() < limit_bytes("double") != resource.RLIM_INFINITY


def test_overload_is_refused_at_once_and_what_is_taken_is_in_time(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("slo_ms = 200\nmax_batch = 4\n")
    with serving(tmp_path, ServerSettings(policy="table")) as server:
        arrivals = np.sort(np.random.default_rng(0).uniform(0, 2.0, 1000))
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [infer_request("slow", SLOW)], arrivals))
        status = np.array(answers.status)
        assert len(status) == 1000
        assert set(status) <= {200, 429, 503, 504}
        assert (status == 200).sum() > 20
        assert (status == 503).sum() > 100
        c = assert_adds_up(server, "slow")
        assert c["completed"] == (status == 200).sum()


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_queue = 5\nmax_batch = 1\n")
    with serving(tmp_path) as server:
        arrivals = np.full(100, 0.01)
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [infer_request("slow", SLOW)], arrivals))
        assert answers.status.count(429) > 50
        assert answers.status.count(200) >= 5
        assert_adds_up(server, "slow")


def test_the_queue_is_bounded_by_what_is_held_and_not_only_by_tensors(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_batch = 1\n")
    request = infer_request("slow", SLOW)
    head, _, body = request.partition(b"\r\n\r\n")
    n_json = int(re.search(rb"Inference-Header-Content-Length: (\d+)", head)[1])
    padding = b', "nobody_reads_this": "' + b"x" * 50_000 + b'"}'
    padded = body[: n_json - 1] + padding + body[n_json:]
    lines = [b"POST /v2/models/slow/infer HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(padded)]
    lines.append(b"Inference-Header-Content-Length: %d" % (n_json - 1 + len(padding)))
    large = b"\r\n".join((*lines, b"", padded))
    with serving(tmp_path, limits=Limits(max_waiting_bytes=220_000)) as server:
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [large], np.full(40, 0.01)))
        assert answers.status.count(429) >= 20
        assert answers.status.count(200) >= 5
        assert_adds_up(server, "slow")


def test_an_expired_request_never_runs(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_batch = 1\n")
    with serving(tmp_path) as server:
        server.inside(lambda: setattr(server.app.server.models["slow"].queue.latencies, "_now", None))  # admits all
        patient, hasty = infer_request("slow", SLOW), infer_request("slow", SLOW, timeout_s=0.004)
        answers = asyncio.run(open_loop("127.0.0.1", server.port, [patient] * 40 + [hasty] * 40, np.full(80, 0.01)))
        c = assert_adds_up(server, "slow")
        assert c["expired"] + c["rejected"] == answers.status.count(504) + answers.status.count(503) > 10
        assert answers.status.count(200) == c["completed"]
        ran = statistics(server, "slow")
        assert ran["execution_count"] == ran["inference_count"] == c["completed"]


def test_who_goes_away_is_not_worked_for(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_batch = 1\n")
    with serving(tmp_path) as server:
        request = infer_request("slow", SLOW)
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        for s in sockets:
            s.sendall(request)
        time.sleep(0.02)
        for s in sockets:
            s.close()
        c = assert_adds_up(server, "slow")
        assert c["cancelled"] > 20


@pytest.mark.slow
def test_an_urgent_model_is_served_while_another_is_flooded(tmp_path: Path) -> None:
    for name, priority in (("slow", 9), ("urgent", 1)):
        slow(tmp_path / name / "model.onnx")
        (tmp_path / name / "jouleflow.toml").write_text(f"priority = {priority}\nmax_batch = 4\nmax_queue = 2000\n")
    with serving(tmp_path) as server:

        async def main() -> tuple[Answers, Answers]:
            flood = open_loop("127.0.0.1", server.port, [infer_request("slow", SLOW)], np.linspace(0, 1.5, 300))
            calm = open_loop("127.0.0.1", server.port, [infer_request("urgent", SLOW)], np.linspace(0.3, 1.3, 20))
            both = await asyncio.gather(flood, calm)
            return both[0], both[1]

        flood, calm = asyncio.run(main())
        assert set(calm.status) == {200}
        assert np.median(calm.latency_s) < np.median(flood.latency_s)


@pytest.mark.slow
def test_reload_under_load_answers_everything(tmp_path: Path) -> None:
    affine(tmp_path / "many" / "1" / "model.onnx")
    with serving(tmp_path) as server:

        def reload() -> None:
            affine(tmp_path / "many" / "2" / "model.onnx", factor=3.0)
            asyncio.run_coroutine_threadsafe(server.app.server.load("many"), server.loop).result(30)
            (tmp_path / "many" / "3").mkdir()
            (tmp_path / "many" / "3" / "model.onnx").write_bytes(b"broken")
            with pytest.raises(Exception, match=r"model\.onnx"):
                asyncio.run_coroutine_threadsafe(server.app.server.load("many"), server.loop).result(30)

        thread = threading.Timer(0.3, reload)
        thread.start()
        answers = asyncio.run(closed_loop("127.0.0.1", server.port, [infer_request("many", X)], 8, 3.0, 0.0))
        thread.join()
        assert set(answers.status) == {200}
        assert json.loads(server.ask("GET", "/v2/models/many")[2])["versions"] == ["2"]


def test_sigterm_answers_what_was_accepted(tmp_path: Path) -> None:
    slow(tmp_path / "models" / "slow.onnx")
    jouleflow = str(Path(sys.executable).with_name("jouleflow"))
    program = [jouleflow, "serve", str(tmp_path / "models"), "--http", "127.0.0.1:0", "--grpc", ""]
    child = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        for line in child.stderr:
            if "listening" in line:
                port = int(line.rsplit(" ", 1)[1])
                break
        threading.Timer(0.5, lambda: child.send_signal(signal.SIGTERM)).start()
        # all are accepted before the signal, many are answered after it
        answers = asyncio.run(open_loop("127.0.0.1", port, [infer_request("slow", SLOW)], np.linspace(0, 0.3, 60)))
        assert set(answers.status) == {200}
        assert child.wait(20) == 0
    finally:
        child.kill()


def test_slow_and_broken_clients_cost_nothing_lasting(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path, limits=Limits(header_s=0.3, max_connections=64)) as server:
        for _ in range(3):
            sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
            for k, s in enumerate(sockets):
                try:
                    s.sendall(
                        b"POST /v2/models/double/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"[: 20 + k]
                    )
                    if k % 3 == 0:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                except OSError:
                    continue
            for s in sockets[::2]:
                s.close()
            time.sleep(0.1)
            for s in sockets[1::2]:
                s.close()
        assert ready_again(server)
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200
        until = time.monotonic() + 10
        while time.monotonic() < until and len(server.app._listeners[0][1].open) > 1:
            time.sleep(0.1)
        assert len(server.app._listeners[0][1].open) <= 1


def test_a_model_that_dies_in_its_warm_up_is_not_put_into_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jouleflow.errors import ModelError
    from jouleflow.serve import server as module

    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:

        async def die(served: module.ServedModel, run_s: float) -> None:
            served.process.kill()

        monkeypatch.setattr(module, "warm_up", die)
        with pytest.raises(ModelError, match="died in its first batches"):
            asyncio.run_coroutine_threadsafe(server.app.server.load("double"), server.loop).result(30)
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200  # the old one still answers
