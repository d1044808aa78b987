"""The kinds of values that options take: functions from a text to a value, for argparse.

Each raises argparse.ArgumentTypeError, with a message for the user, if the text is not of its kind.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

from models.labels import MAX_SAMPLES
from models.sampling import MAX_STRENGTH

MAX_SIDE = 8192  # pixels
MAX_NUMBER = 2**53  # any larger number is a typing mistake
SIDES = ("left", "right", "top", "bottom")


def _number(
    text: str, kind: Callable[[str], Any], accepts: Callable[[Any], bool], need: str
) -> Any:
    """Read a number; `need` says in the error message what `accepts` accepts."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not -MAX_NUMBER <= value <= MAX_NUMBER or not accepts(value):
        if value is not None and accepts(value):
            need += f", no larger than {MAX_NUMBER}"
        raise argparse.ArgumentTypeError(f"needs {need}, got {text[:40]!r}")
    return value


def positive_int(text: str) -> int:
    """Read a whole number of at least 1."""
    return _number(text, int, lambda v: v >= 1, "a whole number of at least 1")


def whole_number(text: str) -> int:
    """Read a whole number of at least 0."""
    return _number(text, int, lambda v: v >= 0, "a whole number of at least 0")


def any_whole_number(text: str) -> int:
    """Read a whole number, which may be negative."""
    return _number(text, int, lambda v: True, "a whole number")


def image_side(text: str) -> int:
    """Read the side of an image in pixels, 1 to MAX_SIDE."""
    return _number(text, int, lambda v: 1 <= v <= MAX_SIDE, f"pixels, 1 to {MAX_SIDE}")


def sample_count(text: str) -> int:
    """Read a number of images, 1 to MAX_SAMPLES."""
    return _number(text, int, lambda v: 1 <= v <= MAX_SAMPLES, f"a number from 1 to {MAX_SAMPLES}")


def image_index(text: str) -> int:
    """Read the index of an image, 0 to 2^53."""
    return _number(text, int, lambda v: v >= 0, "a number from 0 to 2^53")


def text(value: str) -> str:
    """Read a text; refuse an empty one, which an unset shell variable leaves."""
    if not value.strip():
        raise argparse.ArgumentTypeError("is empty; leave the option out")
    return value


def path(value: str) -> str:
    """Read the path of a file or folder; ~ at its start is the user's home folder."""
    expanded = os.path.expanduser(text(value))  # noqa: PTH111 (Path would shorten "./~x")
    if f"{expanded}/".startswith("~/"):
        raise argparse.ArgumentTypeError(f"{value!r}: this account has no home folder; set HOME")
    return expanded


def plain_name(value: str) -> str:
    """Read the name of a folder; refuse a path, and "tokens", which is the token caches' folder."""
    if value in ("", ".", "..", "tokens") or "/" in value or len(value) > 200:
        raise argparse.ArgumentTypeError(f"needs a folder's name without a path, got {value!r}")
    return value


def positive(text: str) -> float:
    """Read a number above 0."""
    return _number(text, float, lambda v: v > 0, "a number above 0")


def non_negative(text: str) -> float:
    """Read a number of at least 0."""
    return _number(text, float, lambda v: v >= 0, "a number of at least 0")


def strength(text: str) -> float:
    """Read a strength of guidance or noise, in [0, MAX_STRENGTH]."""
    need = f"a number from 0 to {MAX_STRENGTH:g}"
    return _number(text, float, lambda v: 0 <= v <= MAX_STRENGTH, need)


def scale(text: str) -> float:
    """Read a factor in (0, MAX_STRENGTH]."""
    need = f"a number above 0, at most {MAX_STRENGTH:g}"
    return _number(text, float, lambda v: 0 < v <= MAX_STRENGTH, need)


def probability(text: str) -> float:
    """Read a number in [0, 1]."""
    return _number(text, float, lambda v: 0 <= v <= 1, "a number from 0 to 1")


def rate(text: str) -> float:
    """Read a number in [0, 1)."""
    return _number(text, float, lambda v: 0 <= v < 1, "a number from 0 to below 1")


def int_list(text: str) -> list[int]:
    """Read one or several whole numbers above 0: `1`, `1,2,2` or `[1, 2, 2]`."""
    return [positive_int(part) for part in _parts(text)]


def beta_list(text: str) -> list[float]:
    """Read one or several numbers in [0, 1), written as for `int_list`."""
    return [rate(part) for part in _parts(text)]


def share_list(text: str) -> list[float]:
    """Read one or several numbers in [0, 1], written as for `int_list`."""
    return [probability(part) for part in _parts(text)]


def box_of(text: str) -> tuple[int, ...]:
    """Read the corners x0,y0,x1,y1 of a rectangle, four whole numbers."""
    parts = [whole_number(part) for part in _parts(text)]
    if len(parts) != 4:
        raise argparse.ArgumentTypeError(f"needs x0,y0,x1,y1, got {text!r}")
    return tuple(parts)


def margin(text: str) -> tuple[str, int]:
    """Read a side of an image and a width in pixels, as in `left=8`."""
    side, _, pixels = text.partition("=")
    if side not in SIDES:
        raise argparse.ArgumentTypeError(f"needs {', '.join(SIDES)}=PIXELS, got {text!r}")
    return side, positive_int(pixels)


def _parts(text: str) -> list[str]:
    """Split a list at commas and spaces, with or without brackets around it."""
    return text.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
