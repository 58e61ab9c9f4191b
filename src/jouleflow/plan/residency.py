"""What stays in SRAM, together with the tile of every step: the least energy by dynamic programming over the steps.

Between two steps only this matters of the past: which of the buffers still needed are kept in SRAM, and how the others lie
in non-volatile memory (the bytes between their checks). So the search is exact for the energy model of `plan.tile` and for
SRAM counted as the sum of what is needed at once; a layout that needs more, because pieces do not fit side by side, is
refused and sought again within less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible
from jouleflow.plan.cost import Measured
from jouleflow.plan.lowering import Lowered
from jouleflow.plan.memory import OVERREAD_BYTES, Block, align, lay_out, unit_bytes
from jouleflow.plan.plan import Step
from jouleflow.plan.tile import Place, fits_charge, keeping_j, possible_steps, staged_bytes, step_energy_j

IN_SRAM = -1  # in a state, instead of the bytes between checks
LEAST_SHRINK = 64  # a layout with gaps is sought again within at least a 64th less


@dataclass(frozen=True, slots=True)
class Tiling:
    """Steps and SRAM layout before commits are chosen."""

    steps: tuple[Step, ...]
    resident: frozenset[int]
    units: tuple[int, ...]  # per buffer: Placement.unit_bytes
    sram_offset: tuple[int | None, ...]  # per buffer
    stage_in: tuple[tuple[int, ...], ...]
    stage_out: tuple[int, ...]
    scratch: tuple[int, ...]
    arena_bytes: int


class ArenaTooSmall(Exception):
    """Nothing fits: carries the least arena that works, to which the caller adds statics and stack."""

    def __init__(self, where: str, least_arena: int) -> None:
        super().__init__(where)
        self.least_arena = least_arena


# Per buffer that a later step needs: (buffer, IN_SRAM or the bytes between its checks), by buffer.
State = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a step: SRAM beside what is held, its energy, and how its output lies."""

    step: Step
    sram_bytes: int
    energy_j: float
    output: int


@dataclass(frozen=True, slots=True)
class _Best:
    """The cheapest way to a state."""

    energy_j: float
    before: State
    step: Step


