"""Compiles our native C for this machine, as a shared library without any dependency. Zig is the compiler."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jouleflow.errors import JouleflowError, MissingCapability

TIMEOUT_S = 300


def cache_dir() -> Path:
    """Where compiled objects are kept: JOULEFLOW_CACHE, else the user's cache folder."""
    base = os.environ.get("JOULEFLOW_CACHE")
    if base is None:
        base = str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jouleflow")
    path = Path(base)
    path.mkdir(parents=True, exist_ok=True)
    return path


def compiler_version() -> str:
    """The version of ziglang, which is part of every cache key.

    Raises MissingCapability when the package is absent.
    """
    import importlib.metadata

    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingCapability("the compiler is missing: pip install ziglang==0.17.0") from error


def run_zig(arguments: Sequence[str]) -> None:
    """Runs `zig cc` with an argument list.

    Raises JouleflowError with the compiler's first lines when it fails or takes over 5 minutes.
    """
    compiler_version()
    command = [sys.executable, "-m", "ziglang", "cc", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise JouleflowError(f"the compiler took more than {TIMEOUT_S} s: is the machine out of memory?") from error
    if done.returncode != 0:
        text = "\n".join((done.stderr or done.stdout).splitlines()[:25])
        raise JouleflowError(f"the compiler refused:\n{text}")


def cached(inputs: Sequence[Path], arguments: Sequence[str], suffix: str) -> Path:
    """Compiles `inputs` by `zig cc arguments inputs -o result`, or returns the result of an equal earlier run.

    The key covers the arguments, the inputs' contents, every header in a -I folder, and a linker script.
    """
    digest = hashlib.sha256(compiler_version().encode())
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("-I"):
            for header in sorted(Path(argument[2:]).glob("*.h")):
                digest.update(header.read_bytes())
        elif before == "-T":
            digest.update(Path(argument).read_bytes())
        else:
            digest.update(argument.encode() + b"\0")
    for path in inputs:
        digest.update(path.name.encode() + path.read_bytes())
    result = cache_dir() / f"{inputs[0].stem[:24]}-{digest.hexdigest()[:32]}{suffix}"
    if not result.exists():
        with tempfile.TemporaryDirectory(dir=cache_dir()) as folder:
            fresh = Path(folder) / result.name
            run_zig([*arguments, *map(str, inputs), "-o", str(fresh)])
            os.replace(fresh, result)
    return result


def shared_library(sources: Sequence[Path], include: Path) -> Path:
    """A shared library of our own C for this machine."""
    flags = [
        "-shared",
        "-O2",
        "-fPIC",
        "-nostdlib",
        "-std=c11",
        "-fno-math-errno",
        "-fno-sanitize=undefined",
        "-ffp-contract=off",
    ]
    return cached(list(sources), [*flags, "-Wall", "-Wextra", "-Werror", f"-I{include}"], ".so")
