"""What the commands share: the application, its two consoles, options that repeat, and how a result is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

HELP = "Runs neural networks where energy is the scarce thing. Results go to stdout (--json for machines), progress to stderr; exit 0 done, 1 infeasible, 2 misuse."
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
out, err = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
System = Annotated[str, typer.Option(help="A board's name (see `jouleflow devices`) or a .toml file.")]
Harvest = Annotated[
    str,
    typer.Option(
        help="A trace's name (see `jouleflow traces`), a .csv(.gz) file, or a recorder's: .h5 (shepherd), .ppk2@3.0V, .bin/.emd (EnergyRunner)."
    ),
]
Planner = Annotated[
    str,
    typer.Option(
        help="tile: commits planned ahead. adaptive: the board reads its voltage and commits only when it must. Others, to compare: "
        "restart, layer, loop, footprint, jit."
    ),
]
Sram = Annotated[str | None, typer.Option(help="SRAM budget, e.g. 32kB; the board's by default.")]
Capacitor = Annotated[str | None, typer.Option(help="Capacitor, e.g. 470uF; the board's by default.")]
Deadline = Annotated[str | None, typer.Option(help="Deadline of one inference, e.g. 10s: misses are counted.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random (lost memory, torn writes, random inputs).")]
Duration = Annotated[str, typer.Option(help="Longest time in the world, e.g. 86400s.")]
Out = Annotated[Path, typer.Option("--out", "--output", help="Folder for the results.")]
ModelFile = Annotated[Path, typer.Argument(help="An int8 .tflite or int8 QDQ .onnx file.")]
Inputs = Annotated[
    Path | None, typer.Option("--input", help=".npz with one array, inferences first; random ones if left out.")
]
Count = Annotated[int, typer.Option("-n", "--count", help="Inferences, at most as many as the input holds.")]


def emit(data: Any, as_json: bool, table: Table | None = None) -> None:
    if as_json:
        print(json.dumps(data, indent=1))
    elif table is not None:
        out.print(table)


def size_bytes(text: str | None) -> int | None:
    from jouleflow.units import parse_quantity

    return None if text is None else round(parse_quantity(text, "B"))


def quantity(text: str | None, unit: str) -> float | None:
    from jouleflow.units import parse_quantity

    return None if text is None else parse_quantity(text, unit)
