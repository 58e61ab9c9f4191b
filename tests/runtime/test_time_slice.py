"""Short time slices are taken by the thread that asks, and by nothing that it starts."""

import ctypes
import platform
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jouleflow.runtime.time_slice import _ATTRIBUTES, _SYSCALLS, SLICE_S, ask_for_short_slices

GET = _SYSCALLS.get(platform.machine(), -1) + 1  # sched_getattr comes after sched_setattr
pytestmark = pytest.mark.skipif(not GET or sys.platform != "linux", reason="only Linux has such slices")


def slice_s() -> float:
    memory = ctypes.create_string_buffer(_ATTRIBUTES.size + 8)
    assert ctypes.CDLL(None).syscall(GET, 0, memory, len(memory), 0) == 0
    return float(struct.unpack_from(_ATTRIBUTES.format, memory.raw)[5]) * 1e-9


def in_a_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_the_thread_that_asks_gets_them():
    before_s = in_a_thread(slice_s)

    def asked():
        assert ask_for_short_slices()
        return slice_s()

    after_s = in_a_thread(asked)
    if before_s == 0.0:
        pytest.skip("this Linux does not tell slices: it is older than 6.12")
    assert after_s == pytest.approx(SLICE_S)
    assert after_s < before_s


def test_threads_and_processes_that_it_starts_have_the_usual_ones():
    usual_s = in_a_thread(slice_s)

    def asked():
        ask_for_short_slices()
        found = []
        thread = threading.Thread(target=lambda: found.append(slice_s()))
        thread.start()
        thread.join()
        code = (
            "import ctypes, struct; m = ctypes.create_string_buffer(56);"
            f"ctypes.CDLL(None).syscall({GET}, 0, m, 56, 0);"
            f"print(struct.unpack_from('{_ATTRIBUTES.format}', m.raw)[5] * 1e-9)"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        return [*found, float(told)]

    assert in_a_thread(asked) == [usual_s, usual_s]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not ask_for_short_slices()
