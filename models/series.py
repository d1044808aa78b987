"""A series of images that are decoded, and what is seen of their decoding.

Axes: B images, h w token grid.
"""

from dataclasses import dataclass

import numpy as np

from utils.errors import check_whole

BLOCK_SIZE = 256  # images computed at once, by default


@dataclass(frozen=True)
class ImageSeries:
    """A numbered series of images: where their noise comes from, and how they are cut into blocks.

    Attributes:
        seed: the seed; with the index of an image it decides the image's noise.
        block_size: images computed at once.
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
        confidence: float32 (B, h, w) in [0, 1], the probability that the model gave to the token at
            the step that revealed it; at hidden positions that of the token which the last step
            would have taken, 0 before the first. 1 for tokens that the user gave.
    """

    tokens: np.ndarray
    hidden: np.ndarray
    confidence: np.ndarray
