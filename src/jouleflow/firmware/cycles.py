"""Instructions and estimated cycles of machine code, by halfword: Arm's published zero-wait-state Cortex-M4 table.

Only ranges that the ELF marks as Thumb code count. Taken branches are added by the emulator, which sees them.
Source: Arm Cortex-M4 Technical Reference Manual (DDI 0439), section 3.3.1, instruction timing.
"""

from __future__ import annotations

from pathlib import Path

import capstone
import numpy as np
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

TAKEN_BRANCH_CYCLES = 2  # pipeline refill: 1 to 3

_LOADS = ("ldr", "vldr", "pop", "ldm")
_STORES = ("str", "vstr", "push", "stm")


def instruction_cycles(mnemonic: str, operands: str, after_memory: bool) -> int:
    """Cycles of one instruction. after_memory: the one before was a load or store, so that a load is pipelined."""
    name = mnemonic.split(".")[0]
    if name.startswith(("ldrd", "strd")):
        return 3
    if name.startswith(("ldm", "stm", "push", "pop", "vldm", "vstm", "vpush", "vpop")):
        return 1 + _register_count(operands)
    if name.startswith(("ldr", "vldr")):
        return 1 if after_memory else 2
    if name.startswith(("str", "vstr")):
        return 1
    if name.startswith(("sdiv", "udiv")):
        return 6
    if name.startswith(("vdiv", "vsqrt")):
        return 14
    if name.startswith(("vmla", "vmls", "vfma", "vfms", "vnmla", "vnmls")):
        return 3
    return 1


def _register_count(operands: str) -> int:
    inside = operands[operands.find("{") + 1 : operands.find("}")] if "{" in operands else ""
    count = 0
    for part in filter(None, (p.strip() for p in inside.split(","))):
        if "-" in part:
            low, high = (int("".join(c for c in p if c.isdigit()) or 0) for p in part.split("-"))
            count += high - low + 1
        else:
            count += 1
    return max(count, 1)


def code_ranges(elf: ELFFile) -> list[tuple[int, int]]:
    """Address ranges of Thumb code, from the mapping symbols $t and $d."""
    text = elf.get_section_by_name(".text")
    start, end = text["sh_addr"], text["sh_addr"] + text["sh_size"]
    marks = sorted(
        (s["st_value"], s.name[:2])
        for s in elf.get_section_by_name(".symtab").iter_symbols()
        if s.name[:2] in ("$t", "$d", "$a") and start <= s["st_value"] < end
    )
    ranges = []
    for (at, kind), (following, _) in zip(marks, [*marks[1:], (end, "")], strict=True):
        if kind == "$t" and following > at:
            ranges.append((at, following))
    return ranges


def cycle_sums(elf_path: Path) -> tuple[int, NDArray[np.uint32], NDArray[np.uint32]]:
    """(code base, running sums of cycles, running sums of instructions), one element per halfword and one more."""
    with elf_path.open("rb") as file:
        elf = ELFFile(file)
        text = elf.get_section_by_name(".text")
        base, data = text["sh_addr"], text.data()
        ranges = code_ranges(elf)
    size = len(data) // 2
    cycles, instructions = np.zeros(size + 1, np.uint32), np.zeros(size + 1, np.uint32)
    decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    for start, end in ranges:
        after_memory = False
        for address, _, mnemonic, operands in decoder.disasm_lite(data[start - base : end - base], start):
            k = (address - base) // 2 + 1
            cycles[k] = instruction_cycles(mnemonic, operands, after_memory)
            instructions[k] = 1
            after_memory = mnemonic.startswith(_LOADS + _STORES)
    return base, np.cumsum(cycles, dtype=np.uint32), np.cumsum(instructions, dtype=np.uint32)
