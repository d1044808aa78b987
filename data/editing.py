"""What --edit starts from: an image, and the pixels of it that are to be made anew."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data.images import ImageDataset, load_image, to_tensor
from utils.errors import UserError

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels from the top left corner; x1 and y1 are the first outside."""

log = logging.getLogger(__name__)


def image_to_edit(
    source: str,
    dataset: str,
    open_validation: Callable[[], ImageDataset],
    size: int,
    channels: int,
) -> tuple[np.ndarray, int | None]:
    """Read a file, or take an image of a dataset.

    Args:
        source: a path, or "<dataset>:<index>".
        dataset: name before the colon; "dataset" is understood too.
        open_validation: opens the split that the index counts in.
        size: side of the image.
        channels: C of the image.

    Returns:
        uint8 (H, W, C), and its class in the dataset; None for a file, or for several findings.

    Raises:
        UserError: if there is no such image.
    """
    name, _, index = source.partition(":")
    if name in (dataset, "dataset") and not Path(source).is_file():
        images = open_validation()
        if not index.isdecimal() or int(index) >= len(images):
            raise UserError(f"--init_image {source}: the index goes from 0 to {len(images) - 1}")
        pixels, label = images[int(index)]
        return pixels.permute(1, 2, 0).numpy(), int(label) if np.ndim(label) == 0 else None
    if index.isdecimal() and not Path(source).exists():
        raise UserError(f"--init_image {source}: the model is of {dataset}, so write {dataset}:0")
    return _square(source, size, channels), None


def region_to_make(
    original: np.ndarray,
    boxes: Sequence[Box] | None,
    mask_file: str | None,
    margins: Mapping[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Mark the pixels that are to be made.

    Args:
        original: uint8 (H, W, C), square.
        boxes: within the image.
        mask_file: an image, white where pixels are to be made.
        margins: pixels to be made at sides ("left", ...), for which the image is shifted.

    Returns:
        The image, shifted, and bool (H, W), True where pixels are to be made.

    Raises:
        UserError: if a box, margin or file does not fit.
    """
    mask = box_mask(len(original), boxes or ())
    if margins:
        original, new = outpainted(original, margins)
        mask |= new
    if mask_file:
        mask |= _square(mask_file, len(original), 1)[..., 0] > 127
    return original, mask


def box_mask(size: int, boxes: Sequence[Box]) -> np.ndarray:
    """Mark the pixels inside any of the boxes.

    Args:
        size: side of the image.
        boxes: within the image, none empty.

    Returns:
        bool (size, size).

    Raises:
        UserError: naming a box that is empty or reaches outside.
    """
    mask = np.zeros((size, size), bool)
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= size and 0 <= y0 < y1 <= size):
            raise UserError(
                f"--mask_box {x0},{y0},{x1},{y1} is empty or leaves the image: x0,y0,x1,y1 need "
                f"0 <= x0 < x1 <= {size} and 0 <= y0 < y1 <= {size}"
            )
        mask[y0:y1, x0:x1] = True
    return mask


def outpainted(image: np.ndarray, margins: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make room at the sides of an image by shifting it, at the cost of the opposite sides.

    Args:
        image: uint8 (H, W, C).
        margins: pixels to be made at left, right, top or bottom.

    Returns:
        The shifted image, uint8 (H, W, C), its edges drawn out over the new pixels, and bool
        (H, W), True at these.

    Raises:
        UserError: if nothing of the image would be left.
    """
    height, width = image.shape[:2]
    left, right, top, bottom = (margins.get(side, 0) for side in ("left", "right", "top", "bottom"))
    if left + right >= width or top + bottom >= height:
        given = " ".join(f"{side}={pixels}" for side, pixels in margins.items())
        raise UserError(
            f"--outpaint {given} leaves nothing of an image {width} pixels wide and high"
        )
    # Opposite margins share the cut: the middle of what is kept stays in its middle.
    kept = image[bottom : height - top, right : width - left]
    new = np.ones((height, width), bool)
    new[top : height - bottom, left : width - right] = False
    return np.pad(kept, ((top, bottom), (left, right), (0, 0)), mode="edge"), new


def _square(path: str, size: int, channels: int) -> np.ndarray:
    """Read an image file: uint8 (size, size, channels)."""
    picture = load_image(path)
    if picture.size != (size, size):
        log.info("%s is brought to %d x %d pixels, centred", path, size, size)
    return to_tensor(picture, size, channels).permute(1, 2, 0).numpy()
