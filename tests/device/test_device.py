from pathlib import Path

import pytest

from jouleflow.device.device import Store
from jouleflow.device.load import known_systems, load_system
from jouleflow.errors import DeviceError
from jouleflow.firmware.cores import core_of

DATA = Path(__file__).parents[2] / "src" / "jouleflow" / "device" / "data"


@pytest.mark.parametrize("name", known_systems())
def test_board_is_plausible(name: str) -> None:
    d = load_system(name).device
    assert core_of(d.arch)
    assert 1e-3 < d.points[0].active_w < 0.1
    assert all(text.strip() for _, text in d.sources)
    # one charge pays the boot and 10 ms of work
    assert d.store.usable_j * d.converter.output_eff_frac > d.boot_j + 0.01 * d.points[0].active_w


def test_unknown_board_has_near_matches() -> None:
    with pytest.raises(DeviceError, match="did you mean riotee"):
        load_system("rioti")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("leak_w =", "leek_w =", "unknown key"),
        ("on_v = 3.3", "on_v = 1.6", "on_v=1.6 must exceed off_v=2.0"),
        ("capacitance_f = 470e-6", "capacitance_f = -1", "capacitance_f"),
        ("on_v = 3.3", "on_v = 3.3\non_v = 3.4", "riotee"),
        ('boot = "estimated', 'noot = "estimated', "boot.boot_s has no source"),
        ('"store.off_v" = "estimated: above', '"store.off_v" = "" # ', "blank"),
        ("active_w = 0.0099", "active_w = nan", "active_w"),
    ],
)
def test_bad_board_files(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = (DATA / "riotee.toml").read_text()
    assert old in text
    path = tmp_path / "riotee.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DeviceError, match=message):
        load_system(str(path))


def test_usable_energy_by_hand() -> None:
    assert Store(100e-6, 2.0, 3.0, 4.0).usable_j == pytest.approx(100e-6 * (9 - 4) / 2)
