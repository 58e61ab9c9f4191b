"""The memory that there is: of the machine, or of the cgroup that holds us, in either version of them."""

from pathlib import Path

import pytest

from jouleflow.runtime.memory_limit import SHARE_FRAC, address_space_bytes, machine_memory_bytes

GIB = 1 << 30


def machine(root: Path, cgroup: str, limits: dict[str, str]) -> Path:
    """A file system of a machine with 8 GiB."""
    for name, text in {
        "proc/meminfo": f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": cgroup,
        **limits,
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "limits", "memory_bytes"),
    [
        ("", {}, 8 * GIB),
        ("0::/\n", {"sys/fs/cgroup/memory.max": f"{GIB}\n"}, GIB),  # a container sees its own as the root
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max\n"}, 8 * GIB),
        ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": f"{2 * GIB}\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 2 * GIB),
        ("0::/not/seen/from/here\n", {"sys/fs/cgroup/memory.max": f"{3 * GIB}\n"}, 3 * GIB),
        ("9:cpu:/x\n4:memory:/a\n", {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ("4:memory:/a\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 * GIB),
        ("9:cpu:/x\n", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "1\n"}, 8 * GIB),  # not of memory
    ],
)  # fmt: skip
def test_the_least_of_machine_and_cgroups(
    tmp_path: Path, cgroup: str, limits: dict[str, str], memory_bytes: int
) -> None:
    root = machine(tmp_path, cgroup, limits)
    assert machine_memory_bytes(root) == memory_bytes
    grown = address_space_bytes(8, root=root) - address_space_bytes(0, root=root)
    assert grown == 8 * (144 << 20)
    assert address_space_bytes(1, root=root) - address_space_bytes(1, 0.0, root) == SHARE_FRAC * memory_bytes


def test_here() -> None:
    assert machine_memory_bytes() > 256 << 20
