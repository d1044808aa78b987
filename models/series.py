"""A series of images to decode, and a step of their decoding.

Axes: B images, h w token grid.
"""

from dataclasses import dataclass

import numpy as np

from utils.errors import check_whole

BLOCK_SIZE = 256  # images computed at once, by default


@dataclass(frozen=True)
class ImageSeries:
    """A numbered series of images: the seed of their noise, and their division into blocks.

    Attributes:
        seed: together with the index of an image it decides the image's noise.
    """

    seed: int = 0
    first_image: int = 0
    block_size: int = BLOCK_SIZE

    def validate(self) -> None:
        """Check every field.

        Raises:
            FieldError: naming the first one that is wrong.
        """
        for name, low in (("seed", 0), ("first_image", 0), ("block_size", 1)):
            check_whole(name, getattr(self, name), low)


@dataclass(frozen=True)
class DecodedStep:
    """The tokens of images after a step of decoding.

    Attributes:
        tokens: int64 (B, h, w); those at hidden positions mean nothing yet.
        hidden: bool (B, h, w), True where a token is still hidden.
        confidence: float32 (B, h, w) in [0, 1]. For a revealed token, its probability at the step
            that revealed it. For a hidden one, the probability of the token that the last step
            proposed; 0 before the first step. For a token that the user gave, 1.
    """

    tokens: np.ndarray
    hidden: np.ndarray
    confidence: np.ndarray
