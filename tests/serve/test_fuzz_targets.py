"""What the fuzzers of `fuzz/` run holds on good inputs, on these cut and changed at every byte, and on anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_cut_and_changed_anywhere(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for seed in target.seeds:
        target.run(seed, tmp_path)
        for k in range(min(len(seed), 400)):
            target.run(seed[:k], tmp_path)
            target.run(seed[:k] + bytes([seed[k] ^ 1 << k % 8]) + seed[k + 1 :], tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_anything(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(target.seeds), st.integers(0, 1000), st.binary(max_size=40))
    def run(seed: bytes, at: int, put: bytes) -> None:
        target.run(put, tmp_path)
        target.run(seed[:at] + put + seed[at + len(put) :], tmp_path)

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_taken_and_bad_ones_are_not(name: str, tmp_path: Path) -> None:
    """Else a fuzzer would start from what is refused at once."""
    assert TARGETS[name].run(TARGETS[name].seeds[0], tmp_path)
    assert not TARGETS[name].run(b"\xff" * 100, tmp_path)
