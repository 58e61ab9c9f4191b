"""Shared memory: tensors come from and go to registered files of /dev/shm, and whatever becomes of a file the server goes on."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from jouleflow.cli.main import app
from jouleflow.errors import InputError
from jouleflow.load.client import infer_request
from jouleflow.runtime.tensors import encode_strings
from jouleflow.serve.app import AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving
from tests.serve.shared_files import SharedFile, X, extent, infer, register, tensor, unregister
from tests.serve.test_chaos import assert_adds_up, slow
from tests.serve.test_openapi import both, words

LIMITS = Limits(max_body_bytes=1 << 20, max_regions=4, max_region_bytes=8 << 20)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    both(folder / "both.onnx")
    words(folder / "words.onnx")
    slow(folder / "slow" / "model.onnx")
    (folder / "slow" / "jouleflow.toml").write_text("instances = 1\n")
    with serving(folder, ServerSettings(limits=LIMITS, shared_memory=True, n_cores=1)) as running:
        yield running


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    yield shared
    assert unregister(shared) == 200
    assert infer(shared, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1] * 4}]})[0] == 200
    assert_adds_up(shared, "double")
    for name, served in shared.app.server.models.items():
        assert served.ready, name
        counts, totals = (
            served.queue.counts,
            served.queue.totals(),
        )  # requests of a batch that failed on their own are in both
        assert totals.n_completed == counts["completed"] >= totals.n_in_time
        assert totals.n_ended == counts["completed"] + counts["rejected"] + counts["expired"] + counts["failed"]


def test_an_input_and_an_output_stay_where_they_are(server: Running) -> None:
    assert "system_shared_memory" in json.loads(server.ask("GET", "/v2")[2])["extensions"]
    with SharedFile("io", bytes(8) + X.tobytes() + bytes(64)) as file:
        assert register(server, "a", file.key, 100, offset=4) == (200, "")
        outputs = [{"name": "y", "parameters": extent("a", 40, 36)}]
        for _ in range(3):  # the header is known from the second on
            status, answer = infer(server, {"inputs": [tensor(extent("a", 32, 4))], "outputs": outputs})
            assert status == 200
            assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2, 4], "parameters": extent("a", 40, 36)}]  # fmt: skip
            content = file.path.read_bytes()
            np.testing.assert_array_equal(np.frombuffer(content[40:72], np.float32).reshape(2, 4), 2 * X + 1)
            assert content[:40] + content[72:] == bytes(8) + X.tobytes() + bytes(32)
            file.path.write_bytes(content[:40] + bytes(64))
        listed = json.loads(server.ask("GET", "/v2/systemsharedmemory/status")[2])
        assert listed == [{"name": "a", "key": file.key, "offset": 4, "byte_size": 100}]
        assert json.loads(server.ask("GET", "/v2/systemsharedmemory/region/a/status")[2]) == listed
        assert server.ask("GET", "/v2/systemsharedmemory/region/b/status")[0] == 404
        assert unregister(server, "a") == unregister(server, "a") == 200
        assert json.loads(server.ask("GET", "/v2/systemsharedmemory/status")[2]) == []


def test_some_of_a_request_may_be_in_shared_memory(server: Running) -> None:
    a, b = np.ones((2, 3), np.float32), np.arange(4, dtype=np.int8).reshape(2, 2)
    sums = a + b.sum(1, keepdims=True)
    given = {"name": "b", "datatype": "INT8", "shape": [2, 2]}
    with SharedFile("some", a.tobytes() + bytes(24)) as file:
        register(server, "m", file.key, 48)
        for first, mine in ((True, {"data": b.ravel().tolist()}), (False, {"parameters": {"binary_data_size": 4}})):
            inputs = [tensor(extent("m", 24), (2, 3), "a"), {**given, **mine}]
            outputs = [{"name": "s", "parameters": extent("m", 24, 24)}, {"name": "t"}]
            head = json.dumps({"inputs": inputs if first else inputs[::-1], "outputs": outputs}).encode()
            raw, headers = (b"", {}) if first else (b.tobytes(), {"inference_header_content_length": str(len(head))})
            status, _, text = server.ask("POST", "/v2/models/both/infer", head + raw, **headers)
            assert status == 200, text
            assert json.loads(text)["outputs"][1]["data"] == b.ravel().tolist()
            written = np.frombuffer(file.path.read_bytes()[24:], np.float32).reshape(2, 3)
            np.testing.assert_array_equal(written, sums)


def test_a_batch_holds_inputs_of_both_kinds(server: Running) -> None:
    """And one of them, whose file was truncated, fails alone."""
    x = np.random.default_rng(0).normal(size=(6, 1500)).astype(np.float32)
    with SharedFile("batch", x.tobytes()) as file, SharedFile("cut", x.tobytes()) as cut:
        register(server, "b", file.key, x.nbytes)
        register(server, "c", cut.key, x.nbytes)
        expected = [infer(server, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1500], "data": row.tolist()}]}, "slow")[1]["outputs"][0]["data"] for row in x]  # fmt: skip
        before = stats(server, "slow")["execution_count"]
        occupied = threading.Thread(target=lambda: server.ask("POST", "/v2/models/slow/infer", ordinary(x[:1])))
        occupied.start()
        while not stats(server, "slow")["jouleflow"]["running_batches"]:
            time.sleep(0.001)
        answers: dict[int, tuple[int, Any]] = {}

        def ask(k: int) -> None:
            if k % 2:
                answers[k] = infer(server, {"inputs": [tensor(extent("c" if k == 5 else "b", 6000, 6000 * k), (1, 1500))]}, "slow")  # fmt: skip
            else:
                body = ordinary(x[k : k + 1])
                status, _, text = server.ask("POST", "/v2/models/slow/infer", body)
                answers[k] = status, json.loads(text)

        os.truncate(cut.path, 6000 * 5 + 100)
        threads = [threading.Thread(target=ask, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in (occupied, *threads):
            thread.join()
        for k in range(5):
            assert answers[k][0] == 200, answers[k]
            np.testing.assert_allclose(answers[k][1]["outputs"][0]["data"], expected[k], rtol=1e-4, atol=1e-7)
        assert answers[5][0] == 400
        assert "truncated" in answers[5][1]["error"]
        assert stats(server, "slow")["execution_count"] - before < 7, "nothing was put together"
    assert assert_adds_up(server, "slow")["failed"] == 1


def ordinary(x: np.ndarray) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}]}


def stats(server: Running, model: str) -> dict[str, Any]:
    return json.loads(server.ask("GET", f"/v2/models/{model}/stats")[2])["model_stats"][0]


def test_a_file_that_is_truncated_fails_its_request_only(server: Running) -> None:
    with SharedFile("short", X.tobytes() * 1000) as file:
        register(server, "s", file.key, 32_000)
        for size, message in ((31_999, "truncated"), (0, "truncated")):
            os.truncate(file.path, size)
            status, answer = infer(server, {"inputs": [tensor(extent("s", 32, 31_968))]})
            assert (status, message in answer["error"]) == (400, True), answer
            data = {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist()}
            outputs = [{"name": "y", "parameters": extent("s", 32, 31_968)}]
            status, answer = infer(server, {"inputs": [data], "outputs": outputs})
            assert (status, message in answer["error"]) == (400, True), answer
            assert file.path.stat().st_size == size, "an output must not make it longer"
        os.truncate(file.path, 32_000)
        assert infer(server, {"inputs": [tensor(extent("s", 32, 31_968))]})[0] == 200


def test_a_file_that_is_truncated_all_the_time_harms_nobody(server: Running) -> None:
    """Between any two of the server's system calls, also in the middle of a read."""
    x = np.ones((16, 4), np.float32)
    with SharedFile("race", x.tobytes() * 64) as file:
        register(server, "r", file.key, 256 * 64)
        stop = threading.Event()

        def cut() -> None:
            while not stop.is_set():
                os.truncate(file.path, 0)
                os.truncate(file.path, 256 * 64)

        cutting = threading.Thread(target=cut)
        cutting.start()
        try:
            body = {"inputs": [tensor(extent("r", 256, 256), (16, 4))], "outputs": [{"name": "y", "parameters": extent("r", 256)}]}  # fmt: skip
            statuses = {infer(server, body)[0] for _ in range(150)}
        finally:
            stop.set()
            cutting.join()
        assert statuses <= {200, 400}


