"""The emulated board as native/machine.c has it: the same fields in the same order, and the compiled library."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np

from jouleflow.supply.native import shared_library
from jouleflow.supply.supply import SupplyStruct

NATIVE = Path(__file__).parent / "native"
SUPPLY = Path(__file__).parents[1] / "supply"

EVENT = np.dtype(
    [
        ("time_s", "f8"), ("duration_s", "f8"), ("energy_j", "f8"), ("voltage_v", "f8"), ("op", "i4"), ("tile", "i4"),
        ("kind", "u4"), ("instructions", "u4"), ("cycles", "u4"), ("reserved", "u4"), ("read", "u4"), ("write", "u4"),
    ]
)  # fmt: skip


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class MachineStruct(ctypes.Structure):
    """struct machine of machine.h."""

    _fields_ = (
        [("supply", SupplyStruct)]
        + _fields(ctypes.c_double, "capacitance_f")
        + _fields(ctypes.c_void_p, "uc emu_stop")
        + _fields(ctypes.c_uint64, "code_base code_size")
        + _fields(ctypes.c_void_p, "sum_cycles sum_instructions sram nvm flash")
        + _fields(ctypes.c_uint64, "sram_base sram_size flash_base flash_size nvm_size")
        + _fields(ctypes.c_double, "cycle_s active_w wait_w read_s_per_byte write_s_per_byte read_j_per_byte")
        + _fields(ctypes.c_double, "write_j_per_byte setup_s setup_j boot_s boot_w sense_s")
        + _fields(ctypes.c_uint64, "n_rests")
        + _fields(ctypes.c_uint32, "sensed_nj_limit")
        + _fields(ctypes.c_uint32, "branch_cycles write_block")
        + _fields(ctypes.c_int32, "continuous")
        + _fields(ctypes.c_void_p, "inputs answers answer_time_s")
        + _fields(ctypes.c_uint64, "n_inputs input_bytes answer_bytes n_answers")
        + _fields(ctypes.c_uint32, "offset address length fail_code mark_op")
        + _fields(ctypes.c_int32, "stop stepping")
        + _fields(ctypes.c_uint64, "instructions cycles pending_cycles budget_cycles slice_end")
        + _fields(ctypes.c_uint64, "block_address block_end doomed_instructions")
        + _fields(ctypes.c_uint64, "n_failures n_commits n_boots nvm_read_bytes nvm_write_bytes")
        + _fields(ctypes.c_uint32, "phase")
        + _fields(ctypes.c_int32, "phase_op phase_tile")
        + _fields(ctypes.c_double, "phase_start_s phase_spent_j")
        + _fields(ctypes.c_uint64, "phase_instructions phase_cycles phase_read phase_write")
        + [("time_by_phase_s", ctypes.c_double * 8), ("energy_by_phase_j", ctypes.c_double * 8)]
        + _fields(ctypes.c_double, "unsafe_compute_s unsafe_compute_j lost_s lost_j charging_s")
        + _fields(ctypes.c_void_p, "events")
        + _fields(ctypes.c_uint64, "n_events max_events")
        + _fields(ctypes.c_void_p, "journal")
        + _fields(ctypes.c_uint64, "n_journal max_journal")
        + _fields(ctypes.c_void_p, "touched")
        + _fields(ctypes.c_uint64, "hazard_from n_hazards first_hazard")
        + _fields(ctypes.c_void_p, "wear")
        + _fields(ctypes.c_uint64, "cut_after_bytes random_state")
        + _fields(ctypes.c_uint32, "spi_tx spi_tx_count spi_rx spi_rx_count spi_end spi_fifo spi_fifo_count")
        + _fields(ctypes.c_uint32, "fram_opcode fram_address fram_enabled fram_selected fram_command_bytes")
        + _fields(ctypes.c_double, "spi_last_s")
        + _fields(ctypes.c_uint32, "flash_wait flash_line_bytes n_code_lines n_data_lines flash_clock flash_last_line")
        + [(name, ctypes.c_uint32 * 64) for name in ("code_lines", "data_lines", "code_used", "data_used")]
        + _fields(ctypes.c_uint64, "flash_stalls")
        + _fields(ctypes.c_void_p, "serial_in")
        + _fields(ctypes.c_uint64, "serial_in_bytes serial_in_at")
        + _fields(ctypes.c_void_p, "serial_out")
        + _fields(ctypes.c_uint64, "serial_out_bytes serial_out_at")
    )


@functools.cache
def machine_library() -> ctypes.CDLL:
    """The compiled machine.c, with supply.c in it."""
    library = ctypes.CDLL(str(shared_library([NATIVE / "machine.c", SUPPLY / "supply.c"], SUPPLY)))
    pointer = ctypes.POINTER(MachineStruct)
    library.machine_power_on.argtypes = [pointer, ctypes.c_double]
    library.machine_power_on.restype = ctypes.c_int
    for name in ("machine_settle", "machine_power_off"):
        getattr(library, name).argtypes = [pointer]
        getattr(library, name).restype = None
    library.supply_start.argtypes = [ctypes.POINTER(SupplyStruct), ctypes.c_double, ctypes.c_double]
    library.supply_start.restype = None
    return library
