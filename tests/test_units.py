import pytest
from hypothesis import given
from hypothesis import strategies as st

from jouleflow.errors import InputError
from jouleflow.units import PREFIXES, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [("470uF", "F", 470e-6), ("470 µF", "F", 470e-6), ("1e-3", "F", 1e-3), ("32kB", "B", 32768), ("2 MiB", "B", 2 << 20), ("10s", "s", 10), ("5m", "s", 5e-3), ("64MHz", "Hz", 64e6)],
)  # fmt: skip
def test_parse(text: str, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "uF", "-3uF", "0", "nan", "470 parsecs", "1e999", "4 7uF", "inf"])
def test_refuses(text: str) -> None:
    with pytest.raises(InputError, match="470uF"):
        parse_quantity(text, "F")


@given(st.floats(1e-11, 1e9))
def test_round_trip(value: float) -> None:
    text = format_quantity(value, "F", 6)
    assert parse_quantity(text, "F") == pytest.approx(value, rel=1e-4)


def test_every_prefix_is_read() -> None:
    for prefix, size in PREFIXES.items():
        assert parse_quantity(f"3{prefix}J", "J") == pytest.approx(3 * size)