def test_an_unlinked_file_lives_until_it_is_unregistered(server: Running) -> None:
    with SharedFile("gone", X.tobytes() * 2) as file:
        register(server, "u", file.key, 64)
        file.path.unlink()
        body = {"inputs": [tensor(extent("u", 32))], "outputs": [{"name": "y", "parameters": extent("u", 32, 32)}]}
        assert infer(server, body)[0] == 200
        file.path.write_bytes(bytes(64))  # another file of that name is not written
        assert infer(server, body)[0] == 200
        assert file.path.read_bytes() == bytes(64)
        assert unregister(server, "u") == 200
        status, answer = infer(server, body)
        assert (status, "'u' is not registered" in answer["error"]) == (400, True)


@pytest.mark.parametrize("what", ["input", "output"])
def test_a_region_that_is_unregistered_while_a_request_waits(server: Running, what: str) -> None:
    x = np.ones((1, 1500), np.float32)
    with SharedFile("waits", x.tobytes()) as file:
        register(server, "w", file.key, 6000)
        if what == "input":
            body: dict[str, Any] = {"inputs": [tensor(extent("w", 6000), (1, 1500))]}
        else:
            body = {**ordinary(x), "outputs": [{"name": "y", "parameters": extent("w", 6000)}]}
        blocker = {**ordinary(np.ones((2, 1500), np.float32))}
        got: list[Any] = []
        accepted = stats(server, "slow")["jouleflow"]["accepted"]
        threads = [threading.Thread(target=lambda: got.append(infer(server, blocker, "slow"))) for _ in range(2)]
        for thread in threads:
            thread.start()
        while stats(server, "slow")["jouleflow"]["accepted"] < accepted + len(threads):
            time.sleep(0.0005)
        accepted += len(threads)
        waiting = threading.Thread(target=lambda: got.append(infer(server, body, "slow")))
        threads.append(waiting)
        waiting.start()
        while stats(server, "slow")["jouleflow"]["accepted"] == accepted:
            time.sleep(0.0005)
        assert unregister(server) == 200
        for thread in threads:
            thread.join()
        failed = [answer for status, answer in got if status == 400]
        assert len(got) == 3
        assert [status for status, _ in got].count(200) == 2
        assert "was unregistered while the request waited" in failed[0]["error"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (extent("none", 32), "'none' is not registered"),
        (extent("p", 31), "31 bytes, but [2, 4] of FP32 is 32"),
        (extent("p", 32, 33), "go past the 64 bytes"),
        (extent("p", 32, 1 << 62), "go past the 64 bytes"),
        (extent("p", 32, 1 << 63), "2^63"),
        (extent("p", 32, -1), "must be an integer"),
        (extent("p", 32, True), "must be an integer"),
        ({"shared_memory_region": "p"}, "shared_memory_byte_size None must be"),
        ({"shared_memory_region": 7, "shared_memory_byte_size": 32}, "must be a name"),
        ({"shared_memory_byte_size": 32}, "but no shared_memory_region"),
        ({"shared_memory_offset": 32}, "but no shared_memory_region"),
        ({**extent("p", 32), "binary_data_size": 32}, "give one of them"),
    ],
)
def test_an_input_that_is_nowhere_is_told_what_is_wrong(
    server: Running, parameters: dict[str, Any], message: str
) -> None:
    with SharedFile("p", X.tobytes() * 2) as file:
        register(server, "p", file.key, 64)
        status, answer = infer(server, {"inputs": [tensor(parameters)]})
        assert (status, message in answer["error"]) == (400, True), answer


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (extent("none", 32), "'none' is not registered"),
        (extent("o", 31), "an output of 32 bytes does not fit"),
        (extent("o", 32, 33), "go past the 64 bytes"),
        ({"shared_memory_region": "o"}, "shared_memory_byte_size None must be"),
        ({**extent("o", 32), "classification": 1}, "classification is not supported"),
    ],
)
def test_so_is_an_output(server: Running, parameters: dict[str, Any], message: str) -> None:
    with SharedFile("o", bytes(64)) as file:
        register(server, "o", file.key, 64)
        outputs = [{"name": "y", "parameters": parameters}]
        given = {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist()}
        status, answer = infer(server, {"inputs": [given], "outputs": outputs})
        assert (status, message in answer["error"]) == (400, True), answer
        assert file.path.read_bytes() == bytes(64)


