"""The emulated board: unicorn runs the ELF, native/machine.c is the power supply, the memories and the observer.

This module binds them and drives power cycles. What a run means (causes, latencies) is worked out in `emulate.py`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import unicorn
import unicorn.arm_const as arm
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray

from jouleflow.device.device import Device
from jouleflow.errors import EmulationError
from jouleflow.firmware.build import FLASH_BASE, SRAM_BASE, Firmware
from jouleflow.firmware.cycles import TAKEN_BRANCH_CYCLES
from jouleflow.firmware.image import Image, load_image
from jouleflow.firmware.machine_struct import EVENT, MachineStruct, machine_library
from jouleflow.plan.memory import STACK_BYTES
from jouleflow.profile.profile import costs_at_store
from jouleflow.supply.supply import fill_supply
from jouleflow.trace.trace import Scenario

MMIO_BASE, SYSTEM_BASE = 0x40000000, 0xE000E000
# Peripherals of the chips that have a port: (what answers, page). None: registers that only keep what is written.
PERIPHERALS = (
    ("machine_spi", 0x4002F000),  # nRF52833 SPIM3
    ("machine_pins", 0x50000000),  # nRF52833 P0, STM32L0 port A
    (None, 0x4001E000),  # nRF52833 flash controller
    ("machine_stm32_spi", 0x40013000),  # STM32 SPI1
    ("machine_clocks", 0x40021000),  # STM32L4, L0 clocks
    ("machine_clocks", 0x46020000),  # STM32U5 clocks and power
    (None, 0x40022000),  # STM32 flash controller
    (None, 0x40007000),  # STM32L4, L0 power
    (None, 0x40030000),  # STM32U5 instruction cache
    ("machine_pins", 0x48000000),  # STM32L4 port A
    ("machine_pins", 0x42020000),  # STM32U5 port A
)
NVM_WINDOW = 0x00180000  # where the Apollo4 port reads its MRAM
HAZARD_FROM = 64  # the progress slots guard themselves by checksums
(STOP_NONE, STOP_DOOMED, STOP_DEAD, STOP_DONE, STOP_FAIL, STOP_EVENTS_FULL, STOP_SLICE, STOP_CUT, STOP_REST) = range(9)
PHASES = ("charge", "boot", "recover", "input", "tile", "commit", "output", "idle")
FAIL_TEXT = {
    0x1001: "a read of the input beyond its size",
    0x1002: "a transfer outside SRAM or non-volatile memory",
    0x1003: "an answer to an input that was not given",
    2**32 - 4: "data in non-volatile memory changed by itself again and again",
    2**32 - 5: "the weights in flash are not those that were built in",
}


def _pages(size: int) -> NDArray[np.uint8]:
    """Zeros on whole pages of host memory, so that unicorn can use them in place."""
    size = -(-size // 4096) * 4096
    buffer = np.zeros(size + 4096, np.uint8)
    start = -buffer.ctypes.data % 4096
    return buffer[start : start + size]


@dataclass(frozen=True, slots=True)
class FlashModel:
    """Flash behind two least-recently-used caches of at most 64 lines; instruction lines that follow each other are fetched
    ahead, so only jumps stall."""

    wait_cycles: int
    line_bytes: int
    code_lines: int
    data_lines: int


# The flash accelerator of an STM32L4+ at 120 MHz: 5 wait states, 32 and 8 lines of 32 bytes (ST RM0432, section 3.3.4).
STM32L4_FLASH = FlashModel(5, 32, 32, 8)


class Machine:
    """One board with one firmware in it. Not shared between threads; make one per run.

    scenario None: continuous power. checks: watch for write-after-read hazards and count writes per byte. flash: its wait
    states and caches; None is zero wait states.
    """

    def __init__(
        self,
        firmware: Firmware,
        inputs: NDArray[np.int8],
        scenario: Scenario | None = None,
        *,
        seed: int = 0,
        max_events: int = 0,
        journal_bytes: int = 0,
        checks: bool = False,
        image: Image | None = None,
        flash: FlashModel | None = None,
    ) -> None:
        self.firmware, self.device = firmware, firmware.device
        self.image = image or load_image(firmware)
        self.random = np.random.default_rng(seed)
        self.library = machine_library()
        self.m = MachineStruct()
        self.reference = ctypes.byref(self.m)
        self._map_memories()
        self._set_costs(self.device)
        self._set_inputs(inputs)
        self.m.n_inputs = len(self.inputs)
        self._set_scenario(scenario)
        self.events = np.zeros(max(max_events, 0), EVENT)
        if max_events:
            self.m.events, self.m.max_events = self.events.ctypes.data, max_events
        self.journal = np.zeros((journal_bytes, 8), np.uint8)
        if journal_bytes:
            self.m.journal, self.m.max_journal = self.journal.ctypes.data, journal_bytes
        if checks:
            self.touched = np.zeros(self.nvm.size, np.uint8)
            self.wear = np.zeros(self.nvm.size, np.uint32)
            self.m.touched, self.m.wear = self.touched.ctypes.data, self.wear.ctypes.data
        self.m.hazard_from = HAZARD_FROM
        self.m.cut_after_bytes = 2**64 - 1
        self.m.random_state = int(self.random.integers(1, 2**62))
        self.m.slice_end = 2**63
        self._hook()
        if flash is not None:
            self._hook_flash(flash)
        self.powered = False

    # ---- set-up ----

    def _map_memories(self) -> None:
        firmware, image = self.firmware, self.image
        self.sram = _pages(firmware.sram_bytes + 4096)
        nvm = _pages(max(firmware.plan.nvm_bytes, 64))
        nvm[:] = 0xFF
        self.nvm = nvm[: max(firmware.plan.nvm_bytes, 64)]
        self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.uc.ctl_set_cpu_model(getattr(arm, f"UC_CPU_ARM_{firmware.core.unicorn_cpu}"))
        self.uc.mem_map(FLASH_BASE, image.flash.size, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.uc.mem_write(FLASH_BASE, image.flash.tobytes())
        self.uc.mem_map_ptr(
            SRAM_BASE, self.sram.size, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE, self.sram.ctypes.data
        )
        self.uc.mem_map_ptr(NVM_WINDOW, nvm.size, unicorn.UC_PROT_READ, nvm.ctypes.data)
        self.uc.mem_map(SYSTEM_BASE, 0x1000, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
        m = self.m
        m.code_base, m.code_size = image.code_base, 2 * (image.sum_cycles.size - 1)
        m.sum_cycles, m.sum_instructions = image.sum_cycles.ctypes.data, image.sum_instructions.ctypes.data
        m.sram, m.nvm, m.flash = self.sram.ctypes.data, self.nvm.ctypes.data, image.flash.ctypes.data
        m.sram_base, m.sram_size = SRAM_BASE, firmware.sram_bytes
        m.flash_base, m.flash_size = FLASH_BASE, firmware.flash_bytes
        m.nvm_size = self.nvm.size
        m.branch_cycles = TAKEN_BRANCH_CYCLES

    def _set_costs(self, device: Device) -> None:
        costs, nvm, boost = costs_at_store(device), device.memory("nvm"), 1 / device.converter.output_eff_frac
        m = self.m
        m.cycle_s = 1.0 / device.points[0].clock_hz("cpu")
        m.active_w, m.wait_w = costs.active_w, costs.wait_w
        m.read_s_per_byte, m.write_s_per_byte, m.setup_s = nvm.read_s_per_byte, nvm.write_s_per_byte, nvm.setup_s
        # machine.c adds wait_w over the transfer itself
        m.read_j_per_byte, m.write_j_per_byte = nvm.read_j_per_byte * boost, nvm.write_j_per_byte * boost
        m.setup_j = nvm.setup_j * boost
        m.write_block = nvm.write_block_bytes
        m.boot_s = device.boot_s if device.boot_s > 0 else 1e-6 * (device.boot_j > 0)
        m.boot_w = costs.boot_j / m.boot_s if m.boot_s else 0.0
        m.sense_s = device.sense_s
        m.capacitance_f = device.store.capacitance_f

    def _set_inputs(self, inputs: NDArray[np.int8]) -> None:
        lowered = self.firmware.lowered
        flat = np.ascontiguousarray(inputs.reshape(len(inputs), -1), np.int8)
        if flat.shape[1] != lowered.buffer_bytes[0]:
            raise EmulationError(f"inputs have {flat.shape[1]} values each, the model takes {lowered.buffer_bytes[0]}")
        self.inputs = flat
        self.answers = np.zeros((len(flat), lowered.buffer_bytes[lowered.output_buffer]), np.int8)
        self.answer_time_s = np.zeros(len(flat))
        m = self.m
        m.inputs, m.input_bytes = flat.ctypes.data, flat.shape[1]
        m.answers, m.answer_bytes = self.answers.ctypes.data, self.answers.shape[1]
        m.answer_time_s = self.answer_time_s.ctypes.data

    def _set_scenario(self, scenario: Scenario | None) -> None:
        if scenario is None:
            self.m.continuous = 1
            self.m.supply.energy_j = self.device.store.energy_j(self.device.store.on_v)
            self.until_s = float("inf")
            return
        self._arrays = fill_supply(self.m.supply, self.device, scenario)
        self.library.supply_start(ctypes.byref(self.m.supply), scenario.phase_s, self.m.supply.off_j)
        self.until_s = scenario.duration_s

    def _hook(self) -> None:
        uclib = unicorn.unicorn_py3.unicorn.uclib
        handle = self.uc._uch
        self.m.uc = handle
        self.m.emu_stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        user = ctypes.cast(self.reference, ctypes.c_void_p)
        self._hook_handle = ctypes.c_size_t()
        check = uclib.uc_hook_add(
            handle, ctypes.byref(self._hook_handle), unicorn.UC_HOOK_BLOCK, self._native("machine_block"), user,
            ctypes.c_uint64(1), ctypes.c_uint64(0),
        )  # fmt: skip
        for name, base in (("machine_mmio", MMIO_BASE), *PERIPHERALS):
            if name is None:
                self.uc.mem_map(base, 0x1000, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
                continue
            read, write = self._native(f"{name}_read"), self._native(f"{name}_write")
            check |= uclib.uc_mmio_map(handle, ctypes.c_uint64(base), ctypes.c_size_t(0x1000), read, user, write, user)
        if check:
            raise EmulationError(f"the CPU emulator refused a hook (code {check})")

    def _hook_flash(self, flash: FlashModel) -> None:
        m = self.m
        m.flash_wait, m.flash_line_bytes = flash.wait_cycles, flash.line_bytes
        m.n_code_lines, m.n_data_lines = flash.code_lines, flash.data_lines
        self._flash_handle = ctypes.c_size_t()
        check = unicorn.unicorn_py3.unicorn.uclib.uc_hook_add(
            self.uc._uch, ctypes.byref(self._flash_handle), unicorn.UC_HOOK_MEM_READ, self._native("machine_flash_read"),
            ctypes.cast(self.reference, ctypes.c_void_p), ctypes.c_uint64(FLASH_BASE), ctypes.c_uint64(FLASH_BASE + self.image.flash.size),
        )  # fmt: skip
        if check:
            raise EmulationError(f"the CPU emulator refused a hook (code {check})")

    def _native(self, name: str) -> ctypes.c_void_p:
        return ctypes.cast(getattr(self.library, name), ctypes.c_void_p)

    def talk(self, said: bytes, most: int = 1 << 20) -> bytes:
        """Runs on continuous power with these bytes on the serial line, until the firmware wants more; what it answered."""
        heard, spoken = np.frombuffer(said, np.uint8).copy(), np.zeros(most, np.uint8)
        m = self.m
        m.serial_in, m.serial_in_bytes, m.serial_in_at = heard.ctypes.data, heard.size, 0
        m.serial_out, m.serial_out_bytes, m.serial_out_at = spoken.ctypes.data, spoken.size, 0
        self.run()
        return spoken[: int(m.serial_out_at)].tobytes()

    # ---- power ----

    def scramble(self) -> None:
        """What power loss leaves: random SRAM and registers."""
        self.sram[:] = np.frombuffer(self.random.bytes(self.sram.size), np.uint8)
        # the system area keeps nothing either
        self.uc.mem_write(SYSTEM_BASE, bytes(0x1000))
        values = self.random.integers(0, 2**32, 13)
        for k in range(13):
            self.uc.reg_write(arm.UC_ARM_REG_R0 + k, int(values[k]))

    def reset(self) -> None:
        """The reset vector: stack pointer and program counter from flash."""
        vectors = self.image.flash[:8].view(np.uint32)
        self.uc.reg_write(arm.UC_ARM_REG_SP, int(vectors[0]))
        self.uc.reg_write(arm.UC_ARM_REG_PC, int(vectors[1]))
        self.pc = int(vectors[1])

    def power_on(self) -> bool:
        """Charges, boots, and stands at the reset vector. False: the scenario ended first."""
        while True:
            on = int(self.library.machine_power_on(self.reference, self.until_s))
            if on == 0:
                return False
            if on == 1:
                break
            self.library.machine_power_off(self.reference)
            if self.events.size and self.m.n_events + 64 >= self.m.max_events:
                self.m.stop = STOP_EVENTS_FULL
                return True
        self.scramble()
        self.reset()
        self.powered = True
        return True

    def power_off(self) -> None:
        """The power is gone now."""
        self.library.machine_power_off(self.reference)
        self.powered = False

    # ---- running ----

    def run(self) -> int:
        """Runs until something needs the host: the stop code. DOOMED is resolved to DEAD, exactly at its instruction."""
        m = self.m
        m.stop = STOP_NONE
        self._start(self.pc, 0)
        if m.stop == STOP_NONE:
            raise EmulationError(f"the firmware stopped by itself at {self._where()}")
        if m.stop == STOP_DOOMED:
            k = int(m.doomed_instructions)
            m.stop = STOP_NONE
            if k:
                m.stepping = 1
                self.uc.ctl_remove_cache(self.image.code_base, self.image.code_base + int(m.code_size))
                self._start(int(m.block_address) | 1, k)
                self.uc.ctl_remove_cache(self.image.code_base, self.image.code_base + int(m.code_size))
            m.stepping = 0
            if m.stop == STOP_NONE:
                self._settle_dying()
            m.stop = STOP_DEAD
        elif m.stop in (STOP_SLICE, STOP_EVENTS_FULL):
            at = int(m.block_address) if m.stop == STOP_SLICE else self.uc.reg_read(arm.UC_ARM_REG_PC)
            self.pc = at | 1
        elif m.stop == STOP_FAIL:
            code = int(m.fail_code)
            raise EmulationError(
                f"the firmware failed with code {code if code < 2**31 else code - 2**32}: {FAIL_TEXT.get(code, 'an engine error')}"
            )
        return int(m.stop)

    def _settle_dying(self) -> None:
        self.library.machine_settle(self.reference)

    def _start(self, pc: int, count: int) -> None:
        try:
            self.uc.emu_start(pc | 1, 0xFFFFFFFE, count=count)
        except unicorn.UcError as error:
            if self.m.stop in (STOP_DEAD, STOP_CUT):
                return
            raise EmulationError(f"the firmware faulted at {self._where()}: {error}") from error

    def _where(self) -> str:
        """The function and address of the program counter, for error messages."""
        pc = self.uc.reg_read(arm.UC_ARM_REG_PC)
        with self.firmware.elf.open("rb") as file:
            symbols = ELFFile(file).get_section_by_name(".symtab").iter_symbols()
            names = [(s["st_value"] & ~1, s.name) for s in symbols if s["st_info"]["type"] == "STT_FUNC"]
        name = max((n for n in names if n[0] <= pc), default=(0, "?"))[1]
        return f"{name} (0x{pc:x})"

    def peak_stack_bytes(self, painted: bytes) -> int:
        """Bytes of stack used since the SRAM was `painted`."""
        low = self.image.stack_bottom - SRAM_BASE
        before = np.frombuffer(painted, np.uint8)[low : low + STACK_BYTES]
        changed = np.flatnonzero(self.sram[low : low + STACK_BYTES] != before)
        return STACK_BYTES - int(changed[0]) if changed.size else 0
