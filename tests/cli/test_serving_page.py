"""The operators' page (docs/serving.md) names every flag of `serve` and `load` and every key of jouleflow.toml, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from jouleflow.cli.main import app
from jouleflow.serve.repository import ModelSettings

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def first_cells(after: str) -> str:
    """The first column of the first table after a heading."""
    table = re.search(r"(?:^\|.*\n)+", PAGE.read_text().split(after, 1)[1], re.MULTILINE)
    assert table is not None
    return "\n".join(line.split("|")[1] for line in table[0].splitlines())


@pytest.mark.parametrize("command", ["serve", "load"])
def test_every_flag_is_there(command: str) -> None:
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    flags = {flag for p in parameters for flag in p.opts if flag.startswith("--")}
    assert set(re.findall(r"`(--[a-z-]+)`", first_cells(f"## `jouleflow {command}"))) == flags


def test_every_key_is_there() -> None:
    assert set(re.findall(r"`([a-z_]+)`", first_cells("## The folder"))) == set(ModelSettings.model_fields)