def test_strings_are_read_at_once_and_checked(server: Running) -> None:
    raw = encode_strings(np.array([b"a", b"bcd"], object))
    given = {"name": "x", "datatype": "BYTES", "shape": [1, 2]}
    with SharedFile("words", raw + bytes(20)) as file:
        register(server, "t", file.key, len(raw) + 20)
        outputs = [{"name": "y", "parameters": extent("t", 20, len(raw))}]
        body = {"inputs": [{**given, "parameters": extent("t", len(raw))}], "outputs": outputs}
        assert infer(server, body, "words")[0] == 200
        assert file.path.read_bytes()[len(raw) :][: len(raw)] == raw
        for broken in (b"\xff" * len(raw), bytes(len(raw))):
            file.path.write_bytes(broken + bytes(20))
            status, answer = infer(server, body, "words")
            assert (status, "input 'x'" in answer["error"]) == (400, True), answer
        os.truncate(file.path, 4)
        assert infer(server, body, "words")[0] == 400


def test_only_own_plain_files_of_dev_shm_can_be_registered(server: Running, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(bytes(64))
    with SharedFile("own", bytes(64)) as file, SharedFile("link", b"") as link, SharedFile("pipe", b"") as pipe:
        for key in ("", "/", ".", "..", "/..", "/../etc/passwd", "../etc/passwd", "/a/b", "//a", str(outside), "a\0b", "é" * 200, "x" * 300, 7, None, ["a"], file.key + "_none"):  # fmt: skip
            assert register(server, "k", key, 64)[0] == 400, key
        for target in (file.path, outside):
            link.path.unlink()
            link.path.symlink_to(target)
            assert register(server, "k", link.key, 64)[0] == 400
        pipe.path.unlink()
        os.mkfifo(pipe.path)
        assert "regular file" in register(server, "k", pipe.key, 64)[1]
        pipe.path.unlink()
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(pipe.path))
            assert register(server, "k", pipe.key, 64)[0] == 400
        pipe.path.unlink()
        pipe.path.mkdir()
        assert register(server, "k", pipe.key, 64)[0] == 400
        pipe.path.rmdir()
        assert register(server, "k", file.key[1:], 64)[0] == 200, "the slash may be left out"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(server: Running) -> None:
    with SharedFile("foreign", bytes(64)) as file:
        os.chown(file.path, 12345, -1)
        assert "of the user that the server runs as" in register(server, "f", file.key, 64)[1]


