"""A step of a decoding, as `Model.decode_steps` shows it.

Axes: B images, h w token grid.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DecodedStep:
    """The tokens of images after a step of decoding.

    Attributes:
        tokens: int64 (B, h, w); those at hidden positions mean nothing yet.
        hidden: bool (B, h, w), True where a token is still hidden.
        confidence: float32 (B, h, w) in [0, 1]. For a revealed token, its probability at the step
            that revealed it. For a hidden one, the probability of the token that the last step
            proposed; 0 before the first step. For a token that the user gave, 1.
        proposed: int64 (B, h, w), the tokens with those that the last step drew where they are
            hidden; before the first step the same as `tokens`.
        surest: int64 (B, h, w), the same with the likeliest tokens instead of drawn ones.
    """

    tokens: np.ndarray
    hidden: np.ndarray
    confidence: np.ndarray
    proposed: np.ndarray
    surest: np.ndarray
