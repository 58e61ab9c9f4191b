"""What a profile says, and what is learned from it about batches beside each other."""

import itertools
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.profile.interference import fit_interference, held_out_errors
from jouleflow.profile.serving import (
    Batch,
    Cell,
    ProfiledModel,
    ServingProfile,
    Wakes,
    load_profile,
    save_profile,
    with_wakes,
)

NEEDS_SKLEARN = pytest.mark.skipif(
    find_spec("sklearn") is None, reason="scikit-learn is not here: pip install 'jouleflow[profile]'"
)
PRESSURE, SENSITIVITY = {"a": 0.8, "b": 0.2, "c": 0.0}, {"a": 0.2, "b": 1.0, "c": 0.6}


def truth(batch: Batch, other: Batch) -> float:
    """A made-up machine: some batches press on others, more so with more rows, and some are more easily disturbed."""
    return 1.0 + SENSITIVITY[batch.model] * PRESSURE[other.model] * (1 + np.log2(other.n_rows)) / 4


def made_up_cells(noise: float = 0.0, seed: int = 0) -> list[Cell]:
    random, batches = np.random.default_rng(seed), [Batch(m, n) for m in "abc" for n in (1, 2, 4, 8)]
    cells = [
        Cell(models=(b.model,), rows=(b.n_rows,), alone_s=(1.0,), slowdown=(1.0,), core_s=1, energy_j=1)
        for b in batches
    ]
    for x, y in itertools.combinations_with_replacement(batches, 2):
        slow = (truth(x, y) * np.exp(noise * random.normal()), truth(y, x) * np.exp(noise * random.normal()))
        cells.append(
            Cell(
                models=(x.model, y.model),
                rows=(x.n_rows, y.n_rows),
                alone_s=(1.0, 1.0),
                slowdown=slow,
                core_s=2,
                energy_j=2,
            )
        )
    return cells


def profile() -> ServingProfile:
    models = {
        m: ProfiledModel(sha256="0" * 64, threads=1, max_batch=8, n_instances=2, slo_s=0.1, priority=5, memory_bytes=1)
        for m in "abc"
    }
    return ServingProfile(
        machine="made up",
        n_cores=2,
        energy="modelled",
        energy_source="none",
        models=models,
        cells=tuple(made_up_cells()),
    )


@NEEDS_SKLEARN
def test_held_out_sets_are_predicted_and_better_than_by_a_line() -> None:
    errors = held_out_errors(made_up_cells(noise=0.01))
    assert errors["net"][0] < 0.02
    assert errors["net"][0] < errors["linear"][0] < errors["none"][0]


@NEEDS_SKLEARN
def test_a_fitted_net_gives_what_it_was_taught() -> None:
    learned = fit_interference(made_up_cells())
    for batch, other in ((Batch("b", 2), Batch("a", 8)), (Batch("a", 1), Batch("c", 4))):
        assert learned.slowdown(batch, (other,)) == pytest.approx(truth(batch, other), rel=0.05)
    assert learned.slowdown(Batch("a", 1), ()) == 1.0


def test_too_few_sets_are_refused() -> None:
    with pytest.raises(InputError, match="at least 10"):
        fit_interference(made_up_cells()[:14])


def test_a_profile_is_read_again(tmp_path: Path) -> None:
    save_profile(profile(), tmp_path / "new" / "p.json")
    assert load_profile(tmp_path / "new" / "p.json") == profile()
    assert profile().latencies("a").at_rows == (1, 2, 4, 8)
    with pytest.raises(InputError, match="not 'z'"):
        profile().latencies("z")


def test_a_batch_takes_what_it_did_when_nothing_held_it_up() -> None:
    """One of its cells may be of a moment in which the machine was slow; a batch that is twice in a cell is measured once there."""
    cells = [
        Cell(models=models, rows=rows, alone_s=alone_s, slowdown=(1.0,) * len(rows), core_s=0.0, energy_j=0.0)
        for models, rows, alone_s in (
            (("a",), (1,), (9.0,)),
            (("a", "a"), (1, 1), (2.0, 2.0)),
            (("a", "b"), (1, 4), (1.0, 7.0)),
            (("a", "c"), (1, 4), (3.0, 7.0)),
            (("a",), (2,), (1.5,)),
        )
    ]
    latencies = profile().model_copy(update={"cells": tuple(cells)}).latencies("a")
    assert (latencies.at_rows, latencies.seconds) == ((1, 2), (2.0, 2.0))


def test_a_profile_of_before_wakes_were_measured_is_read(tmp_path: Path) -> None:
    old = profile().model_dump_json(exclude={"wakes": True, "models": {m: {"cold_spread_s"} for m in "abc"}})
    (tmp_path / "p.json").write_text(old)
    assert load_profile(tmp_path / "p.json") == profile()


@pytest.mark.parametrize(
    ("once", "now"),
    [
        ({"cold_s": 0.25}, (0.25,)),
        ({"cold_s": 0.25, "cold_spread_s": [0.125, 0.25, 0.75]}, (0.125, 0.25, 0.75)),
    ],
)
def test_a_profile_that_has_the_median_of_cold_batches_is_read(
    tmp_path: Path, once: dict[str, object], now: tuple[float, ...]
) -> None:
    told = profile().model_dump()
    told["models"]["a"] = {k: v for k, v in told["models"]["a"].items() if k != "cold_spread_s"} | once
    (tmp_path / "p.json").write_text(json.dumps(told))
    found = load_profile(tmp_path / "p.json")
    assert found.models["a"].cold_spread_s == now
    save_profile(found, tmp_path / "p.json")
    assert "cold_s" not in json.loads((tmp_path / "p.json").read_text())["models"]["a"]


def test_wakes_are_kept_by_busy_cores_and_idle_time(tmp_path: Path) -> None:
    wakes = Wakes(idle_s=(0.001,), spread_s=(((1.0,), (2.0,)), ((3.0,), (4.0,))))
    assert [wakes.spread(0, s) for s in (-1.0, 0.0005, 0.001, 9.0)] == [(1.0,), (1.0,), (2.0,), (2.0,)]
    assert wakes.spread(1, 0.0) == wakes.spread(7, 0.0) == (3.0,)
    assert Wakes().spread(0, 0.0) == ()
    save_profile(with_wakes(profile(), wakes), tmp_path / "p.json")
    assert load_profile(tmp_path / "p.json").wakes == wakes


@pytest.mark.parametrize("text", ["", "{}", '{"machine": 3}', "[" * 1000])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match="is no profile"):
        load_profile(tmp_path / "p.json")
    with pytest.raises(InputError, match="no profile"):
        load_profile(tmp_path / "absent.json")
