"""What the emulator needs of a firmware's ELF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

from jouleflow.firmware.build import FLASH_BASE, Firmware
from jouleflow.firmware.cycles import cycle_sums


@dataclass(frozen=True, slots=True)
class Image:
    """What is read once from an ELF: flash contents, code timing, reset address."""

    flash: NDArray[np.uint8]
    code_base: int
    sum_cycles: NDArray[np.uint32]
    sum_instructions: NDArray[np.uint32]
    stack_bottom: int


def load_image(firmware: Firmware) -> Image:
    """Flash contents and timing tables of a firmware."""
    base, cycles, instructions = cycle_sums(firmware.elf)
    flash = np.zeros(-(-firmware.flash_bytes // 4096) * 4096 + 4096, np.uint8)
    with firmware.elf.open("rb") as file:
        elf = ELFFile(file)
        for segment in elf.iter_segments():
            if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                at = segment["p_paddr"] - FLASH_BASE
                flash[at : at + segment["p_filesz"]] = np.frombuffer(segment.data(), np.uint8)
        symbols = {s.name: s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols()}
    return Image(flash, base, cycles, instructions, symbols["stack_bottom"])
