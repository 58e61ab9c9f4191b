"""Models on their way to machines that do not have the folder: files become bytes here and files again there.

What is read is what the repository's rules allow; the checks of a model itself are its process's, wherever that runs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from jouleflow.errors import InputError
from jouleflow.graph.check import MAX_FILE_BYTES
from jouleflow.serve.repository import SETTINGS, Repository

MAX_FILES = 1000
Files = dict[str, bytes]  # by the path beneath the repository


def pack_models(repository: Repository) -> tuple[dict[str, Files], dict[str, str]]:
    """The files of each model's highest version, and of those that cannot be served, why.

    A bare .onnx goes alone: weights in files beside it need a folder of the model. Files that are links, soft or hard, are left out.
    """
    packed: dict[str, Files] = {}
    problems: dict[str, str] = {}
    for name in repository.names():
        try:
            packed[name] = _pack(repository, name)
        except InputError as error:
            problems[name] = str(error)
    return packed, problems


def _pack(repository: Repository, name: str) -> Files:
    path = repository.find(name).path
    paths = [path]
    if path.parent != repository.root:
        paths = list(_beneath(path.parent))
        settings = repository.root / name / SETTINGS
        if settings.is_file() and settings not in paths:
            paths.append(settings)
    files: Files = {}
    size_bytes = 0
    for each in paths:
        data = each.read_bytes() if each == path else _read(each)
        if data is None:
            continue
        size_bytes += len(data)
        if size_bytes > MAX_FILE_BYTES or len(files) >= MAX_FILES:
            raise InputError(
                f"model {name!r} is more than {MAX_FILE_BYTES} bytes or {MAX_FILES} files: a cluster is not sent that"
            )
        files[each.relative_to(repository.root).as_posix()] = data
    return files


def _beneath(folder: Path) -> Iterator[Path]:
    for at, _, names in os.walk(folder):  # does not follow links
        yield from (Path(at) / name for name in sorted(names))


def _read(path: Path) -> bytes | None:
    """Of a regular file with one name; None for anything else."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > MAX_FILE_BYTES:
        return None
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def unpack_models(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes files beneath a folder.

    Raises InputError for a path that would leave it.
    """
    for name, data in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
            raise InputError(f"shipped file {name[:80]!r} must lie beneath the repository")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
