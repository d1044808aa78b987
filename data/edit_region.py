"""Reads the image to edit, and marks the pixels to regenerate."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.image_file import load_image
from data.images import ImageDataset, to_array
from data.spec import AS_IT_IS, Preparation
from utils.errors import FieldError, UserError
from utils.size import Size

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels from the top left corner; x1 and y1 are just outside the box."""

log = logging.getLogger(__name__)

BLACK, WHITE = 63, 192  # up to 63 is black, from 192 on is white; JPEG blurs both a little
SAME = 32  # largest difference of levels within one color; JPEG and WebP change colors a little


def image_to_edit(
    source: str,
    dataset: str,
    open_validation: Callable[[], ImageDataset],
    size: Size,
    channels: int,
    shown: Preparation = AS_IT_IS,
) -> tuple[np.ndarray, int | None]:
    """Read an image from a file or from a dataset.

    Args:
        source: a path, or "<dataset>:<index>".
        dataset: the name before the colon; the word "dataset" is accepted too.
        open_validation: opens the split of the index.
        size: height and width of the image.
        channels: C of the image.
        shown: how the model's own images are shown, and so the image of a file too.

    Returns:
        The image, uint8 (H, W, C), and its class in the dataset. The class is None for a file and
        for an image with several findings.

    Raises:
        UserError: if there is no such image.
    """
    name, _, index = source.partition(":")
    if name in (dataset, "dataset") and not Path(source).is_file():
        images = open_validation()
        if not index.isdecimal() or int(index) >= len(images):
            raise FieldError("init_image", source, f"the index goes from 0 to {len(images) - 1}")
        return images.picture(int(index))
    if index.isdecimal() and not Path(source).exists():
        raise FieldError("init_image", source, f"the model is of {dataset}, so write {dataset}:0")
    return _fitted(load_image(source, shown.background), source, size, channels, shown), None


def region_to_make(
    original: np.ndarray,
    boxes: Sequence[Box] | None,
    mask_file: str | None,
    margins: Mapping[str, int],
    *,
    photo: str | None = None,
    threshold: int | None = None,
    shown: Preparation = AS_IT_IS,
) -> tuple[np.ndarray, np.ndarray]:
    """Mark the pixels to regenerate.

    Args:
        original: uint8 (H, W, C).
        boxes: parts of the image.
        mask_file: an image file that marks pixels, as `read_mask` defines.
        margins: number of new pixels at each side ("left", "right", "top", "bottom"). The image is
            shifted to make room for them.
        photo: `source` of `image_to_edit`; a mask of another shape than this file is warned of.
        threshold: as in `read_mask`.
        shown: as in `image_to_edit`; the mask is fitted as the image is.

    Returns:
        The image, shifted if there are margins, and bool (H, W), True where pixels are regenerated.

    Raises:
        UserError: if a box, margin or file does not fit.
    """
    height, width = original.shape[:2]
    mask = box_mask((height, width), boxes or ())
    if margins:
        original, new = outpainted(original, margins)
        mask |= new
    if mask_file:
        is_file = photo and Path(photo).is_file()
        _warn_of_shape(mask_file, load_image(photo or "").size if is_file else (width, height))
        mask |= _mask_of(mask_file, (height, width), threshold, shown.fit)
    return original, mask


def box_mask(size: Size, boxes: Sequence[Box]) -> np.ndarray:
    """Mark the pixels inside any of the boxes.

    Args:
        size: height and width of the image, (H, W).
        boxes: within the image, none empty.

    Returns:
        bool (H, W).

    Raises:
        UserError: naming a box that is empty or leaves the image.
    """
    height, width = size
    mask = np.zeros(size, bool)
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(
                f"`mask_box` {x0},{y0},{x1},{y1} is empty or leaves the image: x0,y0,x1,y1 need "
                f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
            )
        mask[y0:y1, x0:x1] = True
    return mask


