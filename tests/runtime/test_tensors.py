"""Strings as bytes: as many as the shape says, and no more is read than that takes."""

import pytest

from jouleflow.runtime.tensors import decode_strings

EMPTY = bytes(4)


@pytest.mark.parametrize(("n", "shape"), [(0, (1,)), (1, (2,)), (2, (1,)), (100_000, (1, 1))])
def test_another_number_of_strings_is_refused(n: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"strings"):
        decode_strings(EMPTY * n, shape)


def test_what_is_too_much_is_not_read() -> None:
    """The third string is broken: whoever read on would say that."""
    with pytest.raises(ValueError, match="more strings"):
        decode_strings(EMPTY * 2 + b"\xff\xff\xff\xff", (1,))
