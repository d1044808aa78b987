"""Images with samples of more than 8 bits, and the rule that converts them to 8 bits.

Gray and color follow the same rule, and all images of a folder have one range. Axes: H W pixels.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor

from utils.progress import log_once

BAND = 1 << 20  # pixels converted at once
WHITES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
RULE = (  # of `black_and_white`
    "samples of more than 8 bits: 0 is black, white is the first of 255, 1023, 4095, 16383, 65535 "
    "that no value of the image or folder exceeds (for floats 1); other values go from the "
    "smallest to the largest"
)


class Range(NamedTuple):
    """Smallest and largest value of the visible samples of deep images."""

    is_float: bool
    low: float
    high: float


class Ranges(NamedTuple):
    """The ranges of a set of deep images: those with whole numbers, and those with floats."""

    whole: Range | None = None
    floats: Range | None = None


NO_RANGES = Ranges()
"""The ranges of a set without deep images."""

SetOfRanges = Ranges | Callable[[], Ranges] | None
"""The ranges of an image's set, or a function that computes them; None for a single image."""


@dataclass(frozen=True)
class DeepImage:
    """An image with samples of more than 8 bits.

    Attributes:
        values: whole numbers or floats, (H, W) or (H, W, 3).
        alpha: float32 (H, W) in [0, 1]; None if nothing is transparent.
        white_is_zero: whether the largest value means black.
        premultiplied: whether `values` have been multiplied by `alpha`.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    white_is_zero: bool = False
    premultiplied: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def is_float(self) -> bool:
        """Whether the samples are floats."""
        return self.values.dtype.kind == "f"

    @property
    def range(self) -> Range:
        """The range of its visible and finite samples; (0, 0) if there are none."""
        limits = []
        for rows in bands(*self.size):
            values = self.values[rows]
            seen = np.isfinite(values)
            if self.alpha is not None:
                alpha = self.alpha[rows] > 0
                seen &= alpha if values.ndim == 2 else alpha[..., None]
            if seen.any():
                limits += [float(values[seen].min()), float(values[seen].max())]
        return Range(self.is_float, min(limits, default=0.0), max(limits, default=0.0))


def eight_bits(deep: DeepImage, page: str, ranges: SetOfRanges) -> Image.Image:
    """Convert a deep image to 8-bit gray or color, as `data.pixels.to_eight_bits` says."""
    ranges = ranges() if callable(ranges) else ranges
    common = ranges and (ranges.floats if deep.is_float else ranges.whole)
    if common is None:
        log_once(RULE)
    black, white = black_and_white(common or deep.range)
    flat = np.empty(deep.values.shape, np.uint8)
    back = np.asarray(ImageColor.getcolor(page, "L" if flat.ndim == 2 else "RGB"), np.float64)
    for rows in bands(*deep.size):
        levels = np.nan_to_num(deep.values[rows].astype(np.float64), nan=black)
        levels = ((levels - black) * 255 / (white - black)).clip(0, 255)
        if deep.white_is_zero:
            levels = 255 - levels
        if deep.alpha is not None:
            alpha = deep.alpha[rows] if flat.ndim == 2 else deep.alpha[rows][..., None]
            levels = levels * (1 if deep.premultiplied else alpha) + back * (1 - alpha)
        flat[rows] = levels.clip(0, 255).round()
    return checked_visible(deep.alpha is None or bool(deep.alpha.any()), Image.fromarray(flat))


def common_ranges(found: Iterable[object]) -> Ranges:
    """Join the ranges in `found` into those of the whole set; ignore everything else in it."""
    ranges: dict[bool, Range] = {}
    for one in found:
        if isinstance(one, Range):
            other = ranges.get(one.is_float, one)
            low, high = min(one.low, other.low), max(one.high, other.high)
            ranges[one.is_float] = Range(one.is_float, low, high)
    return Ranges(ranges.get(False), ranges.get(True))


def black_and_white(found: Range) -> tuple[float, float]:
    """Return the values that mean black and white.

    Black is 0. White is the first of WHITES, the depths of cameras and scanners, that no value
    exceeds; for floats it is 1. If values lie outside, black is the smallest and white the largest.
    """
    whites = [white for white in ((1.0,) if found.is_float else WHITES) if found.high <= white]
    if found.low >= 0 and whites:
        return 0.0, whites[0]
    return found.low, found.high if found.high > found.low else found.low + 1


def bands(height: int, width: int) -> Iterator[slice]:
    """Cut an image into bands of full width, to need little memory at once."""
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def checked_visible(visible: bool, image: Image.Image) -> Image.Image:
    """Return an image if anything in it is visible.

    Raises:
        ValueError: if nothing is visible; the pixels could then mean nothing.
    """
    if not visible:
        raise ValueError("it is transparent everywhere; remove its alpha if its colors are meant")
    return image
