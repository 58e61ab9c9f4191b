"""iNAS's cost model and our execution on it."""

import csv
import os
from pathlib import Path

import pytest

from jouleflow.errors import Infeasible
from jouleflow.plan.inas import (
    LIMIT_FRAC,
    ResistorSource,
    inas_cycle,
    inas_latency_s,
    plan_layer,
    run_hyper_tiles,
    solution_layer,
)
from jouleflow.profile.inas_costs import ENERGY, VM_BYTES, WORD_BYTES, ConvLayer, LoopTile

LAYER = ConvLayer(12, 12, 24, 24, (3, 3), 1)


def shipped() -> list[dict[str, str]]:
    data = Path(os.environ.get("JOULEFLOW_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data.parent / "systems" / "inas_solutions.csv"
    if not path.exists():
        pytest.skip("the shipped iNAS solutions (systems/inas_solutions.csv beside the recorded data) are not here")
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("published_recharge", "total_s"), [(True, 1199.0), (False, 958.0)])
def test_totals_of_the_shipped_cifar_plan(published_recharge: bool, total_s: float) -> None:
    source = ResistorSource(5e-3)
    rows = [r for r in shipped() if (r["app"], r["capacitance_f"], r["op"]) == ("cifar", "0.005", "conv")]
    total = sum(inas_latency_s(*solution_layer(r), source, published_recharge) for r in rows)
    assert total == pytest.approx(total_s, rel=0.01)


def test_one_cycle_by_hand() -> None:
    # one output of a 1 x 1 convolution with one channel: fetch input and weight, one vector command, save
    tile = LoopTile(1, 1, 1, 1, "reuse_O")
    read, write, vmac = 2.27e-7, 2.20175e-7, 2.049373e-7
    adds, muls = 3.936e-9, 1.925e-8
    overheads = (7 + 8 + 7 + 3 + 7) * adds + (5 + 9 + 5 + 3 + 5) * muls
    progress = 4 * 2.7e-8 + 2.0e-7 + 4 * 2.6815e-8 + 1.9336e-7
    expected = 77.88e-6 + 2 * read + vmac + adds + write + overheads + progress
    assert inas_cycle(ENERGY, ConvLayer(1, 1, 1, 1, (1, 1), 1), tile, 1, True) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("capacitance_f", [1e-3, 5e-3, 10e-3])
def test_plan_fits_memory_and_charge(capacitance_f: float) -> None:
    source = ResistorSource(capacitance_f)
    plan = plan_layer(LAYER, source)
    held = 1 if plan.tile.order == "reuse_O" else plan.group
    assert plan.tile.buffer_words(LAYER, held) * WORD_BYTES <= VM_BYTES
    assert plan.resume[1] + max(plan.first[1], plan.next[1]) <= LIMIT_FRAC * source.charge_j


def test_stopping_in_time_is_never_worse_and_energy_adds_up() -> None:
    source = ResistorSource(1e-3)
    plan = [plan_layer(LAYER, source)]
    blind, informed = (run_hyper_tiles(plan, source, stop_early=stop) for stop in (False, True))
    assert informed.latency_s <= blind.latency_s
    again_j = (informed.n_cycles - 1) * plan[0].resume[1]
    assert informed.energy_j == pytest.approx(plan[0].energy_j + again_j + ENERGY.reboot, rel=1e-9)


def test_plan_beats_a_shipped_style_tile() -> None:
    source = ResistorSource(5e-3)
    theirs = inas_latency_s(LAYER, LoopTile(2, 4, 1, 24, "reuse_I"), 24, source, published_recharge=False)
    assert run_hyper_tiles([plan_layer(LAYER, source)], source, stop_early=True).latency_s < theirs


def test_too_small_a_store_is_refused() -> None:
    with pytest.raises(Infeasible, match="larger capacitor"):
        plan_layer(LAYER, ResistorSource(1e-4))
