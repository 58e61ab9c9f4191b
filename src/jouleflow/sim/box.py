"""From a measured profile to a simulated box, and what load the box will hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from jouleflow.errors import Infeasible, InputError
from jouleflow.policy.batch import AT_ONCE, Delay
from jouleflow.policy.policies import policy_maker
from jouleflow.policy.queue import MAX_JOBS
from jouleflow.profile.interference import Interference
from jouleflow.profile.serving import ProfiledModel, ServingProfile, Wakes, light_rate_hz, mean_lost_frac
from jouleflow.sim.pace import Pace
from jouleflow.sim.serving import WARMED_FRAC, Front, ServingOutcome, SimModel, simulate_with
from jouleflow.trace.arrivals import make_arrivals
from jouleflow.units import format_quantity

STEPS = 7  # of the search: the rate is found within 1 %
HEADROOM = 1.3  # over what the cores or the server's loop could do if nothing else took time: nothing above can be held
MAX_REQUESTS = 40_000  # of a run, which is then shorter
PARTS = 2  # of a request: reading it, and answering it some time later
WITHIN_FRAC = 0.2  # of what the server's loop does for a request, what lies between the start and the end of its batch
MOST_BUSY_FRAC = 0.5  # of the cores of a server with little to do
LEAST_SLOS = 20  # but lasts as many of the longest SLO: time for a queue to grow


@dataclass(frozen=True, slots=True)
class ServedAs:
    """What no profile says of a model, as it is not measured: what the policy `delay` does for it, and how many
    requests may wait."""

    delay: Delay = AT_ONCE
    max_queue: int = MAX_JOBS


def sim_models(
    profile: ServingProfile, with_clients: bool = True, served_as: Mapping[str, ServedAs] | None = None
) -> dict[str, SimModel]:
    """The models of a profile. with_clients: whether clients share the cores, as they did when it was measured. served_as: of each, or of
    some."""
    how = {name: ServedAs() for name in profile.models} | dict(served_as or {})
    pace = fmean(profile.pace_spread() or (1.0,))
    return {
        name: SimModel(
            profile.latencies(name), m.slo_s, m.max_batch, m.n_instances, m.priority, how[name].max_queue,
            front=_front(profile, m, with_clients, pace),
            idle_spread_s=_idle_spread_s(profile, name, pace), delay=how[name].delay,
        )
        for name, m in profile.models.items()
    }  # fmt: skip


def _front(profile: ServingProfile, model: ProfiledModel, with_clients: bool, pace: float) -> Front:
    """What requests cost on a calm machine: they were measured at its mean pace, and the simulation has its own."""
    each_s, client_s = (model.warm_s or model.front_s) / 2 / pace, model.client_s / pace if with_clients else 0.0
    return Front(
        each_s, each_s, client_s, max(model.refusal_s / pace - each_s, 0.0), profile.wakes if with_clients else Wakes(), model.wake_s / pace,
    )  # fmt: skip


def _idle_spread_s(profile: ServingProfile, name: str, pace: float) -> tuple[float, ...]:
    """What to draw from of what a batch takes more on a box that has not been busy lately: as much as makes the mean what it is on a server
    with little to do, at the machine's mean pace, and as scattered as what was measured of cold cores."""
    model = profile.models[name]
    if not model.cold_spread_s or not any(model.cold_spread_s):
        return ()
    row_s = {n: profile.latencies(n).of(1) for n in profile.models}
    cold_s = fmean(model.cold_spread_s)
    rate_hz = light_rate_hz(row_s, profile.n_cores)
    loop_s = model.warm_s + PARTS * model.wake_s * mean_lost_frac(rate_hz * len(row_s) * PARTS)
    longer_s = model.longer_s - WITHIN_FRAC * loop_s
    longer_s = max((row_s[name] + longer_s) / pace - row_s[name], 0.0) if model.longer_s else cold_s
    served_s = sum(row_s[n] + m.longer_s for n, m in profile.models.items())
    busy_frac = min(rate_hz * served_s / profile.n_cores, MOST_BUSY_FRAC)
    return tuple(s / cold_s * longer_s / (1 - WARMED_FRAC * busy_frac) for s in model.cold_spread_s)


@dataclass(frozen=True, slots=True)
class Held:
    """A load that a box holds: requests a second of each model, of which in_time_frac are in time; all modelled.

    power_w counts what batches and requests cost, not what the machine spends anyhow.
    """

    rate_hz: Mapping[str, float]
    in_time_frac: Mapping[str, float]
    p99_s: Mapping[str, float]
    busy_frac: float
    j_per_request: float
    power_w: float


def busy_power_w(profile: ServingProfile) -> float:
    """Of a core that runs batches: the median over those measured alone."""
    alone = [c for c in profile.cells if len(c.models) == 1]
    return float(np.median([c.energy_j / c.alone_s[0] for c in alone])) if alone else 0.0


