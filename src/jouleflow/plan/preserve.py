"""Ways to preserve progress, on the same tiles and kernels: the published ones, and ours that reads the voltage.

Each gives commit positions and how they are made (`Preservation`). Our reconstructions of the published policies: they
share our engine, records and checks, so that only what they preserve, and when, differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible
from jouleflow.plan.commits import MARGIN_FRAC, Boundaries, CommitPlan, flush_price, summary
from jouleflow.plan.plan import Preservation
from jouleflow.profile.profile import costs_at_store

CHECKS_PER_CHARGE = 256  # how often the adaptive plan looks at the voltage
SENSE_MARGIN_FRAC = 0.03  # of a charge: what the reading may be off by


NEVER_J = 1e9  # more than any store holds: a commit that is never skipped, a rest that is always taken


@dataclass(frozen=True, slots=True)
class Preserved:
    """Commits and the way they are made."""

    placed: CommitPlan
    preservation: Preservation


def _layer_ends(places: Boundaries) -> list[int]:
    return [p for p in range(1, len(places)) if places.at.tile[p] == 0]


def layer(places: Boundaries, device: Device, harvest_w: float) -> Preserved:
    """A commit after every layer: the plain form of most task-based systems."""
    return Preserved(summary(places, _layer_ends(places), device, harvest_w), Preservation())


def loop(places: Boundaries, device: Device, harvest_w: float) -> Preserved:
    """Loop continuation after SONIC: progress is saved in every iteration; here an iteration is a tile, at the grain (all
    of them, or every second, fourth ... one) of least expected energy."""
    return _best_grain(places, device, harvest_w, Preservation())


def stateful(places: Boundaries, device: Device, harvest_w: float) -> Preserved:
    """Progress inside the outputs, after stateful neural networks: each output carries a bit of state, no record is
    written, and after a failure the last output written is found by bisection. Modelled only: the bit is one of the
    output's own, so the answers are not those of the model. At the grain of least expected energy."""
    return _best_grain(places, device, harvest_w, Preservation(in_outputs=True))


def _best_grain(places: Boundaries, device: Device, harvest_w: float, how: Preservation) -> Preserved:
    found: list[CommitPlan] = []
    ends = set(_layer_ends(places))
    for grain in (1, 2, 4, 8, 16, 32):
        chain = [p for p in range(1, len(places)) if p in ends or p % grain == 0]
        try:
            found.append(summary(places, chain, device, harvest_w, how=how))
        except Infeasible as error:
            refused = error
    if not found:
        raise refused
    return Preserved(min(found, key=lambda plan: plan.expected_j), how)


def footprint(places: Boundaries, device: Device, harvest_w: float) -> Preserved:
    """A fixed amount of work each power cycle, then shut down until the store is full, after HAWAII and iNAS; the amount is
    as large as fits a charge."""
    budget_j = MARGIN_FRAC * device.store.usable_j - costs_at_store(device).boot_j
    chain: list[int] = []
    start = 0
    while start < len(places) - 1:
        kept = places.held[start]
        fits = start
        for p in range(start + 1, len(places)):
            new_bytes = sum(max(size - kept.get(b, 0), 0) for b, size in places.held[p].items())
            price_j = flush_price(device, new_bytes, places.n_held[p]).j
            if places.at.energy_j[p] - places.at.energy_j[start] + price_j + places.recovery_j[start] <= budget_j:
                fits = p
            elif places.at.energy_j[p] - places.at.energy_j[start] > budget_j:
                break
        if fits == start:
            summary(places, [*chain, start + 1], device, harvest_w)  # raises: nothing fits
            start += 1
            continue
        chain.append(fits)
        start = fits
    return Preserved(summary(places, chain, device, harvest_w), Preservation(rest_below_j=_always(chain)))


def _always(chain: list[int]) -> tuple[float, ...]:
    """Rest after every commit but the last, which is followed by the answer."""
    return (*[NEVER_J] * (len(chain) - 1), 0.0)


def _commit_j(places: Boundaries, p: int, device: Device, kept: dict[int, int] | None = None) -> float:
    """A commit at a place, of all that is live or of what is new since `kept`."""
    before = kept or {}
    new = [size - before.get(b, 0) for b, size in places.held[p].items() if size > before.get(b, 0)]
    return float(flush_price(device, sum(new), len(new)).j)


def _require_sensor(device: Device) -> None:
    if device.sense_s <= 0:
        raise Infeasible(
            f"{device.name} cannot read its store's voltage (boot.sense_s is 0)",
            "--planner tile, or a board with a sensor",
        )


def jit(places: Boundaries, device: Device, harvest_w: float) -> Preserved:
    """Just-in-time checkpoints after Hibernus: all live SRAM is written when the voltage falls to one threshold, high enough
    for the dearest tile and the largest snapshot; then sleep until the store is full."""
    _require_sensor(device)
    chain = list(range(1, len(places)))
    slack_j = 2 * device.sense_s * costs_at_store(device).active_w + SENSE_MARGIN_FRAC * device.store.usable_j
    dearest_j = float(np.diff(places.at.energy_j[chain], prepend=0.0).max())
    threshold_j = dearest_j + max(_commit_j(places, p, device) for p in chain) + slack_j
    how = Preservation((*[threshold_j] * (len(chain) - 1), NEVER_J), _always(chain), writes_all=True)
    return Preserved(summary(places, chain, device, harvest_w, how=how), how)


