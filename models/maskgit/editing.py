"""Which part of an image is to be made anew, in pixels and in tokens.

Chang et al. 2022, section 4.3: inpainting, outpainting and class-conditional editing are decoding
with some tokens known from the start. Axes: H W pixels, h w token grid.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import binary_dilation

from models.maskgit.config import SIDES

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels from the top left corner; x1 and y1 are the first outside."""


def box_mask(size: int, boxes: Sequence[Box]) -> np.ndarray:
    """Mark the pixels inside any of the boxes.

    Args:
        size: side of the image.
        boxes: within the image, none empty.

    Returns:
        bool (size, size).

    Raises:
        ValueError: naming a box that is empty or reaches outside.
    """
    mask = np.zeros((size, size), bool)
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size):
            raise ValueError(
                f"--mask_box {x0},{y0},{x1},{y1} is empty or leaves the image: x0,y0,x1,y1 need "
                f"0 <= x0 < x1 <= {size} and 0 <= y0 < y1 <= {size}"
            )
        mask[y0:y1, x0:x1] = True
    return mask


def outpainted(image: np.ndarray, margins: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make room at the sides of an image by shifting it, at the cost of the opposite sides.

    Args:
        image: uint8 (H, W, C).
        margins: pixels to be made at some of SIDES.

    Returns:
        The shifted image, uint8 (H, W, C), its edges drawn out over the new pixels, and bool
        (H, W), True at these.

    Raises:
        ValueError: if nothing of the image would be left.
    """
    height, width = image.shape[:2]
    left, right, top, bottom = (margins.get(side, 0) for side in SIDES)
    if left + right >= width or top + bottom >= height:
        raise ValueError(f"--outpaint leaves nothing of an image {width} pixels wide and high")
    # Opposite margins share the cut: the middle of what is kept stays in its middle.
    kept = image[bottom : height - top, right : width - left]
    new = np.ones((height, width), bool)
    new[top : height - bottom, left : width - right] = False
    return np.pad(kept, ((top, bottom), (left, right), (0, 0)), mode="edge"), new


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
