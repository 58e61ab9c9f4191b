"""A package imports only from lower layers; torch stays in train; importing jouleflow is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "jouleflow"
LAYER = {
    "errors": -1, "units": 0, "wire": 0, "graph": 1, "device": 1, "trace": 1, "record": 1, "supply": 2, "profile": 2, "plan": 3, "policy": 3, "sim": 4,
    "firmware": 4, "runtime": 4, "report": 5, "serve": 5, "load": 5, "train": 5, "demo_serve": 6, "__main__": 8, "flow": 5, "explore": 6, "cli": 7,
}  # fmt: skip


def room(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("jouleflow."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_down(path: Path) -> None:
    if path == SRC / "__init__.py":
        return
    own = room(path)
    for other in imports(path) - {own}:
        assert LAYER[other] < LAYER[own], f"{own} (layer {LAYER[own]}) imports {other} (layer {LAYER[other]})"


def test_every_room_has_a_layer() -> None:
    rooms = {room(p) for p in SRC.rglob("*.py")} - {"__init__"}
    assert rooms == set(LAYER)


def test_torch_stays_in_train() -> None:
    for path in SRC.rglob("*.py"):
        assert room(path) == "train" or "import torch" not in path.read_text()


def test_import_pulls_in_nothing_heavy() -> None:
    code = "import sys, jouleflow, jouleflow.cli; print([m for m in ('numpy', 'onnx', 'plotly', 'unicorn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
