"""Profiling a box: every size of every model alone and beside itself, kept, and not measured twice."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

import jouleflow.runtime.colocation as colocation
from jouleflow.errors import InputError, ModelError
from jouleflow.profile.serving import Cell, ServingProfile
from jouleflow.runtime.colocation import CellCache, Wanted, profile_models
from tests.runtime.models import affine


def wanted(folder: Path) -> list[Wanted]:
    return [Wanted(n, affine(folder / f"{n}.onnx", factor=k), 4, 2, 1, 0.05, 5) for k, n in enumerate("ab")]


def run(folder: Path, cache: Path, budget_s: float = 0.0) -> ServingProfile:
    return asyncio.run(profile_models(wanted(folder), cache, budget_s, n_cores=2))


@pytest.fixture(autouse=True, scope="module")
def _short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colocation, "ALONE_S", 0.01)
        patch.setattr(colocation, "TOGETHER_S", 0.01)
        patch.setattr(
            colocation, "find_micro_batch", AsyncMock()
        )  # cells are named by it, and it is measured: it may differ
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, _short: None) -> tuple[ServingProfile, Path]:
    """A profile, and the cache that it has left."""
    folder = tmp_path_factory.mktemp("measured")
    return run(folder, folder / "cache"), folder / "cache"


def test_all_sizes_alone_and_twice_then_random_sets(tmp_path: Path) -> None:
    found = run(tmp_path, tmp_path / "cache", 60.0)  # far more than it takes until all sets have been seen
    assert {(c.models, c.rows) for c in found.cells} >= {
        ((m,) * k, (n,) * k) for m in "ab" for n in (1, 2, 4) for k in (1, 2)
    }
    assert any(c.models == ("a", "b") for c in found.cells)
    assert all(s > 0 for c in found.cells for s in (*c.alone_s, *c.slowdown, c.core_s, c.energy_j))
    assert found.models["a"].memory_bytes > 1 << 20
    assert found.energy in ("measured", "modelled")


def test_what_was_measured_is_kept_through_an_interruption(
    tmp_path: Path, measured: tuple[ServingProfile, Path]
) -> None:
    first, cache = measured
    shutil.copytree(cache, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])  # cut off while it was written
    again = run(tmp_path, tmp_path / "cache")
    (*kept, lost) = [figures(Cell.model_validate_json(line)) for line in lines]  # not those that something disturbed
    assert set(kept) <= {figures(cell) for cell in first.cells} & {figures(cell) for cell in again.cells}
    assert lost not in {figures(cell) for cell in again.cells}
    whole = [Cell.model_validate_json(line) for line in path.read_text().splitlines() if line.endswith("}")]
    assert set(kept) <= {figures(cell) for cell in whole}
    assert {c.rows for c in whole} >= {Cell.model_validate_json(lines[-1]).rows}  # what came after the cut is whole


def figures(cell: Cell) -> tuple[object, ...]:
    """Of a cell, whatever its models are called."""
    return cell.rows, cell.alone_s, cell.slowdown


def test_another_machine_has_cells_of_its_own(tmp_path: Path, measured: tuple[ServingProfile, Path]) -> None:
    cache = CellCache(tmp_path, "one")
    cache.put(measured[0].cells[0])
    assert CellCache(tmp_path, "one").get(("a",), (1,)) is not None
    assert CellCache(tmp_path, "another").get(("a",), (1,)) is None


def test_misuse(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model"):
        asyncio.run(profile_models([], tmp_path, 0.0))
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        asyncio.run(profile_models([Wanted("bad", tmp_path / "bad.onnx", 1, 1, 1, 0.0, 5)], tmp_path, 0.0))
