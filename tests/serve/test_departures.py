"""gRPC clients that read nothing: they are ended, and what is kept for all of them together is bounded."""

from __future__ import annotations

import socket
import struct
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jouleflow.serve.app import AppSettings
from jouleflow.serve.departures import end_connection
from jouleflow.serve.limits import Limits
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import wide
from tests.serve.conftest import Running, serving
from tests.serve.frames import HELLO, INITIAL_WINDOW, SETTINGS, WINDOW_UPDATE, asked, frame
from tests.serve.test_chaos import assert_adds_up
from tests.serve.test_faults import until
from tests.serve.test_rpc import call, channel_to, request

SIDE = 1_000_000
ANSWER_BYTES = 4 * SIDE
ASK = request("wide", np.ones((1, 1))).SerializeToString()


def grpc_server(folder: Path, **limits: Any) -> AbstractContextManager[Running]:
    wide(folder / "wide.onnx", SIDE)
    settings = ServerSettings(limits=Limits(**limits))
    return serving(folder, settings, AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0"))


def unread(server: Running, n: int) -> socket.socket:
    """A client that has asked for so many answers, and has no room for any."""
    s = socket.create_connection(("127.0.0.1", server.app.ports["grpc"]))
    s.settimeout(20)
    no_room = frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 0))
    s.sendall(HELLO + no_room + b"".join(asked(1 + 2 * k, ASK) for k in range(n)))
    return s


def has_ended(s: socket.socket, within_s: float) -> bool:
    """Whether the connection is ended before nothing has come for so long; what comes is no answer."""
    s.settimeout(within_s)
    n_bytes = 0
    try:
        while part := s.recv(1 << 20):
            n_bytes += len(part)
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    assert n_bytes < ANSWER_BYTES
    return True


def read_all(s: socket.socket) -> None:
    """Makes room for the first answer, and takes it."""
    room = struct.pack(">I", 2 * ANSWER_BYTES)
    s.sendall(frame(WINDOW_UPDATE, 0, 0, room) + frame(WINDOW_UPDATE, 0, 1, room))
    n_bytes = 0
    while n_bytes < ANSWER_BYTES:
        part = s.recv(1 << 20)
        assert part
        n_bytes += len(part)


@pytest.mark.slow
def test_who_does_not_read_an_answer_in_time_is_ended(tmp_path: Path) -> None:
    with grpc_server(tmp_path, send_s=0.2) as server, unread(server, 2) as s:
        assert has_ended(s, 20.0)
        with channel_to(server, ("grpc.max_receive_message_length", 2 * ANSWER_BYTES)) as channel:
            assert len(call(channel)(request("wide", np.ones((1, 1)))).raw_output_contents[0]) == ANSWER_BYTES
        assert assert_adds_up(server, "wide")["completed"] == 3


@pytest.mark.slow
def test_answers_that_nobody_reads_are_bounded_together(tmp_path: Path) -> None:
    with (
        grpc_server(tmp_path, max_unsent_bytes=int(2.5 * ANSWER_BYTES)) as server,
        unread(server, 2) as greedy,
    ):
        assert until(lambda: assert_adds_up(server, "wide")["completed"] == 2)
        assert not has_ended(greedy, 0.6), "both are within the bound"
        with unread(server, 1) as modest:
            assert has_ended(greedy, 20.0), "the one with the most is ended"
            read_all(modest)


def test_nobody_else_is_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one, other = (socket.create_connection(listener.getsockname()) for _ in range(2))
        (own_one, address), (own_other, _) = listener.accept(), listener.accept()
        with one, other, own_one, own_other:
            for nobody in ("unix:/tmp/x", "ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1"):
                end_connection(nobody)
            end_connection(f"ipv4:{address[0]}:{address[1]}")
            assert one.recv(1) == b""
            own_other.sendall(b"x")
            assert other.recv(1) == b"x"
            assert own_one.fileno() > 0


def test_a_connection_of_ip_version_6_is_ended() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        own, address = listener.accept()
        with own:
            end_connection(f"ipv6:%5B::1%5D:{address[1]}")
            assert client.recv(1) == b""
