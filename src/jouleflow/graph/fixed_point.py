"""Fixed-point scaling as TFLite's integer kernels do it: a Q31 multiplier and a shift, rounded twice.

Source: the public TFLite quantisation specification and its reference semantics; verified bit for bit in the tests.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def quantize_multiplier(real: float) -> tuple[int, int]:
    """(multiplier, shift) with real = multiplier * 2^(shift - 31) and multiplier in [2^30, 2^31), or (0, 0) for 0."""
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    # frexp gives [0.5, 1); rounding is to nearest, halves away from zero
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    return (multiplier, shift) if shift <= 30 else (INT32_MAX, 30)


def saturating_rounding_doubling_high_mul(a: NDArray[np.integer], b: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """High half of 2ab, rounded to nearest. Shapes broadcast; values are int32 in int64."""
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return np.asarray(np.minimum((product + (1 << 30)) >> 31, INT32_MAX))


def rounding_divide_by_power_of_two(x: NDArray[np.int64], exponent: NDArray[np.integer] | int) -> NDArray[np.int64]:
    """x / 2^exponent, rounded to nearest, halves away from zero."""
    exponent = np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def _doubling_high_product(
    x: NDArray[np.integer], multiplier: NDArray[np.integer] | int, shift: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The high product after the left shift, which wraps as int32 does."""
    shifted = (np.asarray(x, np.int64) << np.maximum(shift, 0)) & 0xFFFFFFFF
    wrapped = np.where(shifted >= 2**31, shifted - 2**32, shifted)
    return saturating_rounding_doubling_high_mul(wrapped, multiplier)


def scale_int32(
    x: NDArray[np.integer], multiplier: NDArray[np.integer] | int, shift: NDArray[np.integer] | int
) -> NDArray[np.int64]:
    """x * multiplier * 2^(shift - 31) in int32 arithmetic; the right shift rounds halves away from zero."""
    shifts = np.asarray(shift, np.int64)
    return rounding_divide_by_power_of_two(_doubling_high_product(x, multiplier, shifts), np.maximum(-shifts, 0))


def scale_accumulator(
    x: NDArray[np.integer], multiplier: NDArray[np.integer] | int, shift: NDArray[np.integer] | int
) -> NDArray[np.int64]:
    """As scale_int32, but the right shift rounds halves up: convolution and dense layers of TFLite's matrix code.

    Found by experiment against LiteRT with its delegate-free resolver; the difference shows only for negative outputs.
    """
    shifts = np.asarray(shift, np.int64)
    right = np.maximum(-shifts, 0)
    return np.asarray((_doubling_high_product(x, multiplier, shifts) + ((np.int64(1) << right) >> 1)) >> right)
