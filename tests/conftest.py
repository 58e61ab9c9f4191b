"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def find_data_dir() -> Path | None:
    """The folder of recorded data: JOULEFLOW_DATA, else ../shared/data beside the checkout, else None."""
    for candidate in (os.environ.get("JOULEFLOW_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    found = find_data_dir()
    if found is None:
        pytest.skip("recorded data not found: set JOULEFLOW_DATA or put them at ../shared/data")
    return found
