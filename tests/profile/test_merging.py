"""Several profiles of one box say together what one would have said that took as long."""

import pytest

from jouleflow.errors import InputError
from jouleflow.profile.merging import merge_profiles
from jouleflow.profile.serving import Cell, ProfiledModel, ServingProfile, Wakes


def a_profile(row_s: float, front_s: float, wait_s: float, n_cores: int = 2, sha256: str = "0" * 64) -> ServingProfile:
    model = ProfiledModel(
        sha256=sha256, threads=1, max_batch=8, n_instances=2, slo_s=0.1, priority=5, memory_bytes=int(row_s * 1e6),
        front_s=front_s, longer_s=row_s, cold_spread_s=(row_s, 2 * row_s),
    )  # fmt: skip
    cells = tuple(
        Cell(models=("m",), rows=(n,), alone_s=(row_s * n,), slowdown=(1.0,), core_s=1, energy_j=1) for n in (1, 8)
    )
    wakes = Wakes(idle_s=(0.1,), spread_s=(((wait_s,), (2 * wait_s,)), ((3 * wait_s,), (4 * wait_s,))))
    return ServingProfile(
        machine="made up", n_cores=n_cores, energy="modelled", energy_source="none", models={"m": model},
        cells=cells, n_disturbed=1, wakes=wakes,
    )  # fmt: skip


def test_a_slow_minute_is_one_of_several() -> None:
    merged = merge_profiles([a_profile(0.001, 2e-4, 1e-5), a_profile(0.002, 9e-4, 3e-5), a_profile(0.0011, 3e-4, 2e-5)])
    assert merged.latencies("m").of(8) == pytest.approx(0.008), "the lower quartile of all"
    model = merged.models["m"]
    assert (model.front_s, model.longer_s, model.memory_bytes) == (3e-4, 0.0011, 2000)
    assert model.cold_spread_s == (0.001, 0.0011, 0.002, 0.002, 0.0022, 0.004)
    assert (len(merged.cells), merged.n_disturbed) == (6, 3)
    assert merged.wakes.spread(1, 0.0) == pytest.approx((3e-5, 6e-5, 9e-5))
    assert merged.wakes.spread(0, 0.2) == pytest.approx((2e-5, 4e-5, 6e-5))


def test_one_profile_stays_what_it_is() -> None:
    one = a_profile(0.001, 2e-4, 1e-5)
    assert merge_profiles([one]) == one


def test_profiles_of_different_boxes_are_not_merged() -> None:
    one = a_profile(0.001, 2e-4, 1e-5)
    for other in (a_profile(0.001, 2e-4, 1e-5, n_cores=4), a_profile(0.001, 2e-4, 1e-5, sha256="1" * 64)):
        with pytest.raises(InputError, match="same cores"):
            merge_profiles([one, other])
    with pytest.raises(InputError, match="measured alike"):
        merge_profiles([one, one.model_copy(update={"wakes": Wakes()})])
    with pytest.raises(InputError, match="at least one"):
        merge_profiles([])
