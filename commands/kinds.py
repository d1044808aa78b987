"""The kinds of values that options take: functions from a text to a value, for argparse.

Each raises argparse.ArgumentTypeError, with a message for the user, for any other text.
"""

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from PIL import ImageColor

from models.labels import MAX_SAMPLES
from models.sampling import MAX_STRENGTH
from utils.errors import LEAST_NUMBER
from utils.size import size_of, size_text

MAX_SIDE = 8192  # pixels
MAX_PORT = 65535
MAX_NUMBER = 2**53  # any larger number is a typing mistake
SWITCHED = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Number:
    """A kind of numbers: a function from a text to a number, with bounds that a form can show.

    Attributes:
        need: what a text must be, for the error message.
        low: smallest value; None for no bound but MAX_NUMBER.
        high: largest value; None for no bound but MAX_NUMBER.
        above: bound that every value must exceed.
        below: bound that every value must stay below.
        or_none: whether "none" is read as None.
    """

    need: str
    convert: type[int] | type[float] = int
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    or_none: bool = False

    def __call__(self, text: str) -> Any:
        """Read a number; errors as in the other kinds."""
        if self.or_none and text.strip().lower() == "none":
            return None
        try:
            value = None if "_" in text else self.convert(text)  # Python reads 4_5 as 45
        except ValueError:
            value = None
        need = self.need
        if value is not None and self._accepts(value):
            # Python reads 1e-400 as 0.
            if abs(value) < LEAST_NUMBER and re.search("[1-9]", text.lower().partition("e")[0]):
                need += f", no nearer to 0 than {LEAST_NUMBER:g}"
            elif abs(value) <= MAX_NUMBER:
                return value
            else:
                need += f", no larger than {MAX_NUMBER}"
        raise argparse.ArgumentTypeError(f"needs {need}, got {text[:40]!r}")

    def _accepts(self, value: float) -> bool:
        """Whether a number is within the bounds."""
        bounds = ((ge, self.low), (le, self.high), (gt, self.above), (lt, self.below))
        return all(bound is None or is_met(value, bound) for is_met, bound in bounds)


positive_int = Number("a whole number of at least 1", low=1)
whole_number = Number("a whole number of at least 0", low=0)
token_or_none = Number("a whole number or none", or_none=True)
sample_count = Number(f"a number from 1 to {MAX_SAMPLES}", low=1, high=MAX_SAMPLES)
image_index = Number("a number from 0 to 2^53", low=0)
brightness = Number("a brightness from 1 to 255", low=1, high=255)
positive = Number("a number above 0", float, above=0)
non_negative = Number("a number of at least 0", float, low=0)
# Of guidance or noise.
strength = Number(f"a number from 0 to {MAX_STRENGTH:g}", float, low=0, high=MAX_STRENGTH)
scale = Number(f"a number above 0, at most {MAX_STRENGTH:g}", float, above=0, high=MAX_STRENGTH)
probability = Number("a number from 0 to 1", float, low=0, high=1)
rate = Number("a number from 0 to below 1", float, low=0, below=1)


def list_of(kind: Number) -> Callable[[str], list[Any]]:
    """Make the kind of one or several numbers: `1`, `1,2,2` or `[1, 2, 2]`."""
    return lambda text: [kind(part) for part in _parts(text)]


int_list, beta_list, share_list = map(list_of, (positive_int, rate, probability))


def image_size(text: str) -> int | str:
    """Read the height and width of images: `64` for a square, `32x64` for others."""
    try:
        size = size_of(text)
    except ValueError:
        size = (0, 0)
    if not all(1 <= side <= MAX_SIDE for side in size):
        need = f"needs pixels, 1 to {MAX_SIDE}, or height and width as in 32x64"
        raise argparse.ArgumentTypeError(f"{need}, got {text[:40]!r}")
    return size_text(size)


def text(value: str) -> str:
    """Read a text; refuse an empty one, which comes from an unset shell variable."""
    if not value.strip():
        raise argparse.ArgumentTypeError("is empty; leave the option out")
    return value


def color(value: str) -> str:
    """Read a color: a name of the web, or #rrggbb."""
    try:
        ImageColor.getrgb(value)
    except ValueError:
        need = "needs a color, as white, gray or #00ff00"
        raise argparse.ArgumentTypeError(f"{need}, got {value[:40]!r}") from None
    return value


def switch(text: str) -> bool:
    """Read the value of a switch, as programs that search for good options write it."""
    if text.lower() not in SWITCHED:
        raise argparse.ArgumentTypeError(f"takes no value, or true or false; got {text[:40]!r}")
    return SWITCHED[text.lower()]


def compiling(text: str) -> str:
    """Read "auto", "on" or "off", or the value of a switch."""
    is_on = SWITCHED.get(text.lower())
    return text if is_on is None else "on" if is_on else "off"


def address(text: str) -> str:
    """Read where a page listens: a port, or a host before it, as 0.0.0.0:8000 or [::1]:8000.

    It stays a text, because the text "0" is true.
    """
    found = re.fullmatch(r"(?:(?:\[[^][]+\]|[^][]*):)?([0-9]{1,5})", text)
    if not found or int(found[1]) > MAX_PORT:
        need = f"a port from 0 (any free one) to {MAX_PORT}, or a host and a port as 0.0.0.0:8000"
        raise argparse.ArgumentTypeError(f"needs {need}, got {text[:40]!r}")
    return text


def path(value: str) -> str:
    """Read the path of a file or folder; ~ at its start is the user's home folder."""
    expanded = os.path.expanduser(text(value))  # noqa: PTH111 (Path would shorten "./~x")
    if f"{expanded}/".startswith("~/"):
        raise argparse.ArgumentTypeError(f"{value!r}: this account has no home folder; set HOME")
    return expanded


def checkpoint(value: str) -> str:
    """Read the name of a checkpoint, as utils/hub.py finds it: a path, or a file on the hub."""
    return path(value)


def plain_name(value: str) -> str:
    """Read the name of a folder; refuse a path, and "tokens", which is the token caches' folder."""
    if value in ("", ".", "..", "tokens") or "/" in value or len(value) > 200:
        raise argparse.ArgumentTypeError(f"needs a folder's name without a path, got {value!r}")
    return value


def pattern_list(text: str) -> list[str]:
    """Read one or several patterns of names, with commas or spaces in between."""
    return _split(text)


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
    """Split a list as `_split` does, with or without brackets around it; `[]` is empty."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return _split(text)
    return _split(text[1:-1]) if text[1:-1].strip() else []


def _split(text: str) -> list[str]:
    """Split a text at commas and spaces; refuse an empty part, which comes from an unset variable.

    `1, 2` has two parts, `1,,2` and `1,` have an empty one.
    """
    parts = re.split(r"\s*,\s*|\s+", text.strip())
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} has an empty part: leave it out")
    return parts
