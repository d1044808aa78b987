"""Chooses the tokens that training hides.

Training hides ceil(gamma(u) * L) tokens of an image for a uniform u (Chang et al. 2022, section
3.2). The functions gamma are in models/schedules.py.
"""

import numpy as np

from models.schedules import mask_ratio


def draw_masks(
    generator: np.random.Generator, batch: int, seq_len: int, schedule: str
) -> np.ndarray:
    """Choose ceil(gamma(u) * L) tokens of each image to hide, at least 1, with u ~ U(0, 1).

    Args:
        batch: B, number of images.
        seq_len: L, tokens of one image.
        schedule: a key of MASK_SCHEDULES.

    Returns:
        bool (B, L), True where a token is hidden.
    """
    ratios = mask_ratio(generator.random(batch), schedule)
    return masks_of_ratio(generator, ratios, seq_len)


def masks_of_ratio(generator: np.random.Generator, ratios: np.ndarray, seq_len: int) -> np.ndarray:
    """Choose ceil(ratio * L) tokens of each image to hide, at least 1, at random positions.

    Args:
        ratios: float (B,) in [0, 1].
        seq_len: L, tokens of one image.

    Returns:
        bool (B, L), True where a token is hidden.
    """
    counts = np.maximum(1, np.ceil(ratios * seq_len)).astype(np.int64)
    # Random positions: those of the smallest numbers in a row of random ones.
    order = generator.random((len(ratios), seq_len)).argsort(axis=1)
    masks = np.empty((len(ratios), seq_len), bool)
    np.put_along_axis(masks, order, np.arange(seq_len) < counts[:, None], axis=1)
    return masks
