"""gRPC: deadlines reach the queue, who goes away is not worked for, and what may be sent is limited as over HTTP."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.runtime.tensors import Port
from jouleflow.serve.app import AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.oip import Decoder
from jouleflow.serve.proto import SERVICE, message, methods
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.rpc_messages import MAX_VALUES, ask_of
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving
from tests.serve.frames import ACK, HELLO, SETTINGS, begun, frame
from tests.serve.test_chaos import SLOW, assert_adds_up, counts, slow

BOTH = AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0")
ANSWERS = {name: (asked, answer) for name, asked, answer in methods()}


def call(channel: grpc.Channel, name: str = "ModelInfer") -> Any:
    asked, answer = ANSWERS[name]
    return channel.unary_unary(f"/{SERVICE}/{name}", asked.SerializeToString, answer.FromString)


def request(model: str, x: np.ndarray) -> Any:
    return message("ModelInferRequest")(
        model_name=model,
        inputs=[{"name": "x", "datatype": "FP32", "shape": x.shape}],
        raw_input_contents=[x.astype(np.float32).tobytes()],
    )


def channel_to(server: Running, *options: tuple[str, int], to: str = "grpc", **more: Any) -> grpc.Channel:
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *options]
    return grpc.insecure_channel(f"127.0.0.1:{server.app.ports[to]}", own, **more)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    slow(folder / "slow" / "model.onnx")
    (folder / "slow" / "jouleflow.toml").write_text("max_batch = 1\ninstances = 1\nmax_queue = 100\n")
    limits = Limits(max_body_bytes=1 << 20, max_connections=8, max_streams=16, max_calls=1000)
    with serving(folder, ServerSettings(limits=limits), BOTH) as running:
        yield running


def flood(infer: Any, n: int = 40) -> list[Any]:
    return [infer.future(request("slow", SLOW["x"])) for _ in range(n)]


def test_a_deadline_reaches_the_queue(server: Running) -> None:
    with channel_to(server) as channel:
        infer = call(channel)
        waiting = flood(infer, 15)
        while not counts(server, "slow")["waiting"]:
            time.sleep(0.001)
        with pytest.raises(grpc.RpcError) as caught:
            infer(request("slow", SLOW["x"]), timeout=0.02)
        assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        for each in waiting:
            each.result(30)
    c = assert_adds_up(server, "slow")
    assert c["rejected"] + c["expired"] + c["cancelled"] == 1
    assert c["completed"] == 15


def asked_of_typed(datatype: str, shape: list[int], **contents: Any) -> bytes:
    """The bytes of an input that was sent as numbers."""
    ports = (Port("x", datatype, (-1, -1)),)
    served: Any = SimpleNamespace(decoder=Decoder(ports, (Port("y", "FP32", (-1, 4)),), True, 1 << 24))
    asked = message("ModelInferRequest")(
        inputs=[{"name": "x", "datatype": datatype, "shape": shape, "contents": contents}]
    )
    asked.inputs[0].contents.MergeFromString(b"\x78\x01")  # a field that nobody knows
    return bytes(ask_of(asked, served, None).data[0])


def test_numbers_that_are_not_sent_raw() -> None:
    floats = [0.0, -1.5, float("inf"), 3.25] * 100
    for datatype, field, values, dtype in (
        ("FP32", "fp32_contents", floats, np.float32),
        ("FP64", "fp64_contents", floats, np.float64),
        ("BOOL", "bool_contents", [True, False, False, True] * 100, np.bool_),
        ("INT8", "int_contents", [-128, 127, 0, -1] * 100, np.int8),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1, 0, -1] * 100, np.int64),
        ("UINT8", "uint_contents", [255, 0, 1, 2] * 100, np.uint8),
        ("UINT64", "uint64_contents", [2**64 - 1, 0, 2**63, 1] * 100, np.uint64),
    ):
        assert asked_of_typed(datatype, [100, 4], **{field: values}) == np.array(values, dtype).tobytes(), datatype
    assert asked_of_typed("BYTES", [2, 1], bytes_contents=[b"ab", b""]) == b"\2\0\0\0ab\0\0\0\0"


def test_what_would_keep_the_loop_long_is_refused_before_it_is_looked_at() -> None:
    many = MAX_VALUES + 4
    for why, datatype, shape, contents in (
        ("has 4 values, but", "INT8", [2, 4], {"int_contents": [1000] * 4}),  # and the values are wrong too
        ("has 8 values, but", "BYTES", [1, 4], {"bytes_contents": [b"\xff"] * 8}),
        ("must be sent in raw_input_contents", "INT8", [many // 4, 4], {"int_contents": [1000] * many}),
        ("must be sent in raw_input_contents", "BYTES", [many // 4, 4], {"bytes_contents": [b"\xff"] * many}),
        ("is sent in fp32_contents", "FP32", [1, 4], {"fp32_contents": [1.0] * 4, "int_contents": [1]}),
    ):
        with pytest.raises(RequestError, match=why):
            asked_of_typed(datatype, shape, **contents)


def test_a_deadline_that_has_passed_is_a_deadline() -> None:
    decoder = Decoder((Port("x", "FP32", (-1, 4)),), (Port("y", "FP32", (-1, 4)),), True, 8)
    served: Any = SimpleNamespace(decoder=decoder)
    asked = request("double", np.ones((1, 4)))
    assert ask_of(asked, served, None).header.timeout_s == 0.0  # none at all
    assert 0.0 < ask_of(asked, served, 0.0).header.timeout_s < 1e-3
    assert ask_of(asked, served, 2.0).header.timeout_s == 2.0


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_who_goes_away_is_not_worked_for(server: Running, how: str) -> None:
    before = assert_adds_up(server, "slow")
    channel = channel_to(server)
    waiting = flood(call(channel), 15)
    while not counts(server, "slow")["waiting"]:
        time.sleep(0.001)
    if how == "cancel":
        for each in waiting:
            each.cancel()
    channel.close()
    after = assert_adds_up(server, "slow")
    assert after["cancelled"] - before["cancelled"] > 0


def test_a_stop_answers_what_was_accepted(tmp_path: Path) -> None:
    """And tells the others that it is stopping, also those that gRPC had received and not handed over yet."""
    slow(tmp_path / "slow.onnx")
    with serving(tmp_path, settings=BOTH) as server:
        channels = [channel_to(server) for _ in range(3)]
        waiting = [each for channel in channels for each in flood(call(channel), 160)]
        while counts(server, "slow")["accepted"] < 60:
            time.sleep(0.001)
    codes = [None if each.exception(10) is None else each.exception().code() for each in waiting]
    for channel in channels:
        channel.close()
    c = server.app.server.tallies["slow", "1"].counts
    assert c["completed"] >= 1
    assert c["completed"] + c["rejected"] == c["accepted"]
    assert codes.count(None) == c["completed"]
    assert set(codes) == {None, grpc.StatusCode.UNAVAILABLE}


def test_a_message_that_is_too_large_is_refused(server: Running) -> None:
    with channel_to(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel)(request("double", np.ones((100_000, 4))))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.slow
def test_a_small_message_that_inflates_is_refused(tmp_path: Path) -> None:
    """A thousand times its size: as a body of HTTP is, it must be limited while it is decompressed, not when it has been."""
    affine(tmp_path / "double.onnx")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "jouleflow", "serve", str(tmp_path), "--http", "127.0.0.1:0", "--grpc", f"127.0.0.1:{port}"]  # fmt: skip
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        while "listening" not in server.stderr.readline():
            assert server.poll() is None
        own, zeros = [("grpc.max_send_message_length", -1)], np.zeros((1 << 24, 4), np.float32)
        with grpc.insecure_channel(f"127.0.0.1:{port}", own) as channel:
            call(channel)(request("double", np.ones((1, 4))), wait_for_ready=True)
            for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
                held = peak_bytes(server.pid)
                with pytest.raises(grpc.RpcError) as caught:
                    call(channel)(request("double", zeros), compression=compression, timeout=60)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert peak_bytes(server.pid) - held < 128 << 20  # of 256 MiB, when 64 MiB are taken
            call(channel)(request("double", np.ones((1, 4))))
        server.terminate()
        said = server.stderr.read()
        assert "Traceback" not in said, said
    finally:
        server.kill()
        server.wait()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_compressed_messages_within_the_limit_are_taken(server: Running) -> None:
    with channel_to(server, compression=grpc.Compression.Gzip) as channel:
        answer = call(channel)(request("double", np.ones((8, 4))))
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [3.0] * 32


def test_metadata_is_limited(server: Running) -> None:
    with channel_to(server) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "ServerLive")(message("ServerLiveRequest")(), metadata=[("x-long", "a" * 40_000)])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call(channel, "ServerLive")(message("ServerLiveRequest")()).live


def test_streams_of_a_connection_are_limited(server: Running) -> None:
    """What is beyond them waits at the client, and is not yet accepted."""
    with channel_to(server) as channel:
        before = assert_adds_up(server, "slow")["accepted"]
        call(channel, "ServerLive")(message("ServerLiveRequest")())  # the client knows the limit from now on
        waiting = flood(call(channel), 60)
        time.sleep(0.05)
        c = counts(server, "slow")
        assert c["waiting"] + c["running_batches"] <= 16
        for each in waiting:
            each.result(60)
        assert assert_adds_up(server, "slow")["accepted"] - before == 60


def test_connections_are_limited(server: Running) -> None:
    channels = [channel_to(server) for _ in range(16)]
    live = message("ServerLiveRequest")()
    codes = []
    for channel in channels:
        try:
            codes.append(call(channel, "ServerLive")(live, timeout=2).live)
        except grpc.RpcError as error:
            codes.append(error.code())
    for channel in channels:
        channel.close()
    assert codes.count(True) <= 8, codes
    assert codes[0] is True
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s:
        with channel_to(server) as channel:
            try:
                assert call(channel, "ServerLive")(live, timeout=2).live
                return
            except grpc.RpcError:
                time.sleep(0.1)
    pytest.fail("a place that was given back is not given out again")


def test_pings_that_are_too_many_end_the_connection(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.app.ports["grpc"])) as s:
        s.settimeout(10)
        s.sendall(HELLO + bytes(9).replace(b"\0\0\0\0", b"\0\0\0\4", 1))
        ping = struct.pack(">I", 8)[1:] + b"\x06\x00" + bytes(4) + bytes(8)
        try:
            for _ in range(200):
                s.sendall(ping)
            ended = False
            while part := s.recv(65536):
                ended = ended or b"too_many_pings" in part or b"ping" in part
            ended = True
        except OSError as error:
            ended = not isinstance(error, TimeoutError)
        assert ended
    with channel_to(server) as channel:
        assert call(channel, "ServerLive")(message("ServerLiveRequest")()).live


def test_refused_for_now_is_resource_exhausted(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_batch = 1\ninstances = 1\nmax_queue = 1\n")
    with serving(tmp_path, settings=BOTH) as server, channel_to(server) as channel:
        call(channel, "ServerLive")(message("ServerLiveRequest")())
        waiting = flood(call(channel), 100)
        codes = [each.exception(60).code() if each.exception(60) else None for each in waiting]
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) > 0
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) + codes.count(None) == 100
        assert assert_adds_up(server, "slow")["rejected"] == codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_what_could_not_be_in_time_is_resource_exhausted_and_says_when_to_ask_again(tmp_path: Path) -> None:
    slow(tmp_path / "slow" / "model.onnx")
    (tmp_path / "slow" / "jouleflow.toml").write_text("max_batch = 1\ninstances = 1\nslo_ms = 60\n")
    with serving(tmp_path, settings=BOTH) as server, channel_to(server) as channel:
        ended = [each.exception(60) for each in flood(call(channel), 200)]
        late = [each for each in ended if each is not None and "too late" in each.details()]
        assert late
        assert {each.code() for each in late} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        waits_ms = [int(dict(each.trailing_metadata())["grpc-retry-pushback-ms"]) for each in late]
        assert min(waits_ms) >= 1
        assert assert_adds_up(server, "slow")["rejected"] == len(late)


def test_a_model_that_is_being_started_again_is_unavailable(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with serving(tmp_path, settings=BOTH) as server, channel_to(server) as channel:

        def died() -> None:
            server.app.server.models["double"].process.kill()

        server.inside(died)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel)(request("double", np.ones((1, 4))))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"


def test_a_token_is_needed_beyond_this_machine(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    settings = AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0", token="secret")
    with serving(tmp_path, settings=settings) as server, channel_to(server) as channel:
        live, ask = call(channel, "ServerLive"), message("ServerLiveRequest")()
        for metadata in ((), [("authorization", "Bearer wrong")]):
            with pytest.raises(grpc.RpcError) as caught:
                live(ask, metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert live(ask, metadata=[("authorization", "Bearer secret")]).live


def test_messages_that_arrive_are_bounded_together_and_in_time(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    limits = Limits(max_body_bytes=1 << 20, max_arriving_bytes=2 << 20, body_s=2.0)
    with (
        serving(tmp_path, ServerSettings(limits=limits), BOTH) as server,
        socket.create_connection(("127.0.0.1", server.app.ports["grpc"])) as s,
    ):
        s.settimeout(20)
        s.sendall(HELLO + frame(SETTINGS, 0, 0, b""))
        s.sendall(b"".join(begun(1 + 2 * k, 1 << 19) for k in range(5)))
        heard = b""
        while heard.count(b"too many large messages are arriving") < 1 or heard.count(b"grpc-status") < 1:
            heard += s.recv(65536)
        with channel_to(server) as channel:  # those two places are not in the way of what is quick
            call(channel)(request("double", np.ones((1, 4))), timeout=10)
        while b"more than 2 s to arrive" not in heard:
            heard += s.recv(65536)
        s.sendall(begun(11, 1 << 19))  # there is room again
        after = b""
        while b"to arrive" not in after:
            after += s.recv(65536)
            assert b"too many" not in after


def test_a_stop_does_not_wait_for_a_message_that_does_not_come(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    heard = bytearray()
    taken = threading.Event()

    def hear() -> None:
        """Until it is told that the server is stopping, or cut off when drain_s are over."""
        with socket.create_connection(("127.0.0.1", server.app.ports["grpc"])) as s, contextlib.suppress(OSError):
            s.settimeout(20)
            s.sendall(HELLO + frame(SETTINGS, 0, 0, b"") + begun(1, 1 << 19))
            while b"the server is stopping" not in heard and (part := s.recv(65536)):
                heard.extend(part)
                if frame(SETTINGS, ACK, 0, b"") in heard:  # our settings are known
                    taken.set()

    with serving(tmp_path, settings=BOTH) as server:
        client = threading.Thread(target=hear)
        client.start()
        assert taken.wait(20)
    client.join(30)
    assert b"the server is stopping" in heard


def test_on_ip_of_version_6(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no ::1 here")
    with (
        serving(tmp_path, settings=AppSettings(http="127.0.0.1:0", grpc="[::1]:0")) as server,
        grpc.insecure_channel(f"[::1]:{server.app.ports['grpc']}") as channel,
    ):
        assert call(channel, "ServerLive")(message("ServerLiveRequest")(), timeout=10).live


def test_a_call_without_a_message_and_one_that_is_none_are_told_so(server: Running) -> None:
    with channel_to(server) as channel:
        path = f"/{SERVICE}/ServerLive"
        for refused, why in (
            (lambda: channel.stream_unary(path)(iter(()), timeout=10), "there is no message"),
            (lambda: channel.unary_unary(path)(b"\x0f", timeout=10), "is no ServerLiveRequest"),
        ):
            with pytest.raises(grpc.RpcError, match=why) as caught:
                refused()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_classification_is_refused_and_not_ignored(server: Running) -> None:
    asked = request("double", np.ones((1, 4)))
    asked.outputs.add(name="y").parameters["classification"].int64_param = 3
    with channel_to(server) as channel, pytest.raises(grpc.RpcError, match="classification") as caught:
        call(channel, "ModelInfer")(asked)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_reflection_and_model_control_are_not_there(server: Running) -> None:
    with channel_to(server) as channel:
        for method in (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            f"/{SERVICE}/RepositoryModelLoad",
            f"/{SERVICE}/RepositoryModelUnload",
            f"/{SERVICE}/RepositoryIndex",
            f"/{SERVICE}/SystemSharedMemoryRegister",
        ):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        asked = request("double", np.ones((1, 4)))
        asked.inputs[0].parameters["shared_memory_region"].string_param = "a"
        asked.inputs[0].parameters["shared_memory_byte_size"].int64_param = 16
        del asked.raw_input_contents[:]
        for method, sent in (
            ("ModelInfer", asked),
            ("SystemSharedMemoryStatus", message("SystemSharedMemoryStatusRequest")()),
            ("SystemSharedMemoryUnregister", message("SystemSharedMemoryUnregisterRequest")()),
        ):
            with pytest.raises(grpc.RpcError, match="--shared-memory") as caught:
                call(channel, method)(sent)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


ROOT = [("authorization", "Bearer root")]


def test_control_over_grpc_needs_a_token_of_its_own_and_ignores_nothing(tmp_path: Path) -> None:
    affine(tmp_path / "double.onnx")
    with (
        pytest.raises(InputError, match="--grpc-admin needs a token of its own"),
        serving(tmp_path, settings=AppSettings(http="127.0.0.1:0", grpc_admin="127.0.0.1:0", token="asks")),
    ):
        pass
    with (
        pytest.raises(InputError, match="clients on this machine"),
        serving(
            tmp_path,
            ServerSettings(shared_memory=True),
            AppSettings(http="127.0.0.1:0", grpc_admin="0.0.0.0:0", admin_token="root"),
        ),
    ):
        pass
    settings = AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0", grpc_admin="127.0.0.1:0", token="asks", admin_token="root")  # fmt: skip
    with serving(tmp_path, settings=settings) as server, channel_to(server) as channel, channel_to(server, to="grpc_admin") as admin:  # fmt: skip
        live = message("ServerLiveRequest")()
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            call(channel, "ServerLive")(live, metadata=ROOT)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            call(admin, "ServerLive")(live, metadata=[("authorization", "Bearer asks")])
        assert call(admin, "ServerLive")(live, metadata=ROOT).live
        for name, fields, why in (
            ("RepositoryIndex", {"repository_name": "a"}, "one repository"),
            ("RepositoryModelLoad", {"model_name": "double", "parameters": {"config": {"string_param": "{}"}}}, "nothing of it"),
            ("RepositoryModelUnload", {"model_name": "double", "parameters": {"force": {"bool_param": True}}}, "unload_dependents"),
            ("RepositoryModelUnload", {"model_name": "double", "parameters": {"unload_dependents": {"int64_param": 1}}}, "true or false"),
        ):  # fmt: skip
            with pytest.raises(grpc.RpcError, match=why) as caught:
                call(admin, name)(message(f"{name}Request")(**fields), metadata=ROOT)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            call(admin, "RepositoryModelUnload")(message("RepositoryModelUnloadRequest")(model_name="none"), metadata=ROOT)  # fmt: skip


def test_a_load_goes_on_when_who_asked_for_it_has_gone(tmp_path: Path) -> None:
    affine(tmp_path / "double" / "1" / "model.onnx")
    settings = AppSettings(http="127.0.0.1:0", grpc_admin="127.0.0.1:0", admin_token="root")
    with serving(tmp_path, settings=settings) as server, channel_to(server, to="grpc_admin") as admin:
        affine(tmp_path / "double" / "2" / "model.onnx")
        asked = message("RepositoryModelLoadRequest")(model_name="double")
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            call(admin, "RepositoryModelLoad")(asked, metadata=ROOT, timeout=0.02)
        until_s = time.monotonic() + 30
        while server.app.server.find("double").spec.version != "2":
            assert time.monotonic() < until_s
            time.sleep(0.02)


def test_an_error_of_ours_names_no_folder(tmp_path: Path) -> None:
    affine(tmp_path / "models" / "double.onnx")
    settings = AppSettings(http="127.0.0.1:0", grpc_admin="127.0.0.1:0", admin_token="root")
    with serving(tmp_path / "models", settings=settings) as server, channel_to(server, to="grpc_admin") as admin:
        shutil.rmtree(tmp_path / "models")
        with pytest.raises(grpc.RpcError) as caught:
            call(admin, "RepositoryIndex")(message("RepositoryIndexRequest")(), metadata=ROOT)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert str(tmp_path) not in caught.value.details()


@pytest.mark.parametrize("first", [b"", HELLO + b"\0\0\0\4\0\0\0\0\0"])
def test_a_connection_that_says_nothing_is_ended(tmp_path: Path, first: bytes) -> None:
    affine(tmp_path / "double.onnx")
    with (
        serving(tmp_path, settings=BOTH, limits=Limits(header_s=1.0, idle_s=1.0)) as server,
        socket.create_connection(("127.0.0.1", server.app.ports["grpc"])) as s,
    ):
        s.settimeout(20)
        s.sendall(first)
        with contextlib.suppress(ConnectionResetError):
            while s.recv(65536):
                continue
