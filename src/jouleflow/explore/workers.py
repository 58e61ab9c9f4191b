"""Where the work of a sweep is done: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jouleflow.errors import InputError
from jouleflow.runtime.ray_cluster import join

Submit = Callable[..., "Future[Any]"]  # a function and its arguments
MAX_SHIPPED_BYTES = 256 << 20


@contextmanager
def workers(jobs: int | None, cluster: str | None) -> Iterator[Submit]:
    """A way to have work done, while the block lasts; what is not done when it ends by an exception is dropped.

    jobs: processes of this machine, as many as CPUs when None. cluster: the address of a Ray cluster instead; "auto" is the
    one that runs on this machine, "local" starts one for the block. Every machine of it needs this version of jouleflow.
    Raises InputError when there is no such cluster.
    """
    if cluster is not None:
        with _ray(cluster) as submit:
            yield submit
        return
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        try:
            yield pool.submit
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _ray(address: str) -> Iterator[Submit]:
    ray = join(address, "--cluster")
    remote = ray.remote(num_cpus=1)(_call)
    try:
        yield lambda work, *arguments: remote.remote(work, *arguments).future()
    finally:
        ray.shutdown()


def _call(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


def read_files(names: Iterable[str]) -> dict[str, bytes]:
    """The contents of those names that are files here, for machines that do not have them.

    Raises InputError when they are too large to ship.
    """
    contents = {name: Path(name).read_bytes() for name in names if Path(name).is_file()}
    size = sum(map(len, contents.values()))
    if size > MAX_SHIPPED_BYTES:
        raise InputError(f"model and traces have {size} bytes; a cluster is sent at most {MAX_SHIPPED_BYTES}")
    return contents


@contextmanager
def files_at_hand(shipped: dict[str, bytes]) -> Iterator[Callable[[str], str]]:
    """Where the named files are on this machine, while the block lasts; a name that was not shipped stays as it is."""
    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(folder) / str(i) / Path(name).name for i, name in enumerate(shipped)}
        for name, path in places.items():
            path.parent.mkdir()
            path.write_bytes(shipped[name])
        yield lambda name: str(places.get(name, name))
