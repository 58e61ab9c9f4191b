"""A process that gives large blocks back does not keep them below what lies above them on its heap."""

import platform
import subprocess
import sys

import pytest

HOLDS = """
import ctypes, os, sys
from jouleflow.runtime.large_blocks import give_large_blocks_back
if sys.argv[1] == "gives back":
    assert give_large_blocks_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def block(n_bytes):
    at = libc.malloc(ctypes.c_size_t(n_bytes))
    ctypes.memset(at, 1, n_bytes)
    return at
libc.free(block(16 << 20))  # from now on glibc would take such blocks from its heap
large = [(block(16 << 20), block(1 << 16)) for _ in range(8)]
for at, _ in large:
    libc.free(at)
print(int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no mallopt")
def test_large_blocks_are_given_back() -> None:
    def left_mib(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", HOLDS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert left_mib("gives back") + 100 < left_mib("as it comes")
