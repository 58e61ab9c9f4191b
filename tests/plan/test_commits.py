"""Commit placement: cheaper than any other choice on small cases, and every hyper-tile fits a charge."""

from itertools import combinations

import numpy as np
import pytest

from jouleflow.device.load import load_system
from jouleflow.errors import Infeasible
from jouleflow.plan.commits import boundaries, place_commits, summary
from jouleflow.plan.lowering import lower
from jouleflow.plan.plan import Step, Tile
from jouleflow.profile.profile import Profile, StepProfile
from tests.contracts.networks import NETWORKS


def case(charge_scale: float):
    lowered = lower(NETWORKS["residual add"]())
    steps = tuple(
        Step(Tile(op.output.rows if k == 0 else 4, op.output.cols, op.output.channels))
        for k, op in enumerate(lowered.ops)
    )
    device = load_system("riotee").device.with_capacitance(100e-6)
    unit = device.store.usable_j * charge_scale
    profiles = []
    for k in range(len(steps)):
        n = 1 if k == 0 else 2
        profiles.append(
            StepProfile(
                *(np.zeros(n, np.int64),) * 2, np.full(n, unit / 0.01), np.full(n, unit), *(np.zeros(n, np.int64),) * 2
            )
        )
    profile = Profile("riotee", tuple(profiles), 1e-5, 1e-7, 1e-5, 1e-7, "modelled")
    resident = frozenset(range(len(lowered.buffer_bytes)))
    return lowered, steps, resident, profile, device


def test_every_hyper_tile_fits_a_charge() -> None:
    lowered, steps, resident, profile, device = case(0.3)
    placed = place_commits(lowered, steps, resident, profile, device, 1e-4)
    assert placed.certificate.holds
    assert placed.commits[-1] == (len(lowered.ops), 0)
    assert len(placed.commits) > 2


def test_plentiful_power_needs_one_commit() -> None:
    lowered, steps, resident, profile, device = case(0.05)
    placed = place_commits(lowered, steps, resident, profile, device, 10.0)
    assert placed.commits == ((len(lowered.ops), 0),)


def test_capacitor_too_small_names_one_that_works() -> None:
    lowered, steps, resident, profile, device = case(1.2)
    with pytest.raises(Infeasible, match=r"--capacitor \d+uF") as caught:
        place_commits(lowered, steps, resident, profile, device, 1e-4)
    farads = float(caught.value.nearest.removeprefix("--capacitor ").removesuffix("uF")) * 1e-6
    placed = place_commits(lowered, steps, resident, profile, device.with_capacitance(farads), 1e-4)
    assert placed.certificate.holds


@pytest.mark.parametrize("harvest_w", [1e-4, 3e-3])
@pytest.mark.parametrize("scale", [0.02, 0.1, 0.25])
def test_equals_brute_force(scale: float, harvest_w: float) -> None:
    lowered, steps, resident, profile, device = case(scale)
    best = place_commits(lowered, steps, resident, profile, device, harvest_w)
    places = boundaries(lowered, steps, resident, profile, device)
    n = len(places)
    assert n <= 16
    costs = {}
    for r in range(n - 1):
        for inner in combinations(range(1, n - 1), r):
            try:
                placed = summary(places, [*inner, n - 1], device, harvest_w)
            except Infeasible:
                continue
            costs[placed.commits] = placed.expected_j
    assert best.expected_j == pytest.approx(min(costs.values()), rel=1e-9)
    assert costs[best.commits] == pytest.approx(best.expected_j, rel=1e-9)
