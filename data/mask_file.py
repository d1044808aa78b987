"""Reads an image file as a mask: which of its pixels are marked. Axes: H W pixels."""

import logging

import numpy as np

from data.image_file import load_image
from utils.errors import FieldError

log = logging.getLogger(__name__)

BLACK, WHITE = 63, 192  # up to 63 is black, from 192 on is white; JPEG blurs both a little
SAME = 32  # largest difference of levels within one color; JPEG and WebP change colors a little


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
            f"{(~is_clear).sum()} of its {is_clear.size} pixels are {unclear}; make them so, or "
            "say with `mask_threshold` from which brightness or transparency (1 to 255) on a pixel "
            "is marked",
        )
    return marked