class Search:
    """Options of each step, worked out once."""

    def __init__(self, lowered: Lowered, device: Device, measured: Measured) -> None:
        self.lowered, self.device, self.measured = lowered, device, measured
        self.options = cache(self._options)

    def _options(self, k: int, inputs: State, output_in_sram: bool) -> tuple[Option, ...]:
        """The ways worth trying, cheapest first: none needs more SRAM and more energy than another of the same output."""
        op = self.lowered.ops[k]
        resident = {b for b, kind in inputs if kind == IN_SRAM} | ({op.output.buffer} if output_in_sram else set())
        units = {b: kind for b, kind in inputs if kind != IN_SRAM}
        at = Place(self.lowered, k, frozenset(resident), units)
        found = []
        for step in possible_steps(at):
            if not fits_charge(at, step, self.device, self.measured):
                continue
            staged, output, scratch = staged_bytes(at, step)
            kind = IN_SRAM if output_in_sram else unit_bytes(self.lowered, k, step.tile)
            energy_j = step_energy_j(at, step, self.device, self.measured)
            found.append(Option(step, sum(staged) + output + scratch, energy_j, kind))
        found.sort(key=lambda option: (option.energy_j, option.sram_bytes))
        kept: list[Option] = []
        least: dict[int, int] = {}
        for option in found:
            if option.sram_bytes < least.get(option.output, 1 << 62):
                least[option.output] = option.sram_bytes
                kept.append(option)
        return tuple(kept)

    def block_bytes(self, buffer: int) -> int:
        """What a buffer takes of the SRAM when it is kept there."""
        return align(self.lowered.buffer_bytes[buffer] + OVERREAD_BYTES)

    def follow(self, k: int, state: State, limit: int) -> Iterator[tuple[State, float, Step]]:
        """The states after step k, the energy to get there from a state before it, and by which step."""
        op, last = self.lowered.ops[k], self.lowered.last
        out = op.output.buffer
        read = {o.buffer for o in op.inputs}
        inputs = tuple((b, kind) for b, kind in state if b in read)
        going_on = tuple((b, kind) for b, kind in state if last[b] > k)
        for in_sram in (True, False):
            held = [b for b, kind in state if kind == IN_SRAM] + ([out] if in_sram else [])
            free = limit - sum(map(self.block_bytes, held))
            held_bytes = sum(self.lowered.buffer_bytes[b] for b in held)
            seen = set()
            for option in self.options(k, inputs, in_sram) if free >= 0 else ():
                if option.sram_bytes <= free and option.output not in seen:  # cheapest first
                    seen.add(option.output)
                    after = tuple(sorted((*going_on, (out, option.output)))) if last[out] > k else going_on
                    total_j = option.energy_j + keeping_j(option.energy_j, held_bytes, len(held), self.device)
                    yield after, total_j, option.step

    def run(self, limit: int) -> tuple[tuple[Step, ...], frozenset[int], dict[int, int]] | int:
        """Steps, what stays in SRAM and the units of the rest, of least energy; or the step that does not fit."""
        stages: list[dict[State, _Best]] = []
        now: dict[State, float] = {(): 0.0}
        for k in range(len(self.lowered.ops)):
            stage: dict[State, _Best] = {}
            for state, spent_j in now.items():
                for after, energy_j, step in self.follow(k, state, limit):
                    total_j = spent_j + energy_j
                    if after not in stage or total_j < stage[after].energy_j:
                        stage[after] = _Best(total_j, state, step)
            if not stage:
                return k
            stages.append(stage)
            now = {state: best.energy_j for state, best in stage.items()}
        state = min(now, key=lambda s: now[s])
        steps: list[Step] = []
        kinds: dict[int, int] = {}
        for stage in reversed(stages):
            kinds.update(state)
            steps.append(stage[state].step)
            state = stage[state].before
        steps.reverse()
        for k, op in enumerate(self.lowered.ops):  # an output that nothing reads is in no state
            kinds.setdefault(op.output.buffer, unit_bytes(self.lowered, k, steps[k].tile))
        resident = frozenset(b for b, kind in kinds.items() if kind == IN_SRAM)
        return tuple(steps), resident, {b: kind for b, kind in kinds.items() if kind != IN_SRAM}

    def tiling(self, limit: int) -> Tiling | int:
        """The cheapest tiling whose layout fits, or the step that does not."""
        within = limit
        while within > 0:
            found = self.run(within)
            if isinstance(found, int):
                return found
            tiling = _arrange(self.lowered, *found)
            if tiling.arena_bytes <= limit:
                return tiling
            within -= max(tiling.arena_bytes - limit, limit // LEAST_SHRINK, 4)
        return len(self.lowered.ops) - 1


def make_tiling(lowered: Lowered, device: Device, arena_limit: int, measured: Measured) -> Tiling:
    """Tile shapes and SRAM layout within arena_limit bytes.

    Raises ArenaTooSmall with the least arena that works, or Infeasible when a single tile outlasts a charge.
    """
    search = Search(lowered, device, measured)
    found = search.tiling(arena_limit)
    if isinstance(found, Tiling):
        return found
    low, high = arena_limit, max(4 * sum(lowered.buffer_bytes) + 65536, arena_limit * 2)
    if not isinstance(search.tiling(high), Tiling):
        raise Infeasible(
            f"one tile of step {found} ({lowered.ops[found].kind}) costs more than a quarter of a charge of "
            f"{device.store.usable_j * 1e3:.3g} mJ on {device.name}: take a larger capacitor or a wider voltage range"
        )
    while high - low > 16:
        middle = (low + high) // 2
        if isinstance(search.tiling(middle), Tiling):
            high = middle
        else:
            low = middle
    raise ArenaTooSmall(f"step {found} ({lowered.ops[found].kind})", high)


def _arrange(lowered: Lowered, steps: tuple[Step, ...], resident: frozenset[int], units: Mapping[int, int]) -> Tiling:
    blocks: list[Block] = []
    buffers = sorted(resident)
    for b in buffers:
        blocks.append(
            Block(lowered.buffer_bytes[b] + OVERREAD_BYTES, lowered.first[b], min(lowered.last[b], len(steps) - 1))
        )
    areas: list[tuple[list[int], int, int]] = []  # block indices per step
    for k, step in enumerate(steps):
        inputs, output, scratch = staged_bytes(Place(lowered, k, resident, units), step)
        where: list[int] = []
        for size in (*inputs, output, scratch):
            where.append(len(blocks))
            blocks.append(Block(size, k, k))
        areas.append((where[: len(inputs)], where[-2], where[-1]))
    offsets, total = lay_out(blocks)
    sram: list[int | None] = [None] * len(lowered.buffer_bytes)
    for i, b in enumerate(buffers):
        sram[b] = offsets[i]
    return Tiling(
        steps,
        resident,
        tuple(units.get(b, 0) for b in range(len(lowered.buffer_bytes))),
        tuple(sram),
        tuple(tuple(offsets[i] for i in area[0]) for area in areas),
        tuple(offsets[area[1]] for area in areas),
        tuple(offsets[area[2]] for area in areas),
        total,
    )
