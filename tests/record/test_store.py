import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.record.run import Run
from jouleflow.record.store import load_run, save_run
from tests.report.sample_run import sample_run


def same(a: Run, b: Run) -> bool:
    for f in fields(Run):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if f.name == "events":
            if not all(np.array_equal(getattr(x, c.name), getattr(y, c.name)) for c in fields(x)):
                return False
        elif isinstance(x, np.ndarray):
            if not np.array_equal(x, y):
                return False
        elif x != y:
            return False
    return True


def test_round_trip(tmp_path: Path) -> None:
    run = sample_run()
    assert same(load_run(save_run(run, tmp_path / "run")), run)
    partial = replace(run, complete=False, latency_s=(), n_inferences=0, deadline_s=1.5)
    assert same(load_run(save_run(partial, tmp_path / "run")), partial)


@pytest.mark.parametrize(
    ("name", "text"),
    [("run.json", "{"), ("run.json", "[]"), ("run.json", '{"format_version": 99}'), ("run.json", '{"format_version": 1, "model": 3}'), ("events.parquet", "rubbish"), ("voltage.parquet", "")],
)  # fmt: skip
def test_damaged_files_are_named(name: str, text: str, tmp_path: Path) -> None:
    folder = save_run(sample_run(), tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=name):
        load_run(folder)


def test_absent_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run.json"):
        load_run(tmp_path)


def test_unknown_field(tmp_path: Path) -> None:
    folder = save_run(sample_run(), tmp_path / "run")
    plain = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**plain, "surprise": 1}))
    with pytest.raises(InputError, match="surprise"):
        load_run(folder)