@pytest.mark.parametrize(
    ("size_bytes", "offset", "message"),
    [(65, 0, "go past the 64 bytes"), (64, 1, "go past"), (1, 64, "go past"), (1 << 62, 1 << 62, "may be are registered"), (64, -1, "must be an integer"),
     (0, 0, "more than 0"), (-1, 0, "must be an integer"), (True, 0, "must be an integer"), (1.5, 0, "must be an integer"), (1 << 64, 0, "must be an integer"),
     (None, 0, "must be an integer"), (64, None, "must be an integer"), (64, 1 << 64, "must be an integer")],
)  # fmt: skip
def test_a_region_lies_inside_its_file(server: Running, size_bytes: Any, offset: Any, message: str) -> None:
    with SharedFile("inside", bytes(64)) as file:
        status, text = register(server, "i", file.key, size_bytes, offset)
        assert (status, message in text) == (400, True), text


def test_regions_are_bounded_in_number_and_bytes(server: Running) -> None:
    held = len(os.listdir("/proc/self/fd"))
    with SharedFile("many", b"") as file:
        os.truncate(file.path, 9 << 20)
        assert "may be are registered" in register(server, "n", file.key, 9 << 20)[1]
        for k in range(4):
            assert register(server, f"n{k}", file.key, 1 << 20) == (200, "")
        assert register(server, "n0", file.key, 1 << 20)[0] == 409
        assert "as many as there may be" in register(server, "n4", file.key, 1)[1]
        unregister(server, "n0")
        assert "may be are registered" in register(server, "n4", file.key, 6 << 20)[1]
        assert register(server, "n4", file.key, 2 << 20)[0] == 200
        status, answer = infer(server, {"inputs": [tensor(extent("n4", (1 << 20) + 16), (65537, 4))]})
        assert status == 400, answer  # more rows than are taken
        unregister(server)
        assert len(os.listdir("/proc/self/fd")) <= held + 1, "refused or forgotten regions keep no descriptor"


