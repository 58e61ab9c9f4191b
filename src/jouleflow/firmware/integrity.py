"""The check values of engine/integrity.c, for what the code generator knows in advance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_DATA = 0x6A6F756C  # engine.h
MULTIPLIER = 0x9E3779B1
# A slice of the weights may cost an inference this share of its instructions (a word takes 3, a multiply-accumulate 1.2).
SLICE_COST_FRAC = 0.005
LEAST_SLICE_WORDS = 64


def mix_words(state: int, words: NDArray[np.uint32]) -> int:
    """mix() of integrity.h over words."""
    for word in words.tolist():
        state = (((state >> 13 | state << 19) & 0xFFFFFFFF) ^ word) * MULTIPLIER & 0xFFFFFFFF
    return state


def slice_words(n_words: int, macs: int) -> int:
    """Words of weights that one inference checks: all of them if that is cheap, or an equal part of them."""
    affordable = max(int(SLICE_COST_FRAC * 1.2 * macs / 3), LEAST_SLICE_WORDS)
    n_slices = max(-(-n_words // affordable), 1)
    return max(-(-n_words // n_slices), 1)
