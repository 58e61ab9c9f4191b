"""iNAS's execution model and ours on its cost model (`profile.inas_costs`).

iNAS runs a fixed number of tiles a power cycle, saves, and shuts down on purpose; the next cycle begins at a full store.
Ours commits the same tiles in hyper-tiles and works on until the charge is used: what a power failure cuts is one
hyper-tile, which is done again. Both on a constant source behind a resistor.
Sources: iNAS (ACM TECS 2021) and TiNAS for the equations; the second half is our reconstruction of AID's idea.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log, sqrt

from jouleflow.errors import Infeasible
from jouleflow.profile.inas_costs import (
    ENERGY,
    LATENCY,
    VM_BYTES,
    WORD_BYTES,
    ConvLayer,
    LoopTile,
    Primitives,
    backup_cost,
    progress_cost,
    tile_cost,
)

# A hyper-tile with reboot may take this share of a charge: the most that iNAS's shipped solutions take (kws, 1 mF).
LIMIT_FRAC = 0.73
ORDERS = ("reuse_I", "reuse_W", "reuse_O")


@dataclass(frozen=True, slots=True)
class ResistorSource:
    """A capacitor charged from a constant voltage through a resistor, between two thresholds."""

    capacitance_f: float
    resistance_ohm: float = 300.0
    on_v: float = 2.99
    off_v: float = 2.8
    supply_v: float = 3.0
    margin_frac: float = 0.55  # of a charge, in iNAS's formulas

    @property
    def charge_j(self) -> float:
        """Between the thresholds."""
        return self.capacitance_f * (self.on_v**2 - self.off_v**2) / 2

    def recharge_s(self, used_j: float, from_j: float | None = None) -> float:
        """From full less used_j back to full. from_j: the charge to count from, when a published formula errs there."""
        full_j = self.charge_j if from_j is None else from_j
        low_v = sqrt(2 * (full_j - used_j) / self.capacitance_f + self.off_v**2)
        rc_s = self.resistance_ohm * self.capacitance_f
        return -rc_s * log((self.on_v - self.supply_v) / (low_v - self.supply_v))


def inas_cycle(p: Primitives, layer: ConvLayer, tile: LoopTile, n_tiles: int, first_inputs: bool) -> float:
    """One power cycle of iNAS: reboot, fetch, n_tiles tiles, save. first_inputs: there are no partial sums to fetch yet."""
    c = tile_cost(p, layer, tile)
    psums = 0.0 if first_inputs else c.fetch_psums
    if tile.order == "reuse_I":
        fetch = n_tiles * (c.fetch_weights + psums) + c.fetch_in
    elif tile.order == "reuse_W":
        fetch = n_tiles * (c.fetch_in + psums) + c.fetch_weights
    else:
        fetch = n_tiles * (c.fetch_in + c.fetch_weights) + psums
    return p.reboot + fetch + n_tiles * c.compute + backup_cost(p, layer, tile, n_tiles) + sum(progress_cost(p))


def inas_latency_s(
    layer: ConvLayer, tile: LoopTile, tiles_per_cycle: int, source: ResistorSource, published_recharge: bool
) -> float:
    """A layer under iNAS. published_recharge: with its own recharge formula, which counts from the charge less its margin;
    TiNAS corrected that."""
    space, n_out, n_in = tile.n_tiles(layer)
    n_first = space * n_out / (1 if tile.order == "reuse_O" else tiles_per_cycle)
    n_other = space * n_out * n_in / tiles_per_cycle - n_first
    from_j = source.charge_j * source.margin_frac if published_recharge else None
    total = 0.0
    for cycles, first in ((n_first, True), (n_other, False)):
        if cycles > 0:
            energy = inas_cycle(ENERGY, layer, tile, tiles_per_cycle, first)
            active = inas_cycle(LATENCY, layer, tile, tiles_per_cycle, first)
            total += cycles * (active + source.recharge_s(energy, from_j))
    return total


@dataclass(frozen=True, slots=True)
class HyperTiles:
    """How a layer runs with us: `group` tiles a commit; of each (seconds, joules).

    first: the first hyper-tile of a run over one retained tile, which fetches it; next: the others; resume: what a reboot
    has to fetch again before the hyper-tile it continues with.
    """

    tile: LoopTile
    group: int
    runs: int  # retained tiles, one after another
    per_run: int  # hyper-tiles of each
    first: tuple[float, float]
    next: tuple[float, float]
    resume: tuple[float, float]

    @property
    def energy_j(self) -> float:
        """Of the layer, without reboots."""
        return self.runs * (self.first[1] + (self.per_run - 1) * self.next[1])


def _sides(n: int) -> list[int]:
    """Tile sides for a side of n: the least for each number of tiles."""
    return sorted({-(-n // parts) for parts in range(1, n + 1)})


def _costs(p: Primitives, layer: ConvLayer, tile: LoopTile, group: float) -> tuple[float, float, float]:
    """(first, next, resume) hyper-tile of a run; partial sums of reuse_I and reuse_W are fetched whenever inputs are split."""
    c = tile_cost(p, layer, tile)
    n_in = tile.n_tiles(layer)[2]
    psums = c.fetch_psums * (n_in - 1) / n_in  # the first slice of inputs has none: on average
    commit = backup_cost(p, layer, tile, group) + progress_cost(p)[1]
    if tile.order == "reuse_I":
        retained, each = c.fetch_in, c.fetch_weights + psums + c.compute
    elif tile.order == "reuse_W":
        retained, each = c.fetch_weights, c.fetch_in + psums + c.compute
    else:
        retained, each = 0.0, c.fetch_in + c.fetch_weights + c.compute
    again = c.fetch_psums if tile.order == "reuse_O" else retained
    return retained + group * each + commit, group * each + commit, p.reboot + progress_cost(p)[0] + again


def _hyper_tiles(layer: ConvLayer, tile: LoopTile, group: int) -> HyperTiles:
    space, n_out, n_in = tile.n_tiles(layer)
    inner = {"reuse_I": n_out, "reuse_W": space, "reuse_O": n_in}[tile.order]
    per_run = -(-inner // group)
    seconds, joules = _costs(LATENCY, layer, tile, inner / per_run), _costs(ENERGY, layer, tile, inner / per_run)
    first, following, resume = zip(seconds, joules, strict=True)
    return HyperTiles(tile, group, space * n_out * n_in // inner, per_run, first, following, resume)


def _candidates(layer: ConvLayer, vm_bytes: int) -> Iterator[tuple[LoopTile, int]]:
    words = vm_bytes // WORD_BYTES
    for rows in _sides(layer.rows):
        for cols in _sides(layer.cols):
            for out_ch in _sides(layer.out_ch):
                for in_ch in _sides(layer.in_ch):
                    if LoopTile(rows, cols, out_ch, in_ch, "reuse_O").buffer_words(layer, 1) > words:
                        break
                    for order in ORDERS:
                        tile = LoopTile(rows, cols, out_ch, in_ch, order)
                        space, n_out, n_in = tile.n_tiles(layer)
                        inner = {"reuse_I": n_out, "reuse_W": space, "reuse_O": n_in}[order]
                        for group in _sides(inner):
                            if tile.buffer_words(layer, 1 if order == "reuse_O" else group) > words:
                                break
                            yield tile, group


def plan_layer(layer: ConvLayer, source: ResistorSource, vm_bytes: int = VM_BYTES) -> HyperTiles:
    """The tile, order and hyper-tile of least expected time.

    Expected time of a layer: its energy, with a reboot and half a hyper-tile lost in each charge, at the store's rate.
    Raises Infeasible when no hyper-tile fits one charge.
    """
    charge_j, full_s = source.charge_j, source.recharge_s(source.charge_j)
    best: tuple[float, HyperTiles] | None = None
    for tile, group in _candidates(layer, vm_bytes):
        h = _hyper_tiles(layer, tile, group)
        net_j = charge_j - h.resume[1] - h.next[1] / 2
        if h.resume[1] + max(h.first[1], h.next[1]) > LIMIT_FRAC * charge_j or net_j <= 0:
            continue
        cycles = h.energy_j / net_j
        active_s = h.runs * (h.first[0] + (h.per_run - 1) * h.next[0])
        expected_s = cycles * (full_s + h.resume[0]) + active_s
        if best is None or expected_s < best[0]:
            best = (expected_s, h)
    if best is None:
        raise Infeasible(
            f"no tile of a {layer.kernel[0]}x{layer.kernel[1]} convolution with {layer.in_ch} channels fits {vm_bytes} bytes and "
            f"{charge_j * 1e3:.3g} mJ",
            "a larger capacitor or more SRAM",
        )
    return best[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One inference: seconds from a full store to the answer and the store full again, joules, reboots."""

    latency_s: float
    energy_j: float
    n_cycles: int


