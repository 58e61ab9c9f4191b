"""A profile completed by what requests cost and wait for beside their models."""

from __future__ import annotations

from pathlib import Path

from jouleflow.load.front import measure_front
from jouleflow.load.wakes import measure_wakes
from jouleflow.profile.serving import ServingProfile, with_front, with_wakes


def measure_requests(profile: ServingProfile, folder: Path) -> ServingProfile:
    """The profile of the models of a folder, with front_s, refusal_s and client_s of each, and wakes.

    Raises InputError when a server of the folder does not start, or answers otherwise than it should.
    """
    costs = measure_front(folder, {name: profile.latencies(name).of(1) for name in profile.models})
    for name, cost in costs.items():
        profile = with_front(profile, name, cost.request_s, cost.refusal_s, cost.client_s)
    cheapest = min(costs, key=lambda name: costs[name].refusal_s)  # what waits is not what is read: it is of the box
    return with_wakes(profile, measure_wakes(folder, cheapest, costs[cheapest], profile.n_cores))
