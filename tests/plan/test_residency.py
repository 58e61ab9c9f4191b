"""Tiles and what stays in SRAM: the dynamic program against every combination there is, on networks small enough."""

from functools import cache
from itertools import combinations, product

import pytest

from jouleflow.device.load import load_system
from jouleflow.plan.lowering import Lowered, lower
from jouleflow.plan.memory import unit_bytes
from jouleflow.plan.plan import Step
from jouleflow.plan.residency import ArenaTooSmall, Search, make_tiling
from jouleflow.plan.tile import Place, fits_charge, keeping_j, possible_steps, staged_bytes, step_energy_j
from tests.contracts.networks import NETWORKS, Builder

CAPACITOR_F = 100e-6


def chain() -> Lowered:
    grown = Builder((4, 4, 4), 1)
    grown.conv(8, (3, 3))
    grown.conv(4, (1, 1))
    return lower(grown.model())


def residual() -> Lowered:
    grown = Builder((3, 3, 4), 2)
    kept = grown.conv(4, (1, 1))
    grown.elementwise("add", kept, grown.conv(4, (3, 3)))
    return lower(grown.model())


TINY = {"chain": chain, "residual": residual}


class BruteForce:
    """Every subset of buffers in SRAM, every tile of every step."""

    def __init__(self, lowered: Lowered, device) -> None:
        self.lowered, self.device = lowered, device
        self.cost = cache(self._cost)

    def _cost(self, k: int, step: Step, resident: frozenset[int], units: tuple[tuple[int, int], ...]):
        """(SRAM with all that is held, energy) of a step."""
        at = Place(self.lowered, k, resident, dict(units))
        if not fits_charge(at, step, self.device, {}):
            return None
        held = [b for b in self.lowered.live[k] if b in resident]
        staged, output, scratch = staged_bytes(at, step)
        blocks = sum(Search(self.lowered, self.device, {}).block_bytes(b) for b in held)
        energy_j = step_energy_j(at, step, self.device, {})
        held_bytes = sum(self.lowered.buffer_bytes[b] for b in held)
        return sum(staged) + output + scratch + blocks, energy_j + keeping_j(
            energy_j, held_bytes, len(held), self.device
        )

    def least_j(self, limit: int) -> float:
        ops, best = self.lowered.ops, float("inf")
        buffers = range(len(self.lowered.buffer_bytes))
        for resident in (frozenset(c) for n in range(len(buffers) + 1) for c in combinations(buffers, n)):
            ways = []
            for k in range(len(ops)):
                ways.append(list(possible_steps(Place(self.lowered, k, resident, {}))))
            for steps in product(*ways):
                total, units = 0.0, {}
                for k, (op, step) in enumerate(zip(ops, steps, strict=True)):
                    read = tuple((o.buffer, units[o.buffer]) for o in op.inputs if o.buffer in units)
                    cost = self.cost(k, step, resident, read)
                    if cost is None or cost[0] > limit:
                        break
                    total += cost[1]
                    if op.output.buffer not in resident:
                        units[op.output.buffer] = unit_bytes(self.lowered, k, step.tile)
                else:
                    best = min(best, total)
        return best


def energy_of(search: Search, brute: BruteForce, limit: int) -> float:
    steps, resident, units = search.run(limit)
    costs = []
    for k, (op, step) in enumerate(zip(search.lowered.ops, steps, strict=True)):
        read = tuple((o.buffer, units[o.buffer]) for o in op.inputs if o.buffer in units)
        costs.append(brute.cost(k, step, resident, read))
        if op.output.buffer not in resident:
            assert units[op.output.buffer] == unit_bytes(search.lowered, k, step.tile)
    assert max(sram for sram, _ in costs) <= limit
    return sum(joules for _, joules in costs)


@pytest.mark.parametrize("board", ["riotee", "apollo4"])
@pytest.mark.parametrize("name", TINY)
def test_it_is_the_least_of_all(name: str, board: str) -> None:
    lowered = TINY[name]()
    device = load_system(board).device.with_capacitance(CAPACITOR_F)
    search, brute = Search(lowered, device, {}), BruteForce(lowered, device)
    everything = sum(map(search.block_bytes, range(len(lowered.buffer_bytes)))) + 4096
    found = set()
    for limit in (everything, 400, 250, 180, 140, 110, 80):
        least = brute.least_j(limit)
        if least == float("inf"):
            assert isinstance(search.run(limit), int)
            continue
        assert energy_of(search, brute, limit) == pytest.approx(least, rel=1e-12)
        found.add(search.run(limit)[:2])
    assert len(found) >= 3, "the limits are meant to force different choices"


def test_less_sram_never_costs_less() -> None:
    lowered = residual()
    device = load_system("riotee").device.with_capacitance(CAPACITOR_F)
    search, brute = Search(lowered, device, {}), BruteForce(lowered, device)
    energies = [energy_of(search, brute, limit) for limit in (4096, 400, 250, 180, 140)]
    assert energies == sorted(energies)


def test_the_least_arena_works_and_less_does_not() -> None:
    lowered = lower(NETWORKS["residual add"]())
    device = load_system("riotee").device
    with pytest.raises(ArenaTooSmall) as caught:
        make_tiling(lowered, device, 16, {})
    least = caught.value.least_arena
    assert make_tiling(lowered, device, least, {}).arena_bytes <= least
    with pytest.raises(ArenaTooSmall):
        make_tiling(lowered, device, least - 24, {})
