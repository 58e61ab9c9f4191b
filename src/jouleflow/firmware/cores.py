"""What the compiler must know of each core: target flags, which inner loops, how it starts."""

from __future__ import annotations

from dataclasses import dataclass

from jouleflow.errors import DeviceError, near_matches


@dataclass(frozen=True, slots=True)
class Core:
    """A CPU core. simd names the folder of inner loops; start_up the file that prepares the core for C."""

    name: str
    target: str
    mcpu: str
    simd: str  # folder below c/kernels
    start_up: str  # file in c/port
    unicorn_cpu: str  # UC_CPU_ARM_...
    needs_compiler_rt: bool = False


CORES = {
    core.name: core
    for core in (
        Core("cortex-m4", "thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp", "dsp", "core_fpu.c", "CORTEX_M4"),
        Core(
            "cortex-m33", "thumb-freestanding-eabihf", "cortex_m33+dsp+fp_armv8d16sp", "dsp", "core_fpu.c", "CORTEX_M33"
        ),
        Core(
            "cortex-m0plus", "thumb-freestanding-eabi", "cortex_m0plus", "portable", "core_plain.c", "CORTEX_M0", True
        ),
    )
}


def core_of(arch: str) -> Core:
    """The core by its name in board files.

    Raises DeviceError for an unknown one.
    """
    if arch not in CORES:
        raise DeviceError(f"no compiler settings for core {arch!r}: {near_matches(arch, CORES)}")
    return CORES[arch]
