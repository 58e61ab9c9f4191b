"""The policy `delay` does for each model what its jouleflow.toml says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.load.client import infer_request, open_loop
from jouleflow.policy.batch import Delay
from jouleflow.serve.repository import Repository
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import serving
from tests.serve.test_chaos import X


def a_model(folder: Path, settings: str) -> Path:
    (folder / "double").mkdir(parents=True)
    affine(folder / "double" / "model.onnx")
    (folder / "double" / "jouleflow.toml").write_text(settings)
    return folder


def test_requests_wait_for_a_preferred_size(tmp_path: Path) -> None:
    n_rows = len(X)
    a_model(tmp_path, f"max_delay_ms = 3600000\npreferred_batch = [{3 * n_rows}]\n")
    with serving(tmp_path, ServerSettings(policy="delay", n_cores=2)) as server:
        sizes = server.app.server.models["double"].tally.batch_sizes
        known = {size: n for size, (n, _) in sizes.items()}
        asked = open_loop("127.0.0.1", server.port, [infer_request("double", X)], np.zeros(6))
        assert asyncio.run(asked).status == [200] * 6  # within the hour
        assert {size: n - known.get(size, 0) for size, (n, _) in sizes.items()} == {3 * n_rows: 2}


def test_what_the_settings_become(tmp_path: Path) -> None:
    assert Repository(a_model(tmp_path / "a", "")).find("double").delay == Delay(0.0, ())
    given = "max_delay_ms = 2.5\npreferred_batch = [4, 8]\n"
    assert Repository(a_model(tmp_path / "b", given)).find("double").delay == Delay(0.0025, (4, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("preferred_batch = [4, 64]", r"\[64\] must be at most max_batch = 32"),
        ("preferred_batch = [0]", "greater than or equal to 1"),
        ("preferred_batch = 4", "preferred_batch: "),
        ("max_delay_ms = -1", "max_delay_ms: "),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, settings: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Repository(a_model(tmp_path, settings)).find("double")
