"""Crash tests: what a power failure can leave in non-volatile memory, exhaustively, and what the firmware makes of it.

Volatile state is lost with the power, so single failures differ only by what had been written. One run journals every
byte written; each prefix of the journal, with a torn byte after it, is a memory that some failure leaves. The firmware
boots on it with scrambled SRAM and registers, and must give the right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

from jouleflow.errors import EmulationError
from jouleflow.firmware.build import Firmware
from jouleflow.firmware.machine import STOP_DONE, STOP_SLICE, Machine
from jouleflow.plan.memory import PROGRESS_BYTES

Int8 = NDArray[np.int8]
UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Journal:
    """Every byte written to NVM in one inference, in order, up to the delivery of the answer."""

    offset: NDArray[np.uint32]
    value: UInt8
    answer: Int8
    instructions: int

    def __len__(self) -> int:
        return int(self.offset.size)

    def n_commits(self, n_bytes: int | None = None) -> int:
        """Completed progress records in the first n_bytes."""
        return int(np.count_nonzero(self.offset[:n_bytes] < PROGRESS_BYTES)) // (PROGRESS_BYTES // 2)


@dataclass(frozen=True, slots=True)
class CrashResult:
    """Counts of one campaign. stuck: did not finish within its instruction limit; regressed: the right answer, but a
    completed commit was forgotten and its work done again."""

    n_runs: int
    n_wrong: int
    n_stuck: int
    n_faults: int
    n_regressed: int

    @property
    def clean(self) -> bool:
        return self.n_wrong == self.n_stuck == self.n_faults == self.n_regressed == 0


class CrashBench:
    """One machine, booted again and again on chosen memories. Continuous power: the failures are ours."""

    def __init__(self, firmware: Firmware, one_input: Int8, seed: int = 0, max_journal: int = 4 << 20) -> None:
        self.machine = Machine(firmware, one_input.reshape(1, -1), seed=seed, journal_bytes=max_journal, checks=True)
        self.random = np.random.default_rng(seed)
        self.blank = self.machine.nvm.copy()
        self.hazards = 0
        self.limit = 1 << 62
        self.golden = self.record(self.blank)
        self.limit = 3 * self.golden.instructions + 1_000_000

    def boot(self, nvm: UInt8, sram: str = "random") -> None:
        """Power on with this memory. sram: random, zero, or previous (what the last run left)."""
        m = self.machine
        m.nvm[:] = nvm
        m.touched[:] = 0
        m.m.n_answers = m.m.n_journal = m.m.instructions = m.m.n_hazards = 0
        m.m.stop = 0
        m.library.machine_power_on(m.reference, 0.0)
        before = m.sram.copy()
        m.scramble()
        if sram == "zero":
            m.sram[:] = 0
        elif sram == "previous":
            m.sram[:] = before
        m.reset()

    def run(self, limit: int | None = None) -> int:
        """To the answer (STOP_DONE), or for `limit` instructions (STOP_SLICE)."""
        self.machine.m.slice_end = self.limit if limit is None else limit
        return self.machine.run()

    def record(self, nvm: UInt8) -> Journal:
        """The journal of an inference that starts from a memory. The last commit, after the answer, is left out."""
        self.boot(nvm)
        if self.run() != STOP_DONE:
            raise EmulationError("the firmware did not finish on continuous power")
        self.hazards += int(self.machine.m.n_hazards)
        return self.journal(32)

    def journal(self, after_answer: int = 0) -> Journal:
        """What the current run has written so far, without the last `after_answer` bytes."""
        m = self.machine
        n = max(int(m.m.n_journal) - after_answer, 0)
        if m.m.n_journal >= m.journal.shape[0]:
            raise EmulationError("the journal is full: raise max_journal")
        raw = m.journal[:n]
        offset = raw[:, :4].copy().view(np.uint32)[:, 0]
        return Journal(offset, raw[:, 4].copy(), m.answers[0].copy(), int(m.m.instructions))

    def memory_after(self, start: UInt8, journal: Journal, n_bytes: int) -> UInt8:
        """The memory when power fails in the write of byte n_bytes: its block is, byte by byte, old, new, erased or rubbish."""
        block = self.machine.device.memory("nvm").write_block_bytes
        whole = n_bytes - n_bytes % block
        nvm = start.copy()
        # later writes win; numpy assigns in order for repeated indices
        nvm[journal.offset[:whole]] = journal.value[:whole]
        for torn in range(whole, min(whole + block, len(journal))):
            at = int(journal.offset[torn])
            choices = (nvm[at], journal.value[torn], np.uint8(0xFF), np.uint8(self.random.integers(256)))
            nvm[at] = choices[int(self.random.integers(4))]
        return nvm

    def verdict(self, nvm: UInt8, sram: str = "random", commits_done: int = 0) -> str:
        """ "right", "wrong", "stuck", "fault" or "regressed" for a boot on this memory, which holds so many commits."""
        self.boot(nvm, sram)
        try:
            if self.run() != STOP_DONE:
                return "stuck"
        except EmulationError:
            return "fault"
        if not np.array_equal(self.machine.answers[0], self.golden.answer):
            return "wrong"
        again = self.journal(PROGRESS_BYTES // 2).n_commits()
        return "right" if again <= self.golden.n_commits() - commits_done else "regressed"


def _count(verdicts: Iterable[str]) -> CrashResult:
    seen = list(verdicts)
    return CrashResult(
        len(seen), seen.count("wrong"), seen.count("stuck"), seen.count("fault"), seen.count("regressed")
    )


def cut_everywhere(
    bench: CrashBench, max_cuts: int = 20_000, progress: Callable[[int, int], None] | None = None
) -> CrashResult:
    """A cut at every NVM byte written by one inference, or at max_cuts of them spread evenly."""
    n = len(bench.golden) + 1
    cuts = np.arange(n) if n <= max_cuts else np.unique(np.linspace(0, n - 1, max_cuts).astype(int))
    sram = ("random", "previous", "zero")

    def each() -> Iterable[str]:
        for i, cut in enumerate(cuts):
            if progress is not None and i % 50 == 0:
                progress(i, len(cuts))
            memory = bench.memory_after(bench.blank, bench.golden, int(cut))
            yield bench.verdict(memory, sram[i % 3], bench.golden.n_commits(int(cut)))

    return _count(each())


def cut_nested(bench: CrashBench, n_runs: int, depth: int = 3) -> CrashResult:
    """Failures inside the recovery from failures: each run is cut `depth` times, early after each boot more often."""

    def each() -> Iterable[str]:
        for _ in range(n_runs):
            nvm, journal = bench.blank, bench.golden
            for _ in range(depth):
                early = bench.random.random() < 0.7
                reach = min(len(journal), 96) if early else len(journal)
                if journal is bench.golden:
                    reach = len(journal)
                nvm = bench.memory_after(nvm, journal, int(bench.random.integers(0, reach + 1)))
                bench.boot(nvm)
                try:
                    if bench.run() != STOP_DONE:
                        break
                except EmulationError:
                    break
                journal = bench.journal(32)
            yield bench.verdict(nvm)

    return _count(each())


def flip_nvm_bits(bench: CrashBench, n_runs: int, n_bits: int) -> CrashResult:
    """Memory that changed by itself while the power was off: n_bits flipped anywhere, after a cut anywhere.

    wrong is an answer that nobody knows to be wrong; regressed, the damage was found and the inference begun again.
    """

    def each() -> Iterable[str]:
        for _ in range(n_runs):
            cut = int(bench.random.integers(0, len(bench.golden) + 1))
            nvm = bench.memory_after(bench.blank, bench.golden, cut)
            bits = bench.random.choice(nvm.size * 8, n_bits, replace=False)
            np.bitwise_xor.at(nvm, bits // 8, (1 << (bits % 8)).astype(np.uint8))
            yield bench.verdict(nvm, commits_done=bench.golden.n_commits(cut))

    return _count(each())


def flip_weight_bits(firmware: Firmware, one_input: Int8, n_runs: int, n_bits: int, seed: int = 0) -> list[int]:
    """Weights that changed by themselves: for each run, the inferences answered before the firmware said so; -1 if it
    never did within two rounds of its checks."""
    random = np.random.default_rng(seed)
    with firmware.elf.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".symtab")
        data = next(s for s in symbols.iter_symbols() if s.name == "data" and s["st_size"])
    n_slices = firmware.n_weight_slices
    inputs = np.repeat(one_input.reshape(1, -1), 2 * n_slices, axis=0)
    answered = []
    for _ in range(n_runs):
        machine = Machine(firmware, inputs)
        for bit in random.choice(data["st_size"] * 8, n_bits, replace=False):
            at = int(data["st_value"] + bit // 8)
            machine.uc.mem_write(at, bytes([machine.uc.mem_read(at, 1)[0] ^ (1 << int(bit % 8))]))
        machine.power_on()
        try:
            machine.run()
            answered.append(-1)
        except EmulationError:
            answered.append(int(machine.m.n_answers))
    return answered


def boot_on_foreign_memory(bench: CrashBench, other: CrashBench, n_runs: int) -> CrashResult:
    """Boots on what another firmware left when it was cut: its checkpoints must not be continued."""

    def each() -> Iterable[str]:
        for cut in np.linspace(0, len(other.golden), n_runs).astype(int):
            left = other.memory_after(other.blank, other.golden, int(cut))
            nvm = bench.blank.copy()
            n = min(nvm.size, left.size)
            nvm[:n] = left[:n]
            yield bench.verdict(nvm)

    return _count(each())


def kill_randomly(bench: CrashBench, n_runs: int, mean_instructions: float) -> CrashResult:
    """Runs killed again and again after random numbers of instructions until they finish; forward progress is the claim."""

    def each() -> Iterable[str]:
        for _ in range(n_runs):
            nvm = bench.blank
            verdict = "stuck"
            for _ in range(2000):
                bench.boot(nvm)
                try:
                    reason = bench.run(1 + int(bench.random.exponential(mean_instructions)))
                except EmulationError:
                    verdict = "fault"
                    break
                if reason == STOP_DONE or bench.machine.m.n_answers:
                    verdict = "right" if np.array_equal(bench.machine.answers[0], bench.golden.answer) else "wrong"
                    break
                if reason != STOP_SLICE:
                    break
                nvm = bench.machine.nvm.copy()
            yield verdict

    return _count(each())