class _Hops:
    """From each of some places to the later ones that one charge can reach: work, commit of what is new, commit of all."""

    def __init__(self, places: Boundaries, spots: list[int], device: Device) -> None:
        self.at_j = places.at.energy_j[spots]
        buffers = sorted({b for p in spots for b in places.held[p]})
        self.held = np.array([[places.held[p].get(b, 0) for b in buffers] for p in spots], np.float64)
        self.recovery_j = places.recovery_j[spots]
        self.device = device
        self.whole_j = self._commit_j(self.held)

    def _commit_j(self, new: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(flush_price(self.device, new.sum(1), (new > 0).sum(1)).j)

    def later(self, i: int) -> NDArray[np.int64]:
        """The places after i within one charge; the next one at least."""
        end = int(np.searchsorted(self.at_j, self.at_j[i] + self.device.store.usable_j))
        return np.arange(i + 1, min(max(end, i + 2), len(self.at_j)))

    def new_j(self, i: int, later: NDArray[np.int64]) -> NDArray[np.float64]:
        """Commits at later places of what is new since i."""
        return self._commit_j(np.maximum(self.held[later] - self.held[i], 0.0))


def _cost_to_go_j(hops: _Hops) -> NDArray[np.float64]:
    """Least energy from a commit at each place, with a full store, to the answer: work, commits, boots and reloads, on charges
    alone. Infinite where no next place can be reached."""
    boot_j = costs_at_store(hops.device).boot_j
    budget_j = MARGIN_FRAC * hops.device.store.usable_j - boot_j
    n = len(hops.at_j)
    best = np.full(n, np.inf)
    best[-1] = 0.0
    for i in range(n - 2, -1, -1):
        later = hops.later(i)
        hop_j = hops.at_j[later] - hops.at_j[i] + hops.new_j(i, later) + hops.recovery_j[i]
        total_j = np.where(hop_j <= budget_j, hop_j + boot_j + best[later], np.inf)
        best[i] = total_j.min()
    return best


def adaptive(places: Boundaries, device: Device, harvest_w: float) -> Preserved:
    """Ours where the board can read its voltage. At each place: work on while the charge surely reaches a later place that is
    no worse to stop at, and a commit there. Otherwise commit what is new; then rest, unless one more commit is cheaper than
    a boot. Nothing is done twice, what is left of a charge stays in the store, and harvest that comes while working is
    used at once.

    How good a place is to stop at: the energy of the whole inference if it stops there, on charges alone.
    """
    _require_sensor(device)
    grain_j = device.store.usable_j / CHECKS_PER_CHARGE
    every: list[int] = []
    last_j = 0.0
    for p in range(1, len(places)):
        if p == len(places) - 1 or places.at.energy_j[p] - last_j >= grain_j:
            every.append(p)
            last_j = float(places.at.energy_j[p])
    reachable = np.isfinite(_cost_to_go_j(_Hops(places, every, device)))
    chain = [0, *(p for p, yes in zip(every, reachable, strict=True) if yes)]  # the start is as good as a commit
    hops = _Hops(places, chain, device)
    to_go_j = _cost_to_go_j(hops)
    stop_j = hops.at_j + hops.whole_j + to_go_j
    slack_j = 2 * device.sense_s * costs_at_store(device).active_w + SENSE_MARGIN_FRAC * device.store.usable_j
    skip_j, go_on_j = [], []
    for i in range(len(chain) - 1):
        later = hops.later(i)
        ahead_j, new_j = hops.at_j[later] - hops.at_j[i], hops.new_j(i, later)
        skip_j.append(_least(ahead_j + hops.whole_j[later], stop_j[later] <= stop_j[i]) + slack_j)
        go_on_j.append(_least(ahead_j + new_j, ahead_j + new_j + to_go_j[later] < to_go_j[i]) + slack_j)
    full_j = device.store.usable_j - costs_at_store(device).boot_j - float(places.recovery_j[0])
    how = Preservation((*skip_j[1:], NEVER_J), (*go_on_j[1:], 0.0), min(go_on_j[0], full_j - slack_j))
    return Preserved(summary(places, chain[1:], device, harvest_w), how)


def _least(values: NDArray[np.float64], where: NDArray[np.bool_]) -> float:
    """The least of some values; NEVER_J if there are none."""
    return float(values[where].min()) if where.any() else NEVER_J


POLICIES: dict[str, Callable[[Boundaries, Device, float], Preserved]] = {
    "layer": layer,
    "loop": loop,
    "footprint": footprint,
    "stateful": stateful,
    "jit": jit,
    "adaptive": adaptive,
}