def test_a_request_takes_no_more_from_a_region_than_a_body_could_bring(server: Running) -> None:
    with SharedFile("large", b"") as file:
        os.truncate(file.path, 4 << 20)
        register(server, "l", file.key, 4 << 20)
        a = tensor(extent("l", 12), (1, 3), "a")
        b = {"name": "b", "datatype": "INT8", "shape": [1, (1 << 20) + 1], "parameters": extent("l", (1 << 20) + 1)}
        assert infer(server, {"inputs": [a, b]}, "both")[0] == 413
        b = {**b, "shape": [1, 1 << 20], "parameters": extent("l", 1 << 20)}
        assert infer(server, {"inputs": [a, b]}, "both")[0] == 413
        outputs = [{"name": "s", "parameters": extent("l", 2 << 20)}]
        assert infer(server, {"inputs": [a, {**b, "shape": [1, 9], "parameters": extent("l", 9)}], "outputs": outputs}, "both")[0] == 413  # fmt: skip


def test_nothing_is_written_for_a_sender_that_has_gone(server: Running) -> None:
    x = np.ones((1, 1500), np.float32)
    with SharedFile("left", bytes(6000)) as file:
        register(server, "g", file.key, 6000)
        body = json.dumps({**ordinary(x), "outputs": [{"name": "y", "parameters": extent("g", 6000)}]}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as s:
            s.sendall(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
            while not stats(server, "slow")["jouleflow"]["running_batches"]:
                time.sleep(0.0005)
        assert_adds_up(server, "slow")
        assert file.path.read_bytes() == bytes(6000)


def test_addresses_take_their_own_methods_only(server: Running) -> None:
    start = "/v2/systemsharedmemory"
    for method, path in (("POST", "/status"), ("GET", "/unregister"), ("GET", "/region/a/register"), ("PUT", "/region/a/unregister")):  # fmt: skip
        assert server.ask(method, start + path, b"{}")[0] == 405
    for path in ("/register", "/region/a", "/region/a/b/register", ""):
        assert server.ask("POST", start + path, b"{}")[0] == 404
    for body in (b"", b"[]", b"{", b'{"byte_size": 1}', b'{"key": "/a"}'):
        assert server.ask("POST", start + "/region/a/register", body)[0] == 400
    assert register(server, "%2e%2e%2fa", "/a", 1)[0] in (400, 404)
    assert register(server, "n" * 257, "/a", 1)[0] == 400


@pytest.mark.parametrize("listeners", [{"http": "0.0.0.0:0"}, {"grpc": "0.0.0.0:0"}, {"http": "[::]:0"}])
def test_it_is_offered_to_this_machine_only(tmp_path: Path, listeners: dict[str, str]) -> None:
    affine(tmp_path / "double.onnx")
    settings = AppSettings(**{"http": "127.0.0.1:0", **listeners, "token": "t"})
    with pytest.raises(InputError, match="clients on this machine"), serving(tmp_path, ServerSettings(shared_memory=True), settings):  # fmt: skip
        pass


def test_a_cluster_does_not_offer_it(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    done = CliRunner().invoke(app, ["serve", str(tmp_path), "--ray", "--shared-memory"])
    assert done.exit_code != 0
    assert "--shared-memory is not offered with --ray" in str(done.exception or done.output)


def test_ordinary_requests_beside_it_are_answered_as_before(server: Running) -> None:
    request = infer_request("double", {"x": X})
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.settimeout(10)
        answers = []
        for _ in range(3):
            s.sendall(request)
            answers.append(s.recv(65536))
        assert answers[0] == answers[1] == answers[2]
        assert answers[0].endswith((2 * X + 1).tobytes())
