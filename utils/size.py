"""The size of an image, height first, and how options and files write it."""

import re

Size = tuple[int, int]
"""Height and width in pixels."""
WrittenSize = int | str | tuple[int, ...] | list[int]
"""A size as people and files write it: 64 for a square, "32x64" or (32, 64) for others."""


def size_of(written: WrittenSize) -> Size:
    """Read a size.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(written, str):
        sides = re.fullmatch("([0-9]+)(?:x([0-9]+))?", written)
        written = tuple(int(side) for side in sides.groups(default=sides[1])) if sides else ()
    elif not isinstance(written, tuple | list):
        written = (written, written)
    if len(written) != 2:
        raise ValueError("a size is one number, or height and width as in 32x64")
    return written[0], written[1]


def size_text(size: Size) -> int | str:
    """Write a size as `size_of` reads it; one number stands for a square."""
    height, width = size
    return height if height == width else f"{height}x{width}"
