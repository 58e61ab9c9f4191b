"""The best that fixed choices could have done under a load that is known: each model has one choice of `policy.bcedge`, found by trying
all on the simulated box.

All combinations are tried where there are few. Otherwise the search goes one model after the other, all its choices with those of the
others as they are, until none improves, and that from several starts. What it finds is then only a bound from below on the best,
and said to be. A policy that changes its mind, or that has no recourse to the table, may be above either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from jouleflow.policy.batch import BatchPolicy
from jouleflow.policy.bcedge import BATCHES, CHOICES, GREEDY, INSTANCES, TABLE, BcEdge, Choice
from jouleflow.policy.utility import utility
from jouleflow.profile.interference import Interference
from jouleflow.sim.pace import Pace
from jouleflow.sim.serving import Float, ServingOutcome, SimModel, simulate_with

MAX_TRIED = 400  # combinations, beyond which models are taken in turn
MAX_PASSES = 4
WINDOW_S = 1.0
STARTS = (  # of the search: the nearest that a fixed choice comes to each policy
    TABLE,
    GREEDY,  # delay, and aimd once it has grown
    CHOICES.index(Choice(8, INSTANCES[-1], True)),  # fixed
    CHOICES.index(Choice(BATCHES[-1], INSTANCES[-1], True)),  # deeprt
)


@dataclass(frozen=True, slots=True)
class Oracle:
    """The choices by model, their value, and whether every combination was tried."""

    choices: Mapping[str, int]
    value: float
    exhaustive: bool

    @property
    def claim(self) -> str:
        """What the value is, for people."""
        return "best of all fixed choices" if self.exhaustive else "best found, a lower bound"


def mean_utility(outcome: ServingOutcome, load_s: float) -> float:
    """Over the models and the windows of a second in which requests of them were answered or should have been. load_s: as of
    `windowed_utility`."""
    values = [
        windowed_utility(m.arrival_s, m.latency_s, m.slo_s, load_s) for m in outcome.models.values() if m.n_requests
    ]
    return float(np.mean(values)) if values else 0.0


def windowed_utility(arrival_s: Float, latency_s: Float, slo_s: float, load_s: float) -> float:
    """Mean over windows of a second of the utility of the requests that came in them and were answered.

    load_s: for how long requests came, not until when they were answered: a run that ends just before or after a whole second
    would otherwise have a window more or less than another of the same load. What is left after the last whole second counts
    with the last window.
    """
    n = max(int(load_s / WINDOW_S), 1)
    span_s = np.full(n, WINDOW_S)
    span_s[-1] = load_s - (n - 1) * WINDOW_S
    window = np.minimum((arrival_s / WINDOW_S).astype(int), n - 1)
    count, total_s = np.bincount(window, minlength=n), np.bincount(window, latency_s, minlength=n)
    good = np.bincount(window, latency_s <= slo_s, minlength=n)
    return float(
        np.mean(
            [
                utility(int(g), t / c if c else slo_s, s, slo_s)
                for g, t, c, s in zip(good, total_s, count, span_s, strict=True)
            ]
        )
    )


def choices_worth_trying(model: SimModel, n_cores: int) -> tuple[int, ...]:
    """Those that differ for a model: no batch beyond its largest, no more at once than there are instances and cores."""
    seen: dict[Choice, int] = {}
    for number in range(len(CHOICES)):
        seen.setdefault(_effect(number, model, n_cores), number)
    return tuple(seen.values())


def _effect(number: int, model: SimModel, n_cores: int) -> Choice:
    """What a choice comes to for a model."""
    c = CHOICES[number]
    n_rows = min(c.n_rows, model.max_batch)
    return Choice(n_rows, min(c.n_instances, model.n_instances, n_cores), c.hold and n_rows > 1)


def constant(number: int) -> BatchPolicy:
    """A policy that always makes one choice, with the same recourse to the table as `bcedge`."""
    return BcEdge(lambda _: number, choice=CHOICES[number], ask_from=0.0)


def find_oracle(
    models: Mapping[str, SimModel],
    arrivals_s: Mapping[str, Float],
    n_cores: int,
    load_s: float,
    interference: Interference | None = None,
    value: Callable[[ServingOutcome, float], float] = mean_utility,
    pace: Pace | None = None,
) -> Oracle:
    """The best fixed choices for requests that arrive at those times, or the best that were found where there are too many to try. load_s:
    for how long they come.
    """
    known = dict[tuple[int, ...], float]()

    def worth(choices: Mapping[str, int]) -> float:
        key = tuple(choices[n] for n in models)
        if key not in known:
            policies = {n: constant(c) for n, c in choices.items()}
            known[key] = value(simulate_with(models, arrivals_s, n_cores, policies, interference, pace), load_s)
        return known[key]

    options: dict[str, Sequence[int]] = {n: choices_worth_trying(m, n_cores) for n, m in models.items()}
    exhaustive = bool(np.prod([len(o) for o in options.values()]) <= MAX_TRIED)
    found: list[Mapping[str, int]]
    if exhaustive:
        found = [dict(zip(options, each, strict=True)) for each in product(*options.values())]
    else:
        found = [
            _climbed({n: _same(start, m, n_cores, options[n]) for n, m in models.items()}, options, worth)
            for start in STARTS
        ]
    best = max(found, key=worth)
    return Oracle(best, worth(best), exhaustive)


def _same(number: int, model: SimModel, n_cores: int, options: Sequence[int]) -> int:
    """Which of the options does the same for a model."""
    return next(o for o in options if _effect(o, model, n_cores) == _effect(number, model, n_cores))


def _climbed(
    chosen: Mapping[str, int], options: Mapping[str, Sequence[int]], worth: Callable[[Mapping[str, int]], float]
) -> Mapping[str, int]:
    """Where changing one model's choice at a time leads to."""
    for _ in range(MAX_PASSES):
        before = chosen
        for name in options:
            for option in options[name]:
                if worth({**chosen, name: option}) > worth(chosen) + 1e-6:
                    chosen = {**chosen, name: option}
        if chosen == before:
            break
    return chosen
