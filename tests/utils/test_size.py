"""Image sizes as options and files write them."""

import pytest

from utils.size import size_of, size_text


@pytest.mark.parametrize(
    ("written", "size", "text"),
    [(64, (64, 64), 64), ("64", (64, 64), 64), ("32x64", (32, 64), "32x64"), ((8, 8), (8, 8), 8)],
)
def test_a_size_is_read_and_written(written, size, text) -> None:
    assert size_of(written) == size
    assert size_text(size) == text


@pytest.mark.parametrize("written", ["", "x", "32x", "x64", "1x2x3", "-4x4", "a", (1, 2, 3), ()])
def test_what_is_no_size_is_refused(written) -> None:
    with pytest.raises(ValueError, match="32x64"):
        size_of(written)