def run_hyper_tiles(layers: list[HyperTiles], source: ResistorSource, stop_early: bool) -> Outcome:
    """Hyper-tile after hyper-tile on the source. stop_early: shut down when the next would not fit, as a plan that knows
    its energies can; otherwise work until the power fails, lose the hyper-tile, and recharge from empty."""
    charge_j = source.charge_j
    clock_s = spent_j = used_j = 0.0
    cycles = 1

    def restart(h: HyperTiles) -> float:
        nonlocal clock_s, spent_j, cycles
        clock_s += source.recharge_s(used_j) + h.resume[0]
        spent_j += h.resume[1]
        cycles += 1
        return h.resume[1]

    used_j = ENERGY.reboot
    clock_s, spent_j = LATENCY.reboot, used_j
    for h in layers:
        for _ in range(h.runs):
            for k in range(h.per_run):
                seconds, joules = h.first if k == 0 else h.next
                if used_j + joules > charge_j:
                    if not stop_early:
                        clock_s += seconds * (charge_j - used_j) / joules
                        spent_j += charge_j - used_j
                        used_j = charge_j
                    used_j = restart(h)
                used_j += joules
                clock_s += seconds
                spent_j += joules
    return Outcome(clock_s + source.recharge_s(used_j), spent_j, cycles)


def solution_layer(row: dict[str, str]) -> tuple[ConvLayer, LoopTile, int]:
    """One row of a table of shipped iNAS solutions: the layer, its tile and the tiles a cycle.

    Columns: out_h, out_w, out_ch, in_ch, kernel_h, kernel_w, stride, tile_rows, tile_cols, tile_out_ch, tile_in_ch,
    loop_order, tiles_per_cycle.
    """
    n = {key: int(row[key]) for key in row if key not in ("app", "capacitance_f", "solution", "op", "loop_order")}
    layer = ConvLayer(n["out_h"], n["out_w"], n["out_ch"], n["in_ch"], (n["kernel_h"], n["kernel_w"]), n["stride"])
    tile = LoopTile(n["tile_rows"], n["tile_cols"], n["tile_out_ch"], n["tile_in_ch"], row["loop_order"])
    return layer, tile, n["tiles_per_cycle"]
