"""What breaks around the server: its standard error, its descriptors, its memory, its models. It goes on, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jouleflow.errors import ModelError
from jouleflow.load.answers import Answers
from jouleflow.load.client import infer_request, open_loop
from jouleflow.serve.app import AppSettings
from jouleflow.serve.http import Connection
from jouleflow.serve.limits import Limits
from tests.runtime.models import affine, counter, wide
from tests.serve.conftest import Running, serving
from tests.serve.test_chaos import SLOW, assert_adds_up, infer_body, ready_again, slow

ADMIN = AppSettings(http="127.0.0.1:0", admin="127.0.0.1:0", admin_token="root")


def until(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        if holds():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def lowered(kind: int, limit: int) -> Iterator[None]:
    """A limit of this process, for a while."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def full_pipe() -> int:
    """The end to write to of a pipe that is full, and is never read from."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    try:
        while True:
            os.write(write_fd, bytes(65536))
    except BlockingIOError:
        os.set_blocking(write_fd, True)
    os.dup(read_fd)
    return write_fd


def unread_pipe() -> int:
    """The end to write to of a pipe that nobody can read from."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    return write_fd


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("make", [full_pipe, unread_pipe, full_disk, None])
def test_standard_error_that_takes_nothing_stops_nothing(tmp_path: Path, make: Callable[[], int] | None) -> None:
    affine(tmp_path / "double.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    port = free_port()
    program = [sys.executable, "-m", "jouleflow", "serve", str(tmp_path), "--http", f"127.0.0.1:{port}", "--grpc", ""]
    if make is None:
        child = subprocess.Popen(["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *program])
    else:
        stderr = make()
        child = subprocess.Popen(program, stderr=stderr)
        os.close(stderr)
    try:
        answers: list[int] = []

        def answered() -> bool:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("POST", "/v2/models/double/infer", json.dumps(infer_body()))
                answers.append(connection.getresponse().status)
            except OSError:
                assert child.poll() is None
                return False
            return True

        assert until(answered, 30)
        assert answers == [200]
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


def test_a_name_that_looks_like_markup_does_not_stop_the_start(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model.onnx").write_bytes(b"not a model")
    (tmp_path / "odd" / "jouleflow.toml").write_text('"[/red]\\u001b[2J" = 1\n')
    program = [sys.executable, "-m", "jouleflow", "serve", str(tmp_path), "--http", "127.0.0.1:0", "--grpc", ""]
    child = subprocess.Popen(program, stderr=subprocess.PIPE)
    assert child.stderr is not None
    try:
        lines = []
        for line in child.stderr:
            lines.append(line)
            if line.startswith(b"listening:"):
                break
        text = b"".join(lines)
        assert b"listening:" in text
        assert b"[/red]" in text
        assert b"\x1b" not in text
    finally:
        child.kill()
        child.wait()


def test_memory_that_cannot_be_had_fails_the_batch_and_nothing_else(tmp_path: Path) -> None:
    affine(tmp_path / "double" / "model.onnx")
    (tmp_path / "double" / "jouleflow.toml").write_text("max_batch = 4096\ninstances = 1\n")
    with serving(tmp_path) as server:
        large = infer_request("double", {"x": np.ones((4096, 4), np.float32)})
        served = server.inside(lambda: server.app.server.models["double"])
        assert served.process.alive
        for inputs, _, _ in served.process.slots:  # what it was given before is no excuse
            inputs._size_bytes, inputs._map = 0, None
            os.ftruncate(inputs.fd, 4096)
        with lowered(resource.RLIMIT_FSIZE, 8192):
            answers = asyncio.run(open_loop("127.0.0.1", server.port, [large], np.zeros(3)))
        assert set(answers.status) == {500}
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200
        assert assert_adds_up(server, "double")["failed"] == 3


def test_a_load_without_descriptors_is_refused_and_the_old_version_serves(tmp_path: Path) -> None:
    affine(tmp_path / "double" / "model.onnx")
    with serving(tmp_path, settings=ADMIN) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.app.ports["admin"], timeout=10)
        asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200  # its memory is mapped
        for each in (connection, asked):  # so that the server has accepted them
            each.request("GET", "/v2/health/live", headers={"Authorization": "Bearer root"})
            each.getresponse().read()
        with lowered(resource.RLIMIT_NOFILE, 3):
            connection.request("POST", "/v2/repository/models/double/load", b"", {"Authorization": "Bearer root"})
            answer = connection.getresponse()
            assert answer.status == 400
            assert b"double" in answer.read()
            asked.request("POST", "/v2/models/double/infer", json.dumps(infer_body()))
            assert asked.getresponse().status == 200
        assert server.ask("POST", "/v2/repository/models/double/load", b"", server.app.ports["admin"], authorization="Bearer root")[0] == 200  # fmt: skip


def test_a_batch_that_never_ends_is_ended(tmp_path: Path) -> None:
    counter(tmp_path / "counter.onnx")
    affine(tmp_path / "double.onnx")

    def ask(n: int) -> dict[str, Any]:
        return {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [n]}]}

    with serving(tmp_path, limits=Limits(run_s=1.0)) as server:
        assert server.ask("POST", "/v2/models/counter/infer", ask(3))[0] == 200
        status, _, text = server.ask("POST", "/v2/models/counter/infer", ask(1 << 60))
        assert status == 503
        assert b"1 s" in text
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200
        assert ready_again(server)
        assert server.ask("POST", "/v2/models/counter/infer", ask(3))[0] == 200
        assert_adds_up(server, "counter")


def test_a_model_that_hangs_in_its_first_batch_does_not_hang_the_server(tmp_path: Path) -> None:
    counter(tmp_path / "hangs" / "model.onnx")
    model = (tmp_path / "hangs" / "model.onnx").read_bytes()
    import onnx

    proto = onnx.ModelProto.FromString(model)
    endless = onnx.numpy_helper.from_array(np.array(1 << 60, np.int64), "endless")
    proto.graph.initializer.append(endless)
    next(n for n in proto.graph.node if n.op_type == "Loop").input[0] = "endless"
    (tmp_path / "hangs" / "model.onnx").write_bytes(proto.SerializeToString())
    affine(tmp_path / "double.onnx")
    with serving(tmp_path, limits=Limits(run_s=1.0)) as server:
        assert "1 s" in server.app.server.problems["hangs"]
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200


@pytest.mark.slow
def test_what_is_started_again_does_not_replace_what_was_loaded_meanwhile(tmp_path: Path) -> None:
    slow(tmp_path / "many" / "1" / "model.onnx")  # two seconds of warm-up
    with serving(tmp_path) as server:
        affine(tmp_path / "many" / "2" / "model.onnx")
        os.kill(server.inside(lambda: server.app.server.models["many"].process.pid), signal.SIGKILL)
        assert until(lambda: bool(server.app.server.n_deaths))
        time.sleep(0.2)  # it is being started again
        asyncio.run_coroutine_threadsafe(server.app.server.load("many"), server.loop).result(30)
        newer = server.app.server.models["many"].process.pid
        assert until(lambda: not server.inside(lambda: bool(server.app.server._tasks)))
        assert server.app.server.models["many"].process.pid == newer
        assert server.app.server.models["many"].spec.version == "2"


def test_what_was_unloaded_is_not_started_again(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        os.kill(server.inside(lambda: server.app.server.models["double"].process.pid), signal.SIGKILL)
        assert until(lambda: bool(server.app.server.n_deaths))
        time.sleep(0.2)
        asyncio.run_coroutine_threadsafe(server.app.server.unload("double"), server.loop).result(30)
        assert until(lambda: not server.inside(lambda: bool(server.app.server._tasks)))
        assert not server.app.server.models


@pytest.mark.slow
def test_a_stop_waits_for_versions_that_were_replaced(tmp_path: Path) -> None:
    slow(tmp_path / "many" / "1" / "model.onnx")
    with serving(tmp_path) as server:
        affine(tmp_path / "many" / "2" / "model.onnx")
        older = server.app.server.models["many"].queue
        server.inside(lambda: (setattr(older, "max_batch", 1), setattr(older, "n_instances", 1)))  # it takes a while
        flood = [infer_request("many", SLOW)]
        asked = threading.Thread(
            target=lambda: answers.append(asyncio.run(open_loop("127.0.0.1", server.port, flood, np.zeros(200))))
        )
        answers: list[Answers] = []
        asked.start()
        assert until(lambda: older.counts["accepted"] == 200)
        asyncio.run_coroutine_threadsafe(server.app.server.load("many"), server.loop).result(30)
        assert server.inside(lambda: len(server.app.server.retiring)) == 1
    asked.join(30)
    assert set(answers[0].status) == {200}


@pytest.mark.slow
def test_a_stop_waits_for_a_slow_reader(tmp_path: Path) -> None:
    wide(tmp_path / "wide.onnx")
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        s.settimeout(20)
        with serving(tmp_path) as server:
            s.connect(("127.0.0.1", server.port))
            s.sendall(infer_request("wide", {"x": np.ones((1, 1), np.float32)}))
            assert s.recv(1) == b"H"
            received = bytearray()

            def read() -> None:
                time.sleep(0.5)
                while part := s.recv(1 << 16):
                    received.extend(part)

            reader = threading.Thread(target=read)
            reader.start()
        reader.join(20)
        assert len(received) > 16_000_000


def test_a_client_that_reads_nothing_is_ended_and_costs_little(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path, limits=Limits(send_s=1.0, idle_s=60.0)) as server, socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", server.port))
        s.setblocking(False)
        sent, end_s = 0, time.monotonic() + 1.0
        request = b"GET /live.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
        while time.monotonic() < end_s:
            try:
                sent += s.send(request)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        connections = server.app._listeners[0][1].open

        def held_bytes() -> int:
            return sum(c.transport.get_write_buffer_size() for c in connections)

        assert server.inside(held_bytes) < 2 << 20
        assert until(lambda: not server.inside(lambda: len(connections)), 10)


def unread(server: Running, n: int, side: int) -> socket.socket:
    """A client that has asked for so many answers in one go, and reads none."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(20)
    s.connect(("127.0.0.1", server.port))
    s.sendall(infer_request("wide", {"x": np.ones((1, 1), np.float32)}) * n)
    return s


def test_who_does_not_read_is_not_worked_for_beyond_what_is_pipelined(tmp_path: Path) -> None:
    wide(tmp_path / "wide.onnx", 1_000_000)
    limits = Limits(max_pipelined=3)
    with serving(tmp_path, limits=limits) as server, unread(server, 20, 1_000_000) as s:
        owner = server.app._listeners[0][1]
        assert until(
            lambda: server.inside(
                lambda: [c.unread_since_s for c in owner.open if not c.most and len(c.waiting) == len(c.held)]
            )
        )
        assert assert_adds_up(server, "wide")["accepted"] <= 6
        n_bytes, answer_bytes = 0, 4_000_000
        while n_bytes < 20 * answer_bytes:
            part = s.recv(1 << 20)
            assert part
            n_bytes += len(part)
        assert assert_adds_up(server, "wide")["completed"] == 20


def test_answers_that_nobody_reads_are_bounded_together(tmp_path: Path) -> None:
    wide(tmp_path / "wide.onnx")
    with serving(tmp_path, limits=Limits(max_unsent_bytes=40 << 20, max_pipelined=2)) as server:
        owner = server.app._listeners[0][1]
        greedy, modest = unread(server, 2, 4_000_000), []
        assert until(lambda: server.inside(lambda: owner.n_unsent_bytes) > 16 << 20)
        for _ in range(3):
            modest.append(unread(server, 1, 4_000_000))
        assert until(lambda: server.inside(lambda: len(owner.open)) < 4), "the one with the most is ended"
        assert until(
            lambda: server.inside(lambda: owner.n_unsent_bytes) <= 40 << 20
        )  # one that goes out meanwhile is ended too
        assert server.ask("GET", "/v2/health/live")[0] == 200
        for s in modest[1:]:
            n_bytes = 0
            while n_bytes < 16_000_000:
                part = s.recv(1 << 20)
                assert part
                n_bytes += len(part)
        for s in (greedy, *modest):
            s.close()
        assert until(lambda: not server.inside(lambda: len(owner.open)))
        assert owner.n_unsent_bytes == owner.n_spare_bytes == 0


def test_a_process_whose_link_broke_is_not_left_behind(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        served = server.inside(lambda: server.app.server.models["double"])
        pid = served.process.pid
        server.inside(lambda: served.process.slots[0][2].shutdown(socket.SHUT_RDWR))
        assert until(lambda: not Path(f"/proc/{pid}").exists())  # nor as a zombie
        assert ready_again(server)


def test_a_draining_server_tells_its_clients_to_close(tmp_path: Path) -> None:
    slow(tmp_path / "slow.onnx")
    with serving(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(infer_request("slow", SLOW))
        assert s.recv(12) == b"HTTP/1.1 200"
        server.inside(lambda: [c.drain() for _, c in server.app._listeners])
        server.inside(lambda: setattr(server.app.server, "draining", True))
        s.sendall(infer_request("slow", SLOW))
        text = b""
        while part := s.recv(65536):
            text += part
        assert b"HTTP/1.1 503" in text
        assert b"connection: close" in text


def test_the_number_of_connections_is_bounded_however_many_come(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path, limits=Limits(max_connections=20)) as server:
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
        time.sleep(0.3)
        assert server.inside(lambda: len(server.app._listeners[0][1].open)) <= 40
        for s in sockets:
            s.close()
        assert until(lambda: server.ask("GET", "/v2/health/live")[0] == 200)


def test_bodies_that_arrive_are_bounded_together(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path, limits=Limits(max_body_bytes=1 << 20, max_arriving_bytes=3 << 20)) as server:
        head = b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
        answers = []
        for s in sockets:
            s.settimeout(0.5)
            s.sendall(head + bytes(900_000))
            try:
                answers.append(s.recv(12))
            except TimeoutError:
                answers.append(b"")
        assert answers == [b""] * 3 + [b"HTTP/1.1 503"] * 3
        for s in sockets:
            s.close()
        assert until(lambda: server.inside(lambda: server.app._listeners[0][1].n_arriving_bytes) == 0)
        assert server.ask("POST", "/v2/models/double/infer", infer_body())[0] == 200


def test_a_model_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "huge.onnx").touch()
    os.truncate(tmp_path / "huge.onnx", 1 << 40)  # sparse
    with serving(tmp_path) as server:
        assert "at most" in server.app.server.problems["huge"]


def test_problems_are_model_errors(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server, lowered(resource.RLIMIT_NOFILE, 3):
        loading = asyncio.run_coroutine_threadsafe(server.app.server.load("double"), server.loop)
        with pytest.raises(ModelError):
            loading.result(30)


def test_a_connection_that_ended_leaves_nothing_to_the_garbage_collector(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path) as server:
        request = infer_request("double", {"x": np.ones((1, 4), np.float32)})

        def ask(n_bytes: int) -> None:
            with socket.create_connection(("127.0.0.1", server.port)) as s:
                s.sendall(request[:n_bytes])
                if n_bytes == len(request):
                    s.recv(100)

        ask(len(request))
        gone = lambda: not server.inside(lambda: len(server.app._listeners[0][1].open))  # noqa: E731
        assert until(gone)
        gc.collect()
        gc.disable()
        try:
            for n_bytes in (0, 10, 60, len(request) - 3, len(request)):
                ask(n_bytes)
            assert until(gone)
            owner = server.app._listeners[0][1]
            assert until(lambda: not any(isinstance(o, Connection) and o.owner is owner for o in gc.get_objects()), 5)
        finally:
            gc.enable()


def test_an_error_waits_for_the_answers_before_it(tmp_path: Path) -> None:
    slow(tmp_path / "slow.onnx")
    with serving(tmp_path) as server, socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(20)
        s.sendall(infer_request("slow", SLOW) + b"this is not HTTP\r\n\r\n")
        text = b""
        while part := s.recv(65536):
            text += part
        assert text.startswith(b"HTTP/1.1 200")
        assert b"HTTP/1.1 400" in text