def energy_j(profile: ServingProfile, outcome: ServingOutcome) -> float:
    """Of a simulated run: its busy core seconds at the power of a busy core."""
    return (outcome.busy_s + outcome.front_s) * busy_power_w(profile)


def load_held(
    profile: ServingProfile,
    interference: Interference,
    policy: str,
    mix: Mapping[str, float] | None = None,
    least_frac: float = 0.99,
    arrivals: str = "poisson",
    duration_s: float = 20.0,
    seed: int = 0,
    with_clients: bool = False,
    served_as: Mapping[str, ServedAs] | None = None,
    policy_net: Path | None = None,
) -> Held:
    """The highest load, its parts as in mix (equal when None), at which least_frac of the requests of every model are in time, over
    duration_s or some ten thousand requests. Every model is asked at least once, however small its share. policy_net: as of
    `policy_maker`.

    Raises InputError for a mix of other models, or a model without an SLO; Infeasible when not even a thousandth of what the cores
    could do is held.
    """
    mix = dict(mix) if mix else dict.fromkeys(profile.models, 1.0)
    if unknown := sorted(set(mix) - set(profile.models)) or sorted(n for n, share in mix.items() if share <= 0):
        raise InputError(f"mix names {unknown}: give shares above 0 of {sorted(profile.models)}")
    if unset := sorted(n for n in mix if not profile.models[n].slo_s):
        raise InputError(f"no SLO for {unset}: set slo_ms in jouleflow.toml and profile again, or nothing is ever late")
    models = {n: m for n, m in sim_models(profile, with_clients, served_as).items() if n in mix}
    total = sum(mix.values())
    mix = {n: share / total for n, share in mix.items()}

    make, pace = policy_maker(policy, policy_net), Pace(profile.pace_spread(), seed)
    least_s = min(LEAST_SLOS * max(m.slo_s for m in models.values()), duration_s)

    def run(rate_hz: float) -> tuple[float, ServingOutcome]:
        random = np.random.default_rng(seed)
        seconds = min(max(MAX_REQUESTS / rate_hz, least_s), duration_s)
        times = {n: make_arrivals(arrivals, rate_hz * share, seconds, random) for n, share in mix.items()}
        times = {n: t if len(t) else random.uniform(0, seconds, 1) for n, t in times.items()}
        policies = {n: make(m.delay) for n, m in models.items()}
        outcome = simulate_with(models, times, profile.n_cores, policies, interference, pace)
        return min(m.in_time_frac for m in outcome.models.values()), outcome

    cost_s = sum(
        share * min(models[n].latencies.of(r) / r for r in models[n].latencies.at_rows) for n, share in mix.items()
    )
    loop_s = sum(share * (models[n].front.request_s + models[n].front.answer_s) for n, share in mix.items())
    high_hz = HEADROOM / max(cost_s / profile.n_cores, loop_s)
    low_hz, held = high_hz / 1e3, None
    for _ in range(STEPS + 3):
        middle_hz = (low_hz + high_hz) / 2
        frac, outcome = run(middle_hz)
        if frac >= least_frac:
            low_hz, held = middle_hz, outcome
        else:
            high_hz = middle_hz
    if held is None:
        frac, held = run(low_hz)
        if frac < least_frac:
            raise Infeasible(_why_nothing_is_held(models, held, policy, low_hz))
    spent_j = energy_j(profile, held)
    return Held(
        {n: low_hz * share for n, share in mix.items()},
        {n: m.in_time_frac for n, m in held.models.items()},
        {n: float(np.percentile(m.latency_s, 99)) if len(m.latency_s) else 0.0 for n, m in held.models.items()},
        held.busy_s / held.duration_s / profile.n_cores,
        spent_j / max(sum(len(m.latency_s) for m in held.models.values()), 1),
        spent_j / held.duration_s,
    )


def _why_nothing_is_held(models: Mapping[str, SimModel], outcome: ServingOutcome, policy: str, rate_hz: float) -> str:
    """Of a run in which hardly anything was asked and yet too much was late."""
    name = min(outcome.models, key=lambda n: outcome.models[n].in_time_frac)
    model = models[name]
    row, idle, slo = (format_quantity(s, "s") for s in (model.latencies.of(1), model.idle_s, model.slo_s))
    return (
        f"no load is held under {policy}: of {rate_hz:.3g} requests/s only {outcome.models[name].in_time_frac:.0%} of those of {name} are "
        f"in time; a row of it takes {row}{f' and {idle} more on a box that was idle' if model.idle_s else ''}, and its SLO is {slo}: "
        f"raise slo_ms in its jouleflow.toml, or serve a smaller model"
    )