def outpainted(image: np.ndarray, margins: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Make room at sides of an image by shifting it; its opposite sides are cut off.

    Args:
        image: uint8 (H, W, C).
        margins: number of new pixels at "left", "right", "top" or "bottom".

    Returns:
        The shifted image, uint8 (H, W, C), whose new pixels repeat its edges, and bool (H, W),
        True at the new pixels.

    Raises:
        UserError: if nothing of the image would be left.
    """
    height, width = image.shape[:2]
    left, right, top, bottom = (margins.get(side, 0) for side in ("left", "right", "top", "bottom"))
    if left + right >= width or top + bottom >= height:
        given = " ".join(f"{side}={pixels}" for side, pixels in margins.items())
        raise UserError(
            f"`outpaint` {given} leaves nothing of an image {width} pixels wide and {height} high"
        )
    # A margin cuts the same number of pixels off the opposite side. So the center stays in place
    # if opposite margins are equal.
    kept = image[bottom : height - top, right : width - left]
    new = np.ones((height, width), bool)
    new[top : height - bottom, left : width - right] = False
    return np.pad(kept, ((top, bottom), (left, right), (0, 0)), mode="edge"), new


def read_mask(path: str, threshold: int | None = None) -> np.ndarray:
    """Read which pixels a file marks.

    White is marked, and transparent parts are not. If nothing is brighter than 1, 1 is white. In a
    picture of several colors with a transparent hole, the hole is marked instead.

    Args:
        path: an image file.
        threshold: lowest brightness of a marked pixel, or lowest transparency in a picture with a
            hole; 1 to 255. None refuses pixels that are neither black nor white, or neither opaque
            nor transparent.

    Returns:
        bool (H, W).

    Raises:
        FieldError: if it is not clear what is marked.
    """
    # The more transparent a part, the brighter it is on white than on black.
    on_black, on_white = (
        np.asarray(load_image(path, page).convert("RGB"), np.int16) for page in ("black", "white")
    )  # (H, W, 3)
    if on_black.max() == 1:
        on_black = on_black * 255
    opacity = 255 - (on_white - on_black).max(2)  # (H, W)
    is_white, is_black = on_black.min(2) >= WHITE, on_black.max(2) <= BLACK
    is_opaque, is_hole = opacity >= WHITE, opacity <= BLACK
    colors = on_black[is_opaque] * 255.0 / opacity[is_opaque, None]  # (N, 3)
    has_several = len(colors) > 0 and np.ptp(colors, 0).max() > SAME
    is_picture = has_several and not (is_white | is_black)[is_opaque].all()
    if is_picture and is_hole.any():
        log.info("%s is a picture: its transparent part is marked", path)
        level, marked, is_clear = 255 - opacity, is_hole, is_hole | is_opaque
        unclear = "neither opaque nor transparent"
    else:
        if is_hole.any():
            log.info("%s: its white parts are marked, its transparent parts are not", path)
        numbers = is_black & (on_black > on_black.min()).any(2)  # of classes, or what JPEG blurs
        if np.unique(on_black[is_white]).size == 1 and numbers.sum() > is_white.sum():
            is_black &= ~numbers
        level, marked, is_clear = on_black.mean(2), is_white, is_white | is_black
        unclear = "neither black nor white"
    if threshold is not None:
        return level >= threshold
    if marked.any() and not is_clear.all():
        raise FieldError(
            "mask_image",
            path,
            f"{unclear}: {(~is_clear).sum()} of its {is_clear.size} pixels; make them so, or "
            "say with `mask_threshold` from which brightness or transparency (1 to 255) on a pixel "
            "is marked",
        )
    return marked


def _mask_of(path: str, size: Size, threshold: int | None, fit: str) -> np.ndarray:
    """Read which pixels a file marks, as `read_mask` does: bool (H, W). Bars are not marked.

    Raises:
        FieldError: if nothing is marked, or it is not clear what is.
    """
    picture, shown = Image.fromarray(read_mask(path, threshold)), Preparation(fit, "black")
    mask = _fitted(picture, path, size, 1, shown)[..., 0] > 127
    if not mask.any():
        reason = (
            "it marks nothing: white parts are regenerated, or the hole in a picture; "
            "`mask_threshold` is the lowest brightness that counts as white"
        )
        raise FieldError("mask_image", path, reason)
    return mask


def _warn_of_shape(mask_file: str, shape: tuple[int, int]) -> None:
    """Warn if the mask has another aspect ratio than the image of this shape, (width, height)."""
    mask = load_image(mask_file).size
    # A ratio may differ by rounding: resizing rounds each side by less than a pixel.
    if abs(mask[0] * shape[1] - mask[1] * shape[0]) >= max(*mask, *shape):
        log.warning(
            "%s has another shape than the image (%d x %d and %d x %d pixels): both are fitted "
            "around their center, so what is marked may have moved",
            mask_file,
            *mask,
            *shape,
        )


def _fitted(
    picture: Image.Image, path: str, size: Size, channels: int, shown: Preparation
) -> np.ndarray:
    """Convert the image of a file to uint8 (H, W, channels)."""
    height, width = size
    if picture.size != (width, height):
        log.info("%s is brought to %d x %d pixels, centered", path, height, width)
    return to_array(picture, size, channels, shown)
