"""From a plan to an ELF: generated tables, hand-written C, one link. Also the numbers that only a link knows."""

from __future__ import annotations

import hashlib
import os
import string
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from elftools.elf.elffile import ELFFile

from jouleflow.device.device import Device
from jouleflow.errors import Infeasible, InputError
from jouleflow.firmware.codegen import generate
from jouleflow.firmware.cores import Core, core_of
from jouleflow.plan.lowering import Lowered
from jouleflow.plan.memory import STACK_BYTES
from jouleflow.plan.plan import Plan
from jouleflow.supply.native import cache_dir, cached

FLASH_BASE, SRAM_BASE = 0x0, 0x20000000
WARNINGS = ("-Wall", "-Wextra", "-Wdouble-promotion", "-Werror")
ENGINE = ("engine.c", "progress.c", "integrity.c", "memory.c")
KERNELS = (
    "conv2d_s8.c",
    "conv2d_small_s8.c",
    "depthwise_s8.c",
    "depthwise3_s8.c",
    "elementwise_s8.c",
    "pool_s8.c",
    "layout_s8.c",
    "softmax_s8.c",
)


@dataclass(frozen=True, slots=True)
class Firmware:
    """A linked firmware image and what it was made from. Sizes in bytes.

    Each inference checks one of n_weight_slices parts of the weights.
    """

    elf: Path
    source: str
    lowered: Lowered
    plan: Plan
    device: Device
    core: Core
    flash_bytes: int
    sram_bytes: int
    n_weight_slices: int


def c_dir() -> Path:
    """The folder of the hand-written C."""
    return Path(str(files("jouleflow") / "firmware" / "c"))


def compile_flags(core: Core, c: Path) -> list[str]:
    """Flags for one C file of the firmware."""
    return [
        "-target", core.target, f"-mcpu={core.mcpu}", "-O2", "-g", "-std=c11", "-ffreestanding", *WARNINGS,
        "-fno-sanitize=undefined", "-ffunction-sections", "-fdata-sections", "-fno-unwind-tables",
        "-fno-asynchronous-unwind-tables", "-fomit-frame-pointer", "-ffp-contract=off",
        f"-I{c / 'port'}", f"-I{c / 'engine'}", f"-I{c / 'kernels'}", f"-I{c / 'kernels' / core.simd}",
    ]  # fmt: skip


# Files of c/port beside start-up. A board's port leaves inputs and answers to an application.
SPI_FRAM = ("port_application.c", "spi_fram.c")
PORTS = {
    "emulator": ("emulator.c",),
    "riotee": (*SPI_FRAM, "nrf52833_spi.c"),
    "stm32l4r5": (*SPI_FRAM, "stm32_spi_v1.c", "stm32l4r5.c"),
    "stm32u575": (*SPI_FRAM, "stm32_spi_v3.c", "stm32u575.c"),
    "stm32l072": (*SPI_FRAM, "stm32_spi_v1.c", "stm32l072.c"),
    "apollo4": ("port_application.c", "apollo4_mram.c"),
    # for the tests: the runner's protocol on an emulated FRAM and serial line
    "energyrunner": (*SPI_FRAM, "nrf52833_spi.c", "energyrunner.c", "serial_emulated.c"),
}


def firmware_sources(core: Core, port: str = "emulator", c: Path | None = None) -> list[Path]:
    """The hand-written C files that make a firmware for a core and a port, with the emulated application."""
    c = c or c_dir()
    application: tuple[str, ...] = () if port in ("emulator", "energyrunner") else ("application_emulated.c",)
    if port == "apollo4":
        application = ("apollo4_hal_emulated.c", *application)
    return [
        *(c / "engine" / name for name in ENGINE),
        *(c / "kernels" / name for name in KERNELS),
        c / "port" / "cortex_m.c",
        c / "port" / core.start_up,
        *(c / "port" / name for name in (*PORTS[port], *application)),
    ]


def linker_script(flash_bytes: int, sram_bytes: int) -> str:
    """The linker script with the board's numbers; it checks both sizes."""
    template = string.Template((c_dir() / "port" / "firmware.ld").read_text())
    return template.substitute(
        FLASH_BASE=FLASH_BASE,
        SRAM_BASE=SRAM_BASE,
        FLASH_BYTES=flash_bytes,
        SRAM_BYTES=sram_bytes,
        STACK_BYTES=STACK_BYTES,
    )


def link_flags(core: Core, script: Path) -> list[str]:
    """Flags of the link."""
    return [
        "-target", core.target, f"-mcpu={core.mcpu}", "-g",
        *([] if core.needs_compiler_rt else ["-nostdlib"]),
        "-Wl,--gc-sections,-e,reset_handler", "-T", str(script),
    ]  # fmt: skip


def build_firmware(
    lowered: Lowered, plan: Plan, device: Device, c: Path | None = None, port: str = "emulator"
) -> Firmware:
    """Compiles and links the firmware of a plan, with one of PORTS. c: another folder of C, for mutation tests.

    Raises InputError for a plan that can only be modelled, Infeasible when code and weights do not fit the flash or statics, arena and stack the SRAM budget.
    """
    if plan.preservation.in_outputs:
        raise InputError(
            f"planner {plan.planner!r} takes a bit of every output and is only modelled: use `jouleflow simulate`, or another "
            "--planner"
        )
    core, c = core_of(device.arch), c or c_dir()
    source = generate(lowered, plan)
    tables = _kept("tables", source, ".c")
    flags = [*compile_flags(core, c), "-c"]
    objects = [cached([path], flags, ".o") for path in [*firmware_sources(core, port, c), tables]]
    flash, sram = device.memory("flash").size_bytes, plan.sram_budget_bytes
    # linked without limits, so that a misfit is told in bytes and not by the linker
    script = _kept("firmware", linker_script(1 << 28, 1 << 28), ".ld")
    elf = cached(objects, link_flags(core, script), ".elf")
    end_flash, end_sram, slices = _sizes(elf)
    if end_flash > flash:
        raise Infeasible(
            f"code and weights take {end_flash} bytes of flash, {device.name} has {flash}",
            f"a board with at least {-(-end_flash // 1024)} kB of flash",
        )
    if end_sram > sram:
        raise Infeasible(f"the firmware takes {end_sram} bytes of SRAM, the budget is {sram}", f"--sram {end_sram}B")
    return Firmware(elf, source, lowered, plan, device, core, end_flash, end_sram, slices)


def _kept(stem: str, text: str, suffix: str) -> Path:
    """A file in the cache with this text, named by it."""
    path = cache_dir() / f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:32]}{suffix}"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=cache_dir(), delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    return path


def _sizes(elf: Path) -> tuple[int, int, int]:
    """End of flash, end of SRAM (bytes from their bases), and the number of slices of weights."""
    with elf.open("rb") as file:
        symbols = {s.name: s for s in ELFFile(file).get_section_by_name(".symtab").iter_symbols()}
    end_flash, end_sram = (symbols[name]["st_value"] for name in ("flash_end", "sram_end"))
    return end_flash - FLASH_BASE, end_sram - SRAM_BASE, symbols["slice_checks"]["st_size"] // 4
