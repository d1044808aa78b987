"""Which tokens are hidden in training, and the functions that say how many.

A schedule is a function gamma of u in [0, 1] with gamma(0) = 1 and gamma(1) = 0. Training hides
ceil(gamma(u) * L) tokens for a uniform u (Chang et al. 2022, section 3.2); decoding shapes its plan
with the same functions (decoding.py).
"""

from collections.abc import Callable

import numpy as np

SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "arccos": lambda u: 2 / np.pi * np.arccos(u),  # valeoai/Maskgit-pytorch v1.0
    "cosine": lambda u: np.cos(np.pi / 2 * u),  # Chang et al. 2022
    "linear": lambda u: 1 - u,
    "square": lambda u: 1 - u**2,
    "root": lambda u: 1 - np.sqrt(u),
}


def mask_ratio(u: np.ndarray, schedule: str) -> np.ndarray:
    """Fraction of tokens hidden at progress u.

    Args:
        u: uniform noise in training, progress in decoding; float64, any shape, in [0, 1].
        schedule: a key of SCHEDULES.

    Returns:
        Ratios in [0, 1], shape of u: 1 at u = 0, 0 at u = 1.

    Raises:
        ValueError: if the schedule is unknown.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown mask schedule {schedule!r}; choose from {', '.join(SCHEDULES)}")
    return np.clip(SCHEDULES[schedule](np.asarray(u, np.float64)), 0, 1)


def draw_masks(
    generator: np.random.Generator, batch: int, seq_len: int, schedule: str
) -> np.ndarray:
    """Hide a random subset of each image's tokens, of exactly ceil(gamma(u) * L), at least 1.

    Args:
        generator: source of all randomness.
        batch: B, images.
        seq_len: L, tokens of one image.
        schedule: a key of SCHEDULES.

    Returns:
        bool (B, L), True where a token is hidden.
    """
    ratios = mask_ratio(generator.random(batch), schedule)
    return masks_of_ratio(generator, ratios, seq_len)


def masks_of_ratio(generator: np.random.Generator, ratios: np.ndarray, seq_len: int) -> np.ndarray:
    """Hide ceil(ratio * L) tokens of each image, at least 1, at random places.

    Args:
        generator: source of the places.
        ratios: float (B,) in [0, 1].
        seq_len: L, tokens of one image.

    Returns:
        bool (B, L), True where a token is hidden.
    """
    counts = np.maximum(1, np.ceil(ratios * seq_len)).astype(np.int64)
    order = generator.random((len(ratios), seq_len)).argsort(axis=1)
    masks = np.empty((len(ratios), seq_len), bool)
    np.put_along_axis(masks, order, np.arange(seq_len) < counts[:, None], axis=1)
    return masks
