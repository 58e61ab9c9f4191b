"""One profile of several of the same box: a machine has faster and slower minutes, and what was measured in many says more of the next."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from jouleflow.errors import InputError
from jouleflow.profile.serving import ProfiledModel, ServingProfile, Wakes

COSTS = ("front_s", "warm_s", "wake_s", "refusal_s", "client_s", "longer_s")


def merge_profiles(parts: Sequence[ServingProfile]) -> ServingProfile:
    """All cells, all values to draw from, and of each cost of a request the median.

    Raises InputError when there is none, or they are not of the same box and models.
    """
    if not parts:
        raise InputError("no profile to merge: at least one is needed")
    first = parts[0]
    for part in parts[1:]:
        if (part.n_cores, part.energy, _files(part)) != (first.n_cores, first.energy, _files(first)):
            raise InputError("only profiles of the same cores, energy and models can be merged: profile the box anew")
        if (part.wakes.idle_s, len(part.wakes.spread_s)) != (first.wakes.idle_s, len(first.wakes.spread_s)):
            raise InputError("only profiles whose waits were measured alike can be merged: profile the box anew")
    return first.model_copy(
        update={
            "models": {name: _merged([part.models[name] for part in parts]) for name in first.models},
            "cells": tuple(cell for part in parts for cell in part.cells),
            "n_disturbed": sum(part.n_disturbed for part in parts),
            "wakes": _merged_wakes([part.wakes for part in parts]),
        }
    )


def _files(profile: ServingProfile) -> dict[str, str]:
    return {name: model.sha256 for name, model in profile.models.items()}


def _merged(parts: Sequence[ProfiledModel]) -> ProfiledModel:
    costs = {
        "memory_bytes": max(p.memory_bytes for p in parts),
        **{cost: median([getattr(p, cost) for p in parts]) for cost in COSTS},
        "cold_spread_s": tuple(sorted(s for p in parts for s in p.cold_spread_s)),
    }
    return parts[0].model_copy(update=costs)


def _merged_wakes(parts: Sequence[Wakes]) -> Wakes:
    n_busy, n_idle = len(parts[0].spread_s), len(parts[0].idle_s) + 1
    spreads = tuple(
        tuple(tuple(sorted(s for p in parts for s in p.spread_s[busy][idle])) for idle in range(n_idle))
        for busy in range(n_busy)
    )
    return parts[0].model_copy(update={"spread_s": spreads})
