"""The order of positions of the sampler `halton`.

Besnier et al. 2025, "Halton Scheduler for Masked Generative Image Transformer".

Axes: B images of a block, L tokens of an image, h w token grid.
"""

from functools import cache

import numpy as np

from utils.seeding import rng


def halton_orders(
    seed: int, image_indices: np.ndarray, grid: tuple[int, ...], roll: bool = True
) -> np.ndarray:
    """Compute the place of each position in the Halton order of each image.

    All images use the same cyclic order, but each starts at a random point of it.

    Args:
        image_indices: int (B,), the index of each image.
        grid: (h, w), or (L,) for tokens in a row.
        roll: whether each image starts at a point of its own; otherwise all orders are equal.

    Returns:
        float32 (B, L), in each row a permutation of 0 .. L-1.
    """
    order = halton_order(grid)  # (L,)
    if not roll:
        return np.tile(order.astype(np.float32), (len(image_indices), 1))
    offsets = [rng(seed, "halton", int(index)).integers(len(order)) for index in image_indices]
    return ((order + np.array(offsets)[:, None]) % len(order)).astype(np.float32)


@cache
def halton_order(grid: tuple[int, ...]) -> np.ndarray:
    """Compute the place of each position of a grid in a low-discrepancy order.

    A cell's place is decided by the first point of the Halton sequence (base 2 down, base 3 across)
    that falls into it. Cells that the first 64 L points miss follow in raster order.

    Args:
        grid: (h, w), or (L,) for tokens in a row.

    Returns:
        int64 (L,), a permutation of 0 .. L-1.
    """
    length = int(np.prod(grid))
    numbers = np.arange(1, 64 * length + 1)
    points = [
        _cells_of_radical_inverse(numbers, base, side)
        for base, side in zip((2, 3), grid, strict=False)
    ]
    cells = np.concatenate([np.ravel_multi_index(points, grid), np.arange(length)])
    _, first = np.unique(cells, return_index=True)  # first visit of each cell
    return first.argsort().argsort()


def _cells_of_radical_inverse(numbers: np.ndarray, base: int, side: int) -> np.ndarray:
    """Mirror the digits of positive integers at the radix point, and cut [0, 1) into cells.

    Only integers are used, because in floating point 9 * (1/3 + 1/9) is below 4.

    Args:
        numbers: int64 (N,).
        side: the number of cells.

    Returns:
        int64 (N,) in [0, side).
    """
    mirrored, scale = np.zeros_like(numbers), 1
    while numbers.any():
        numbers, digits = np.divmod(numbers, base)
        mirrored, scale = mirrored * base + digits, scale * base
    return side * mirrored // scale
