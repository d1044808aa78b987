"""Draws what decoding needs at random: noise for every step, and an order of the positions.

Both depend only on the seed and the index of the image. So an image is the same in every batch and
process.

Axes: B images of a batch, L tokens of an image, T steps.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.device import send
from utils.seeding import rng


class Noise(NamedTuple):
    """The random numbers of a batch's decoding.

    Attributes:
        uniform: float32 (T, B, L) in [0, 1], to draw tokens by inverting the CDF.
        gumbel: float32 (T, B, L), standard Gumbel noise, to choose positions.
    """

    uniform: Tensor
    gumbel: Tensor


def draw_noise(
    seed: int, image_indices: np.ndarray, num_steps: int, seq_len: int, device: torch.device
) -> Noise:
    """Draw the noise of each image.

    The noise of a step does not depend on the number of steps after it. It is drawn on the CPU in
    float64, which keeps the tails of the Gumbel distribution.

    Args:
        seed: seed of the sampling.
        image_indices: int (B,), the index of each image.
        num_steps: T.
        seq_len: L.
        device: device of the result.
    """
    uniforms = np.empty((num_steps, len(image_indices), 2, seq_len))
    for column, index in enumerate(image_indices):
        draws = rng(seed, "decode", int(index)).random((num_steps, 2, seq_len))
        uniforms[:, column] = draws
    # Neither 0 nor 1, of which the logarithm below would be infinite.
    uniforms = np.clip(uniforms, np.finfo(np.float64).tiny, 1 - 2**-53)
    gumbel = -np.log(-np.log(uniforms[:, :, 1]))
    arrays = (uniforms[:, :, 0], gumbel)
    return Noise(*(send(torch.from_numpy(a.astype(np.float32)), device) for a in arrays))


def halton_orders(seed: int, image_indices: np.ndarray, seq_len: int) -> np.ndarray:
    """Compute the place of each position in the Halton order of each image.

    All images use the same cyclic order, but each starts at a random point of it.

    Args:
        seed: seed of the sampling.
        image_indices: int (B,), the index of each image.
        seq_len: L, a square number.

    Returns:
        float32 (B, L), in each row a permutation of 0 .. L-1.
    """
    offsets = [rng(seed, "halton", int(index)).integers(seq_len) for index in image_indices]
    places = (halton_order(seq_len) + np.array(offsets)[:, None]) % seq_len
    return places.astype(np.float32)


@cache
def halton_order(seq_len: int) -> np.ndarray:
    """Compute the place of each position of a square grid in a low-discrepancy order.

    Besnier et al. 2025, "Halton Scheduler for Masked Generative Image Transformer": a cell's place
    is decided by the first point of the Halton sequence (base 2 down, base 3 across) that falls
    into it. Cells that the first 64 L points miss follow in raster order.

    Args:
        seq_len: L, a square number.

    Returns:
        int64 (L,), a permutation of 0 .. L-1.
    """
    side = math.isqrt(seq_len)
    numbers = np.arange(1, 64 * seq_len + 1)
    columns, rows = ((side * _radical_inverse(numbers, base)).astype(int) for base in (3, 2))
    cells = np.concatenate([rows * side + columns, np.arange(seq_len)])
    _, first = np.unique(cells, return_index=True)  # first visit of each cell
    return first.argsort().argsort()


def _radical_inverse(numbers: np.ndarray, base: int) -> np.ndarray:
    """Mirror the digits of positive integers at the radix point: float64 in (0, 1)."""
    result = np.zeros(len(numbers))
    scale = 1.0
    while numbers.any():
        numbers, digits = np.divmod(numbers, base)
        scale /= base
        result += digits * scale
    return result
