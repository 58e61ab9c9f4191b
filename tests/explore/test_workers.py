"""A sweep on a Ray cluster of two nodes gives the cells that it gives here; files go with the work."""

from importlib.resources import files
from pathlib import Path

import pytest

from jouleflow.errors import InputError
from jouleflow.explore.sweep import Sweep, run_sweep
from jouleflow.explore.workers import files_at_hand, read_files, workers

MODEL = str(files("jouleflow") / "demo" / "digits_int8.onnx")
TRACE = str(files("jouleflow") / "trace" / "data" / "rf_walk.csv.gz")
SWEEP = Sweep(MODEL, ("riotee",), (TRACE, "sun_june"), (100e-6, 470e-6), n_inferences=3)


def test_files_are_found_where_they_were_shipped_to(tmp_path: Path) -> None:
    shipped = read_files([MODEL, "sun_june"])
    assert list(shipped) == [MODEL]
    with files_at_hand(shipped) as path_of:
        assert Path(path_of(MODEL)).read_bytes() == Path(MODEL).read_bytes()
        assert path_of(MODEL) != MODEL
        assert Path(path_of(MODEL)).name == Path(MODEL).name
        assert path_of("sun_june") == "sun_june"


def test_a_failing_piece_of_work_ends_the_block() -> None:
    with pytest.raises(ZeroDivisionError), workers(1, None) as submit:
        submit(divmod, 1, 0).result()


@pytest.mark.slow
def test_two_nodes_give_the_same_cells(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the cluster extra is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        there = run_sweep(SWEEP, tmp_path / "there", cluster=cluster.address)
    finally:
        cluster.shutdown()
    assert there == run_sweep(SWEEP, tmp_path / "here", jobs=1)
    assert all(cell.latency_s for cell in there)


def test_no_cluster_is_a_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the cluster extra is not installed")
    with pytest.raises(InputError, match="no Ray cluster there"):
        run_sweep(SWEEP, tmp_path, cluster="127.0.0.1:1")
