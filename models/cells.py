"""Editing on the token grid: which tokens are regenerated, and which pixels are put back.

Chang et al. 2022, section 4.3: inpainting, outpainting and class-conditional editing are decoding
with some tokens known from the start. Axes: H W pixels, h w token grid.
"""

import numpy as np
import torch
import torch.nn.functional as F

from utils.errors import FieldError, UserError
from utils.size import Size


def check_cells(grid: tuple[int, ...], what: str) -> None:
    """Check that each token describes one cell of the image.

    Args:
        what: the start of the message: what needs such tokens.

    Raises:
        UserError: if the tokens describe the whole image.
    """
    if len(grid) != 2:
        raise UserError(
            f"{what}: each of this tokenizer's {grid[0]} tokens describes the whole image, not a "
            "cell of it"
        )


def check_image(image: np.ndarray, mask: np.ndarray, size: Size, channels: int) -> None:
    """Check that an image and a mask have the shape and dtype that a model needs.

    Args:
        image: must be uint8 (H, W, channels).
        mask: must be bool (H, W).

    Raises:
        FieldError: naming the wrong one, and what it must be.
    """
    shape = (*size, channels)
    if image.shape != shape or image.dtype != np.uint8:
        raise FieldError("image", f"{image.dtype} {image.shape}", f"must be uint8 {shape}")
    if mask.shape != shape[:2] or mask.dtype != bool:
        raise FieldError("mask", f"{mask.dtype} {mask.shape}", f"must be bool {shape[:2]}")


def hidden_cells(
    mask: np.ndarray, grid: tuple[int, ...], grow: int = 0, splits: int = 1
) -> np.ndarray:
    """Find the tokens to regenerate: those whose cell overlaps the mask.

    Args:
        mask: bool (H, W), multiples of `grid`.
        grid: (h, w).
        grow: cells by which the region grows on every side.
        splits: tokens of a cell (`NetworkShape.splits`).

    Returns:
        bool (h, w), True where a token is regenerated.
    """
    (height, width), (rows, columns) = mask.shape, (grid[0], grid[1] // splits)
    blocks = mask.reshape(rows, height // rows, columns, width // columns)
    cells = np.asarray(blocks.any(axis=(1, 3)))
    if grow:
        # Mark every cell within `grow` rows and columns of a marked cell.
        marked = torch.from_numpy(cells)[None].float()  # (1, h, w)
        reach = min(grow, max(grid))
        cells = F.max_pool2d(marked, 2 * reach + 1, 1, reach)[0].numpy() > 0
    return cells.repeat(splits, axis=1)


def pixels_of(cells: np.ndarray, size: Size) -> np.ndarray:
    """Return the pixels of marked cells: bool (h, w) -> bool (H, W)."""
    down, across = (pixels // count for pixels, count in zip(size, cells.shape, strict=True))
    return cells.repeat(down, axis=0).repeat(across, axis=1)


def composite(original: np.ndarray, made: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Put the original pixels back outside the mask.

    Args:
        original: uint8 (H, W, C).
        made: uint8 (B, H, W, C).
        mask: bool (H, W), True where pixels are regenerated.

    Returns:
        uint8 (B, H, W, C), equal to the original outside the mask.
    """
    return np.where(mask[..., None], made, original)
