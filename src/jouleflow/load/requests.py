"""A profile completed by what only a server shows: what requests cost and wait for, and how long a row takes when there is little to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jouleflow.load.front import measure_front
from jouleflow.load.light import measure_light
from jouleflow.load.wakes import measure_wakes
from jouleflow.profile.serving import ServingProfile, with_costs, with_wakes
from jouleflow.runtime.colocation import Wanted


def measure_requests(profile: ServingProfile, folder: Path, wanted: Sequence[Wanted]) -> ServingProfile:
    """The profile of the models of a folder, with what requests of each cost, longer_s, and wakes.

    Raises InputError when a server of the folder does not start, or answers otherwise than it should.
    """
    row_s = {name: profile.latencies(name).of(1) for name in profile.models}
    costs, longer_s = (
        measure_front(folder, row_s, profile.n_cores),
        measure_light(folder, wanted, row_s, profile.n_cores),
    )
    for name, cost in costs.items():
        profile = with_costs(profile, name, {**asdict(cost), "longer_s": longer_s.get(name, 0.0)})
    cheapest = min(costs, key=lambda name: costs[name].refusal_s)  # what waits is not what is read: it is of the box
    return with_wakes(profile, measure_wakes(folder, cheapest, costs[cheapest], profile.n_cores))
