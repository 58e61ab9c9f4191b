"""Boards from TOML: strict about keys, and every constant must say where it is from."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from jouleflow.device.device import Clock, Converter, Device, Link, Memory, OperatingPoint, Store, System
from jouleflow.errors import DeviceError, near_matches


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class _Store(_Strict):
    capacitance_f: float
    off_v: float
    on_v: float
    max_v: float
    leak_w: float


class _Converter(_Strict):
    input_eff_frac: float
    output_eff_frac: float


class _Point(_Strict):
    name: str
    cpu_hz: float
    active_w: float
    wait_w: float


class _Memory(_Strict):
    size_bytes: int
    nonvolatile: bool
    read_s_per_byte: float = 0.0
    write_s_per_byte: float = 0.0
    read_j_per_byte: float = 0.0
    write_j_per_byte: float = 0.0
    setup_s: float = 0.0
    setup_j: float = 0.0
    endurance_writes: float | None = None
    write_block_bytes: int = 1


class _Memories(_Strict):
    flash: _Memory
    sram: _Memory
    nvm: _Memory


class _Boot(_Strict):
    boot_s: float
    boot_j: float
    sleep_w: float
    sense_s: float = 0.0


class _Board(_Strict):
    name: str
    description: str
    arch: str
    points: list[_Point]
    memory: _Memories
    boot: _Boot
    store: _Store
    converter: _Converter
    sources: dict[str, str]


def known_systems() -> tuple[str, ...]:
    """Names of the boards that come with jouleflow."""
    folder = files("jouleflow") / "device" / "data"
    return tuple(sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")))


def load_system(name_or_path: str) -> System:
    """The system of a name that comes with jouleflow, or of a .toml file.

    Raises DeviceError for an unknown name, an unknown or missing key, a bad value, or a constant without a source.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise DeviceError(f"no board file {name_or_path!r}")
        text, name = path.read_text(errors="replace"), path.name
    else:
        if name_or_path not in known_systems():
            raise DeviceError(
                f"unknown board {name_or_path!r}: {near_matches(name_or_path, known_systems())}; or give a .toml file"
            )
        name = f"{name_or_path}.toml"
        text = (files("jouleflow") / "device" / "data" / name).read_text()
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeviceError(f"{name}: {error}") from error
    device = _device(raw, name)
    return System(device.name, (device,), tuple[Link, ...]())


def _device(raw: dict[str, Any], file: str) -> Device:
    try:
        board = _Board.model_validate(raw)
    except ValidationError as error:
        problems = []
        for e in error.errors()[:5]:
            key = ".".join(str(part) for part in e["loc"])
            problems.append(f"{key}: {'unknown key' if e['type'] == 'extra_forbidden' else e['msg']}")
        raise DeviceError(f"{file}: {'; '.join(problems)}") from error
    _check_sources(raw, board, file)
    points = tuple(OperatingPoint(p.name, (("cpu", p.cpu_hz),), p.active_w, p.wait_w) for p in board.points)
    try:
        return Device(
            board.name,
            board.description,
            board.arch,
            (Clock("cpu", tuple(sorted({p.cpu_hz for p in board.points}))),),
            points,
            tuple(Memory(n, **getattr(board.memory, n).model_dump()) for n in ("flash", "sram", "nvm")),
            board.boot.sleep_w,
            board.boot.boot_s,
            board.boot.boot_j,
            Store(**board.store.model_dump()),
            Converter(**board.converter.model_dump()),
            board.boot.sense_s,
            tuple(sorted(board.sources.items())),
        )
    except DeviceError as error:
        raise DeviceError(f"{file}: {error}") from error


def _check_sources(raw: dict[str, Any], board: _Board, file: str) -> None:
    """Every table, or every key in it, has a source that is not blank."""
    for key, text in board.sources.items():
        if not text.strip():
            raise DeviceError(f"{file}: the source of {key} is blank: name a document, or write 'estimated: how'")
    constants = [f"{table}.{key}" for table in ("boot", "store", "converter") for key in raw[table]]
    constants += [f"points.{key}" for p in raw["points"] for key in p if key != "name"]
    constants += [f"memory.{m}.{key}" for m, keys in raw["memory"].items() for key in keys]
    for constant in constants:
        parts = constant.split(".")
        if not any(".".join(parts[:n]) in board.sources for n in range(1, len(parts) + 1)):
            raise DeviceError(f"{file}: {constant} has no source: add it to [sources] ('estimated: how' is permitted)")
