"""The best that fixed choices could have done under a load that is known: each model has one choice of `policy.bcedge`, found by trying
all on the simulated box.

All combinations are tried where there are few; otherwise one model after the other, all its choices with those of the others as
they are, until none improves. That is then a bound from below on the best, and said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from jouleflow.policy.batch import BatchPolicy
from jouleflow.policy.bcedge import CHOICES, TABLE, BcEdge, Choice
from jouleflow.policy.utility import utility
from jouleflow.profile.interference import Interference
from jouleflow.sim.serving import Float, ServingOutcome, SimModel, simulate_with

MAX_TRIED = 400  # combinations, beyond which models are taken in turn
MAX_PASSES = 4
WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Oracle:
    """The choices by model, their value, and whether every combination was tried."""

    choices: Mapping[str, int]
    value: float
    exhaustive: bool


def mean_utility(outcome: ServingOutcome) -> float:
    """Over the models and the windows of a second in which requests of them were answered or should have been."""
    values = [
        windowed_utility(m.arrival_s, m.latency_s, m.slo_s, outcome.duration_s)
        for m in outcome.models.values()
        if m.n_requests
    ]
    return float(np.mean(values)) if values else 0.0


def windowed_utility(arrival_s: Float, latency_s: Float, slo_s: float, duration_s: float) -> float:
    """Mean over windows of a second of the utility of the requests that came in them and were answered."""
    n = max(int(duration_s / WINDOW_S), 1)
    window = np.minimum((arrival_s / WINDOW_S).astype(int), n - 1)
    count, total_s = np.bincount(window, minlength=n), np.bincount(window, latency_s, minlength=n)
    good = np.bincount(window, latency_s <= slo_s, minlength=n)
    return float(
        np.mean(
            [
                utility(int(g), t / c if c else slo_s, WINDOW_S, slo_s)
                for g, t, c in zip(good, total_s, count, strict=True)
            ]
        )
    )


def choices_worth_trying(model: SimModel, n_cores: int) -> tuple[int, ...]:
    """Those that differ for a model: no batch beyond its largest, no more at once than there are instances and cores."""
    most = min(model.n_instances, n_cores)
    seen: dict[Choice, int] = {}
    for number, c in enumerate(CHOICES):
        same = Choice(
            min(c.n_rows, model.max_batch), min(c.n_instances, most), c.hold and min(c.n_rows, model.max_batch) > 1
        )
        seen.setdefault(same, number)
    return tuple(seen.values())


def constant(number: int) -> BatchPolicy:
    """A policy that always makes one choice, with the same recourse to the table as `bcedge`."""
    return BcEdge(lambda _: number, choice=CHOICES[number])


def find_oracle(
    models: Mapping[str, SimModel],
    arrivals_s: Mapping[str, Float],
    n_cores: int,
    interference: Interference | None = None,
    value: Callable[[ServingOutcome], float] = mean_utility,
) -> Oracle:
    """The best fixed choices for requests that arrive at those times."""

    def worth(choices: Mapping[str, int]) -> float:
        policies = {n: constant(c) for n, c in choices.items()}
        return value(simulate_with(models, arrivals_s, n_cores, policies, interference))

    options: dict[str, Sequence[int]] = {n: choices_worth_trying(m, n_cores) for n, m in models.items()}
    if np.prod([len(o) for o in options.values()]) <= MAX_TRIED:
        tried = [dict(zip(options, each, strict=True)) for each in product(*options.values())]
        values = [worth(t) for t in tried]
        best = int(np.argmax(values))
        return Oracle(tried[best], values[best], True)
    chosen = dict.fromkeys(models, TABLE)
    best_value = worth(chosen)
    for _ in range(MAX_PASSES):
        improved = False
        for name in models:
            for option in options[name]:
                if option != chosen[name] and (found := worth({**chosen, name: option})) > best_value + 1e-6:
                    chosen, best_value, improved = {**chosen, name: option}, found, True
        if not improved:
            break
    return Oracle(chosen, best_value, False)
