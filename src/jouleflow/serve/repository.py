"""The model repository: a folder a model with `model.onnx` and perhaps `jouleflow.toml` and numbered versions; or bare .onnx files.

Names are checked, and nothing is followed out of the folder.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jouleflow.errors import InputError
from jouleflow.policy.batch import Delay
from jouleflow.policy.queue import MAX_JOBS
from jouleflow.runtime.memory_limit import address_space_bytes

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
SETTINGS = "jouleflow.toml"
MODEL = "model.onnx"


class ModelSettings(BaseModel):
    """What `jouleflow.toml` may hold. priority: 1 goes first, 9 last. instances: batches at once; 0 is one a core. memory_mb: address
    space of the model's process; None is a share of the machine's memory. max_delay_ms and preferred_batch: of the policy `delay`."""

    model_config = ConfigDict(extra="forbid")

    slo_ms: Annotated[float, Field(ge=0.0, le=3.6e6)] = 0.0
    priority: Annotated[int, Field(ge=1, le=9)] = 5
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    instances: Annotated[int, Field(ge=0, le=64)] = 0
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = MAX_JOBS
    memory_mb: Annotated[int, Field(ge=1, le=1 << 24)] | Literal["unlimited"] | None = None
    max_delay_ms: Annotated[float, Field(ge=0.0, le=3.6e6)] = 0.0
    preferred_batch: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _batches_are_possible(self) -> Self:
        if too_large := [n for n in self.preferred_batch if n > self.max_batch]:
            raise ValueError(f"preferred_batch {too_large} must be at most max_batch = {self.max_batch}")
        return self


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A version of a model in the repository, and how to serve it."""

    name: str
    version: str
    path: Path
    settings: ModelSettings

    @property
    def slo_s(self) -> float:
        return self.settings.slo_ms * 1e-3

    def memory_bytes(self, n_instances: int, share_frac: float) -> int:
        """Address space of its process with so many batches at once; 0 is no limit. share_frac: of the machine's memory, where its
        settings say nothing."""
        s = self.settings
        if s.memory_mb == "unlimited":
            return 0
        return address_space_bytes(n_instances * s.threads, share_frac) if s.memory_mb is None else s.memory_mb << 20

    @property
    def delay(self) -> Delay:
        """What the policy `delay` does for it."""
        return Delay(self.settings.max_delay_ms * 1e-3, self.settings.preferred_batch)

    @property
    def priority(self) -> int:
        return self.settings.priority


def check_name(name: str) -> str:
    """The name itself.

    Raises InputError when it could not be one of ours.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise InputError(f"model name {name[:80]!r} must be 1 to 64 of A-Z a-z 0-9 . _ - without '..'")
    return name


def _inside(path: Path, root: Path) -> Path:
    if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path.name} is a link or lies outside the repository: put the file itself there")
    return path


def _settings(folder: Path, root: Path) -> ModelSettings:
    path = folder / SETTINGS
    if not path.is_file():
        return ModelSettings()
    try:
        return ModelSettings(**tomllib.loads(_inside(path, root).read_text()))
    except ValidationError as error:
        each = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"{folder.name}/{SETTINGS}: {each}") from error
    except (ValueError, RecursionError) as error:  # also numbers too long and lists too deep for Python
        raise InputError(f"{folder.name}/{SETTINGS} is not TOML: {error}") from error


class Repository:
    """A folder of models."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"{root} is not a folder: give the folder that holds the models")
        self.root = root

    def names(self) -> list[str]:
        """All models, by name."""
        found = set()
        for path in self.root.iterdir():
            if path.suffix == ".onnx" and path.is_file():
                found.add(path.stem)
            elif path.is_dir() and (any(path.glob("*.onnx")) or any(path.glob(f"*/{MODEL}"))):
                found.add(path.name)
        return sorted(n for n in found if NAME.fullmatch(n) and ".." not in n)

    def find(self, name: str, version: str | None = None) -> ModelSpec:
        """A version of a model, the highest when None.

        Raises InputError when there is none, or its settings are wrong.
        """
        check_name(name)
        if (bare := self.root / f"{name}.onnx").is_file():
            if version not in (None, "1"):
                raise InputError(f"model {name!r} has version 1 only")
            return ModelSpec(name, "1", _inside(bare, self.root), ModelSettings())
        folder = self.root / name
        if not folder.is_dir():
            raise InputError(f"no model {name!r} in the repository")
        _inside(folder, self.root)
        versions = self.versions(folder)
        chosen = version or max(versions, key=int, default="")
        if chosen not in versions:
            raise InputError(f"model {name!r} has no version {chosen!r}: there are {sorted(versions, key=int)}")
        return ModelSpec(name, chosen, _inside(versions[chosen], self.root), _settings(folder, self.root))

    def versions(self, folder: Path) -> dict[str, Path]:
        """The versions that a model's folder holds: its numbered subfolders, or 1 for a file in the folder itself."""
        numbered = {p.name: p / MODEL for p in folder.iterdir() if p.name.isdecimal() and (p / MODEL).is_file()}
        own = sorted(folder.glob("*.onnx"))
        return numbered or (
            {"1": own[0]} if len(own) == 1 else {"1": folder / MODEL} if (folder / MODEL) in own else {}
        )
