"""Which tokens of an image are to be made anew, and how the result meets the known pixels.

Chang et al. 2022, section 4.3: inpainting, outpainting and class-conditional editing are decoding
with some tokens known from the start. Axes: H W pixels, h w token grid.
"""

import numpy as np
from scipy.ndimage import binary_dilation


def hidden_cells(mask: np.ndarray, grid_size: int, grow: int = 0) -> np.ndarray:
    """The tokens to be made: those whose cell overlaps the mask.

    Args:
        mask: bool (H, W), a multiple of the grid.
        grid_size: h = w.
        grow: tokens by which the region grows to every side.

    Returns:
        bool (h, w).
    """
    factor = len(mask) // grid_size
    blocks = mask.reshape(grid_size, factor, grid_size, factor)
    cells = np.asarray(blocks.any(axis=(1, 3)))
    if grow and cells.any():
        return np.asarray(binary_dilation(cells, np.ones((3, 3), bool), iterations=grow))
    return cells


def pixels_of(cells: np.ndarray, size: int) -> np.ndarray:
    """The pixels of marked cells: bool (h, w) -> bool (size, size)."""
    factor = size // len(cells)
    return cells.repeat(factor, axis=0).repeat(factor, axis=1)


def composite(original: np.ndarray, made: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Put the known pixels back.

    Args:
        original: uint8 (H, W, C).
        made: uint8 (B, H, W, C).
        mask: bool (H, W), True where pixels are made.

    Returns:
        uint8 (B, H, W, C), equal to the original outside the mask.
    """
    return np.where(mask[..., None], made, original)
