"""Gentle changes of training images, for small sets: another part of the image, other colors.

A change is a function of (seed, name of the image, number of the copy). So the tokens of changed
copies can be cached, and every run with the same seed sees the same copies.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from utils.seeding import rng

SMALLEST_PART = 0.85  # of the sides of an image
GAIN = 0.15  # largest change of brightness, contrast and saturation

FloatBox = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Augmentation:
    """A part of an image, and factors on its colors.

    Attributes:
        side: sides of the part, as a share of those of the image.
        left: where the part lies, from 0 (at the left edge) to 1 (at the right edge).
        top: the same from top to bottom.
    """

    side: float
    left: float
    top: float
    brightness: float
    contrast: float
    saturation: float

    def part_of(self, box: FloatBox) -> FloatBox:
        """Return the part of a box."""
        across, down = box[2] - box[0], box[3] - box[1]
        left = box[0] + self.left * (1 - self.side) * across
        top = box[1] + self.top * (1 - self.side) * down
        return left, top, left + self.side * across, top + self.side * down

    def recolored(self, pixels: np.ndarray) -> np.ndarray:
        """Change the colors of an image, uint8 (H, W, C). Black and white stay what they are."""
        levels = pixels.astype(np.float32) / 255
        gray = levels.mean(-1, keepdims=True)
        levels = gray + self.saturation * (levels - gray)
        levels = levels.clip(0, 1) ** self.brightness
        # A curve through 0, 1/2 and 1 that is steeper in the middle, or flatter.
        bend = levels + (levels - 0.5) * 4 * levels * (1 - levels) * (self.contrast - 1)
        return np.rint(255 * bend.clip(0, 1)).astype(np.uint8)


def drawn_augmentation(seed: int, name: str, number: int) -> Augmentation:
    """Draw the change that makes a copy of an image."""
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    draw = rng(seed, "augment", int.from_bytes(digest, "little"), number)
    side = draw.uniform(SMALLEST_PART, 1)
    left, top = draw.uniform(0, 1, 2)
    gains = np.exp(draw.uniform(-GAIN, GAIN, 3))
    return Augmentation(float(side), float(left), float(top), *map(float, gains))
