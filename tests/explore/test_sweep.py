"""Sweeps: every cell once, resumable, infeasible ones told, names escaped on the page."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from jouleflow.errors import InputError
from jouleflow.explore.page import advice, write_sweep_page
from jouleflow.explore.sweep import CELLS_FILE, Cell, Sweep, load_cells, run_sweep

MODEL = str(files("jouleflow") / "demo" / "digits_int8.onnx")
SWEEP = Sweep(MODEL, ("riotee",), ("rf_walk", "sun_june"), (5e-6, 100e-6, 1e-3), n_inferences=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep")
    run_sweep(SWEEP, path, jobs=2)
    return path


def test_every_cell_once(folder: Path) -> None:
    cells = load_cells(folder)
    assert len(cells) == len({c.key for c in cells}) == 6
    assert all(c.why for c in cells if c.capacitance_f == 5e-6)  # too small for any tile
    assert all(c.latency_s and c.energy_j and c.first_s for c in cells if c.capacitance_f >= 100e-6)


def test_goes_on_where_it_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (folder / CELLS_FILE).read_text().splitlines()
    # all but the last cell, and a line that a power failure cut
    (tmp_path / CELLS_FILE).write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:30])
    heard: list[tuple[int, int]] = []
    cells = run_sweep(SWEEP, tmp_path, jobs=1, progress=lambda done, of: heard.append((done, of)))
    assert heard[0] == (5, 6)
    assert heard[-1] == (6, 6)
    assert {c.key: c for c in cells} == {c.key: c for c in load_cells(folder)}


def test_a_cut_line_is_left_out_and_a_foreign_file_refused(folder: Path, tmp_path: Path) -> None:
    text = (folder / CELLS_FILE).read_text()
    (tmp_path / CELLS_FILE).write_text(text[: len(text) - 20])
    assert len(load_cells(tmp_path)) == 5
    (tmp_path / CELLS_FILE).write_text("hello\nworld\n")
    with pytest.raises(InputError, match="line 1: not a cell"):
        load_cells(tmp_path)


@pytest.mark.parametrize(
    "change", [{"systems": ()}, {"capacitances_f": (1e-3, 1e-3)}, {"planners": ("tiles",)}, {"n_inferences": 0}]
)
def test_misuse_is_told(change: dict) -> None:
    with pytest.raises(InputError):
        replace(SWEEP, **change)


def test_page_answers_the_question_and_escapes_names(folder: Path, tmp_path: Path) -> None:
    cells = [replace(c, system="</script><b>x") for c in load_cells(folder)]
    page = write_sweep_page(cells, "<i>model", tmp_path / "explore.html", 10.0).read_text()
    assert "<i>model" not in page
    assert "</script><b>x" not in page
    assert page.count("data-figure=") >= 3


def test_advice_takes_the_smallest_that_is_nearly_best() -> None:
    world = Cell("k", "riotee", "rf_walk", 0.0, None, "tile", 1.0, 1.0, 1.0, 1e-3, 0, 10)
    cells = [replace(world, capacitance_f=c, latency_s=s) for c, s in ((1e-4, 2.0), (2e-4, 1.05), (1e-3, 1.0))]
    assert "200 µF" in advice(cells)[0]
    assert "none of these" in advice([replace(world, latency_s=None)])[0]


def test_a_budget_beyond_the_board_is_one_cell_without_a_plan(tmp_path: Path) -> None:
    sweep = Sweep(MODEL, ("riotee", "apollo4"), ("rf_walk",), (470e-6,), sram_bytes=(256 * 1024,), n_inferences=3)
    riotee, apollo4 = run_sweep(sweep, tmp_path, jobs=1)
    assert "exceeds" in riotee.why
    assert apollo4.latency_s
