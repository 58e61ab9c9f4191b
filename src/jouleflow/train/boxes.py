"""Boxes to learn on: made up, each different, or one that was measured under loads that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jouleflow.profile.interference import Interference, NoInterference, Pairwise
from jouleflow.profile.latencies import Latencies
from jouleflow.profile.serving import ServingProfile
from jouleflow.sim.box import sim_models
from jouleflow.sim.serving import Front, SimModel
from jouleflow.trace.arrivals import make_arrivals

Float = NDArray[np.float64]
SIZES = (1, 2, 4, 8, 16, 32)
MAX_RATE_HZ = 400.0  # of a model: more takes long to simulate and teaches nothing new
CONTENDED_FRAC = 0.4  # of the boxes have models whose own batches disturb each other badly, as on an accelerator
OVERLOADED_FRAC = 0.25  # of the boxes are asked for more than they can do
KINDS = ("poisson", "bursty", "diurnal")


@dataclass(frozen=True, slots=True)
class World:
    """A box, and what comes to it."""

    models: Mapping[str, SimModel]
    arrivals_s: Mapping[str, Float]
    n_cores: int
    interference: Interference


def made_up_world(random: np.random.Generator, duration_s: float) -> World:
    """One to eight models on two to four cores, from 0.1 to 30 ms a row, loaded with 0.1 to 3 times what the cores can do. Half of the
    boxes have their clients on other machines."""
    n_cores = int(random.choice((2, 2, 2, 3, 4)))
    names = [f"m{k}" for k in range(random.integers(1, 9))]
    front_s = 10 ** random.uniform(-5.3, -4.3)
    front = Front(front_s, front_s, front_s if random.random() < 0.5 else 0.0, front_s / 2)
    models = {}
    for name in names:
        row_s, fixed_frac = 10 ** random.uniform(-4, -1.5), random.choice((0.0, 0.1, 0.3, 0.6, 0.9))
        slo_s = float(np.clip(row_s * 10 ** random.uniform(0.6, 2.0), 0.02, 0.5))
        seconds = tuple(float(row_s * (fixed_frac + (1 - fixed_frac) * n)) for n in SIZES)
        n_instances = n_cores if random.random() < 0.8 else 1
        models[name] = SimModel(
            Latencies(SIZES, seconds), slo_s, int(random.choice((8, 16, 32))), n_instances, front=front
        )
    contended = random.random() < CONTENDED_FRAC
    beside = Pairwise(
        {
            (a, b): float(random.uniform(1.5, 3.5) if contended and a == b else 1 + 0.5 * random.random() ** 3)
            for a in names
            for b in names
        }
    )
    load = _load(random)
    shares = random.dirichlet(np.ones(len(names)))
    rates = {
        n: min(load * n_cores * s / models[n].latencies.of(1), MAX_RATE_HZ) for n, s in zip(names, shares, strict=True)
    }
    return World(models, _arrivals(rates, random, duration_s), n_cores, beside)


def measured_world(
    profile: ServingProfile, interference: Interference | None, random: np.random.Generator, duration_s: float
) -> World:
    """A measured box under a random load of 0.1 to 3 times what its cores can do, in random shares."""
    models = {n: m for n, m in sim_models(profile).items() if m.slo_s}
    shares = random.dirichlet(np.ones(len(models)))
    load = _load(random)
    rates = {
        n: min(load * profile.n_cores * s / m.latencies.of(1), MAX_RATE_HZ)
        for (n, m), s in zip(models.items(), shares, strict=True)
    }
    return World(models, _arrivals(rates, random, duration_s), profile.n_cores, interference or NoInterference())


def _load(random: np.random.Generator) -> float:
    """Of what the cores can do: mostly less, some more."""
    return float(random.uniform(0.1, 1.3) if random.random() < 1 - OVERLOADED_FRAC else random.uniform(1.3, 3.0))


def _arrivals(rates_hz: Mapping[str, float], random: np.random.Generator, duration_s: float) -> dict[str, Float]:
    """An episode may be far shorter than what is made for it, so that a day begins anywhere."""
    return {
        n: make_arrivals(str(random.choice(KINDS)), max(hz, 1.0), duration_s, random, float(random.random()))
        for n, hz in rates_hz.items()
    }
