"""Where to commit: hyper-tiles by dynamic programming over all tile boundaries.

A commit costs the transfer of what is live and not yet safe; a failure costs the work since the last commit, a boot and
a reload. Between the two, the least expected energy is found exactly for this cost model. A hyper-tile that would not
fit one charge together with boot and recovery is never chosen, so every charge makes progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible
from jouleflow.plan.lowering import Lowered, Op, tiles_of
from jouleflow.plan.memory import PROGRESS_BYTES
from jouleflow.plan.plan import Certificate, Preservation, Step
from jouleflow.profile.profile import Costs, Profile, costs_at_store

RECORD_BYTES = PROGRESS_BYTES // 2
# Emulated on a Cortex-M4: checksum and bookkeeping of one commit, each buffer that it flushes, and delivering an answer;
# and the check of each byte that is flushed or reloaded.
RECORD_CYCLES = 490.0
FLUSH_CYCLES = 105.0
CHECK_CYCLES_PER_BYTE = 1.0625
STATE_CYCLES_PER_BYTE = 2.0  # assumed: a state bit set in an output and removed where it is read, four bytes at once
ANSWER_CYCLES = 420.0
MARGIN_FRAC = 0.95  # of a charge that a hyper-tile with boot and recovery may use
MAX_POSITIONS = 3000
PLAIN = Preservation()


@dataclass(frozen=True, slots=True)
class Price:
    """Seconds and joules, numbers or arrays of them, drawn from the store."""

    s: Any
    j: Any


def flush_price(device: Device, new_bytes: Any, n_buffers: Any, in_outputs: bool = False) -> Price:
    """Making so many bytes of so many buffers safe, and the record that says so, unless the outputs do. Numbers or arrays."""
    costs, clock_hz = costs_at_store(device), device.points[0].clock_hz("cpu")
    if in_outputs:
        core_s = (n_buffers * FLUSH_CYCLES + new_bytes * STATE_CYCLES_PER_BYTE) / clock_hz
        return Price(
            core_s + new_bytes * costs.write_s_per_byte + n_buffers * costs.setup_s,
            core_s * costs.active_w + new_bytes * costs.write_j_per_byte + n_buffers * costs.setup_j,
        )
    core_s = (RECORD_CYCLES + n_buffers * FLUSH_CYCLES + new_bytes * CHECK_CYCLES_PER_BYTE) / clock_hz
    bytes_written, n_writes = new_bytes + RECORD_BYTES, n_buffers + 1
    return Price(
        core_s + bytes_written * costs.write_s_per_byte + n_writes * costs.setup_s,
        core_s * costs.active_w + bytes_written * costs.write_j_per_byte + n_writes * costs.setup_j,
    )


def reload_price(device: Device, profile: Profile, held_bytes: Any, n_buffers: Any) -> Price:
    """From reset to the first tile, with so many bytes of so many buffers brought back. Numbers or arrays."""
    costs, clock_hz = costs_at_store(device), device.points[0].clock_hz("cpu")
    core_s = (n_buffers * FLUSH_CYCLES + held_bytes * CHECK_CYCLES_PER_BYTE) / clock_hz
    return Price(
        profile.recover_s + core_s + held_bytes * costs.read_s_per_byte + n_buffers * costs.setup_s,
        profile.recover_j + core_s * costs.active_w + held_bytes * costs.read_j_per_byte + n_buffers * costs.setup_j,
    )


def search_price(device: Device, n_places: int) -> Price:
    """Finding by bisection among so many outputs the last one that was written."""
    costs, reads = costs_at_store(device), math.ceil(math.log2(max(n_places, 2)))
    return Price(reads * (costs.setup_s + costs.read_s_per_byte), reads * (costs.setup_j + costs.read_j_per_byte))


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """Commit positions (step, tile), and what they cost per inference."""

    commits: tuple[tuple[int, int], ...]
    certificate: Certificate
    commit_j: float
    commit_s: float
    expected_j: float  # with re-execution, boots and reloads
    expected_failures: float


@dataclass(frozen=True, slots=True)
class _Positions:
    """Candidate commit positions; columns of one length. position[0] is the start."""

    step: NDArray[np.int64]
    tile: NDArray[np.int64]
    energy_j: NDArray[np.float64]  # of all tiles before
    time_s: NDArray[np.float64]


def produced_bytes(op: Op, step: Step, tile: int) -> int:
    """Bytes of the output that are final once `tile` tiles are done; as produced_by() of engine.c."""
    o = op.output
    n_rows, n_cols, n_channels = tiles_of(op, step.tile.rows, step.tile.cols, step.tile.channels)
    if tile == 0:
        return 0
    if tile >= n_rows * n_cols * n_channels:
        return o.size_bytes
    pixel, part = divmod(tile, n_channels)
    row, col = divmod(pixel, n_cols)
    return (row * step.tile.rows * o.cols + col * step.tile.cols) * o.channels + part * step.tile.channels


def _positions(
    lowered: Lowered, tiles_of_step: tuple[Step, ...], resident: frozenset[int], profile: Profile, block: int
) -> _Positions:
    """Block: of NVM. A commit inside one would have the next one write it again, and a power failure then could spoil it."""
    steps, tiles, energy, time = [0], [0], [0.0], [0.0]
    total_j = total_s = 0.0
    grain = profile.energy_j / MAX_POSITIONS
    for k, p in enumerate(profile.steps):
        cumulative_j, cumulative_s = np.cumsum(p.energy_j), np.cumsum(p.latency_s)
        last_kept = 0.0
        for j in range(len(p.energy_j)):
            end = j + 1 == len(p.energy_j)
            if not end and (k == 0 or cumulative_j[j] - last_kept < grain):
                continue  # the input is captured at once or not at all
            if (
                not end
                and lowered.ops[k].output.buffer in resident
                and produced_bytes(lowered.ops[k], tiles_of_step[k], j + 1) % block
            ):
                continue
            last_kept = float(cumulative_j[j])
            steps.append(k + 1 if end else k)
            tiles.append(0 if end else j + 1)
            energy.append(total_j + float(cumulative_j[j]))
            time.append(total_s + float(cumulative_s[j]))
        total_j += float(cumulative_j[-1])
        total_s += float(cumulative_s[-1])
    return _Positions(np.array(steps), np.array(tiles), np.array(energy), np.array(time))


def _produced(lowered: Lowered, steps: tuple[Step, ...], buffer: int, step: int, tile: int) -> int:
    if step < len(lowered.ops) and lowered.ops[step].output.buffer == buffer:
        return produced_bytes(lowered.ops[step], steps[step], tile)
    return lowered.buffer_bytes[buffer]


@dataclass(frozen=True, slots=True)
class Boundaries:
    """All places where a commit may be, and what one would cost there."""

    at: _Positions
    held: list[dict[int, int]]  # per position: bytes of each buffer that a commit keeps
    held_bytes: NDArray[np.float64]
    n_held: NDArray[np.float64]
    recovery_j: NDArray[np.float64]  # reset to continuing from there

    def __len__(self) -> int:
        return int(self.at.step.size)

    def commit(self, position: int) -> tuple[int, int]:
        """(step, tile) of a position."""
        return int(self.at.step[position]), int(self.at.tile[position])


def boundaries(
    lowered: Lowered, steps: tuple[Step, ...], resident: frozenset[int], profile: Profile, device: Device
) -> Boundaries:
    """The ends of tiles, thinned to at most some thousands; position 0 is the start."""
    at = _positions(lowered, steps, resident, profile, device.memory("nvm").write_block_bytes)
    live = [[b for b in lowered.live[int(k)] if b in resident] for k in at.step]
    held = [
        {b: _produced(lowered, steps, b, int(k), int(t)) for b in buffers}
        for k, t, buffers in zip(at.step, at.tile, live, strict=True)
    ]
    held_bytes = np.array([sum(h.values()) for h in held], np.float64)
    n_held = np.array([sum(v > 0 for v in h.values()) for h in held], np.float64)
    return Boundaries(at, held, held_bytes, n_held, reload_price(device, profile, held_bytes, n_held).j)


def place_commits(
    lowered: Lowered,
    steps: tuple[Step, ...],
    resident: frozenset[int],
    profile: Profile,
    device: Device,
    harvest_w: float,
) -> CommitPlan:
    """The commit positions of least expected energy per inference.

    harvest_w: mean power into the store while the trace lasts, after the input converter.
    Raises Infeasible naming the least capacitor that works when some hyper-tile fits no charge.
    """
    costs = costs_at_store(device)
    all_places = boundaries(lowered, steps, resident, profile, device)
    at, held, recovery_j = all_places.at, all_places.held, all_places.recovery_j
    n = len(all_places)
    charge_j = device.store.usable_j
    budget_j = MARGIN_FRAC * charge_j - costs.boot_j
    net_j = max(charge_j - costs.boot_j - float(np.mean(recovery_j)), 1e-12)
    starved_frac = max(0.0, 1.0 - harvest_w / costs.active_w)  # with plenty of power nothing fails

    best = np.full(n, np.inf)
    best[0] = 0.0
    came_from = np.full(n, -1)
    step_after_last = np.array([lowered.last[b] + 1 for b in range(len(lowered.buffer_bytes))])
    end_of = np.searchsorted(at.step, step_after_last, side="left")  # first position past a buffer's life
    shortfall_j = np.inf
    for q in range(n - 1):
        if not np.isfinite(best[q]):
            continue
        reach = int(np.searchsorted(at.energy_j, at.energy_j[q] + budget_j, side="right"))
        window = slice(q + 1, max(reach, q + 2))
        safe, n_safe = (
            np.zeros(n),
            np.zeros(n),
        )  # at each place: bytes that are safe already, buffers that are so wholly
        for b, size in held[q].items():
            safe[: end_of[b]] += size
            n_safe[: end_of[b]] += size == lowered.buffer_bytes[b]
        flush = all_places.held_bytes[window] - safe[window]
        n_flushed = all_places.n_held[window] - n_safe[window]
        interval_j = at.energy_j[window] - at.energy_j[q] + flush_price(device, flush, n_flushed).j
        need_j = interval_j + recovery_j[q]
        shortfall_j = min(shortfall_j, float(need_j.min())) if not (need_j <= budget_j).any() else shortfall_j
        lost_j = starved_frac * interval_j / net_j * (interval_j / 2 + costs.boot_j + recovery_j[q])
        total = np.where(need_j <= budget_j, best[q] + interval_j + lost_j, np.inf)
        better = total < best[window]
        best[window] = np.where(better, total, best[window])
        came_from[window] = np.where(better, q, came_from[window])
    if not np.isfinite(best[-1]):
        raise _no_plan(device, costs, shortfall_j)
    chain = [n - 1]
    while came_from[chain[-1]] > 0:
        chain.append(int(came_from[chain[-1]]))
    chain.reverse()
    return summary(all_places, chain, device, harvest_w, float(best[-1]))


def _no_plan(device: Device, costs: Costs, need_j: float) -> Infeasible:
    store = device.store
    least_f = 2 * (need_j + costs.boot_j) / MARGIN_FRAC / (store.on_v**2 - store.off_v**2)
    return Infeasible(
        f"the smallest hyper-tile with boot and recovery needs {(need_j + costs.boot_j) * 1e3:.3g} mJ, and "
        f"{MARGIN_FRAC:.0%} of a charge of {device.name} with {store.capacitance_f * 1e6:.4g} uF between {store.on_v} V and "
        f"{store.off_v} V is {MARGIN_FRAC * store.usable_j * 1e3:.3g} mJ",
        f"--capacitor {np.ceil(least_f * 1e6 * 1.05):.0f}uF",
    )


def summary(
    places: Boundaries,
    chain: list[int],
    device: Device,
    harvest_w: float,
    expected_j: float | None = None,
    how: Preservation = PLAIN,
) -> CommitPlan:
    """What commits at these positions cost, and the dearest hyper-tile. expected_j: worked out here when None.

    Raises Infeasible when a hyper-tile fits no charge.
    """
    costs, charge_j = costs_at_store(device), device.store.usable_j
    commit_j = commit_s = worst_j = total_j = lost_j = 0.0
    net_j = max(charge_j - costs.boot_j - float(np.mean(places.recovery_j)), 1e-12)
    starved_frac = max(0.0, 1.0 - harvest_w / costs.active_w)
    previous = 0
    for p in chain:
        kept = {} if how.writes_all else places.held[previous]
        flush = sum(size - kept.get(b, 0) for b, size in places.held[p].items())
        n_flushed = sum(size > kept.get(b, 0) for b, size in places.held[p].items())
        price = flush_price(device, flush, n_flushed, how.in_outputs)
        commit_j += price.j
        commit_s += price.s
        interval_j = float(places.at.energy_j[p] - places.at.energy_j[previous] + price.j)
        resumed_j = float(places.recovery_j[previous]) + costs.boot_j
        worst_j = max(worst_j, interval_j + resumed_j)
        lost_j += starved_frac * interval_j / net_j * (interval_j / 2 + resumed_j)
        total_j += interval_j
        previous = p
    if worst_j > MARGIN_FRAC * charge_j * (1 + 1e-9):
        raise _no_plan(device, costs, worst_j - costs.boot_j)
    return CommitPlan(
        tuple(places.commit(p) for p in chain),
        Certificate(worst_j, charge_j),
        commit_j,
        commit_s,
        total_j + lost_j if expected_j is None else expected_j,
        starved_frac * total_j / net_j,
    )
