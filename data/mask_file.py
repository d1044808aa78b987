"""Reads an image file as a mask: which of its pixels are marked. Axes: H W pixels."""

import logging

import numpy as np

from data.image_file import load_image
from utils.errors import FieldError

log = logging.getLogger(__name__)

BLACK, WHITE = 63, 192  # what is not darker and not lighter is neither; JPEG blurs both a little
SAME = 32  # levels between which colors are taken for one; JPEG and WebP change it a little


def read_mask(path: str, threshold: int | None = None) -> np.ndarray:
    """Read which pixels a file marks.

    White is marked, and transparent parts are not. 1 is white where nothing is brighter. In a
    picture of several colors that has a hole, the hole is marked instead.

    Args:
        path: an image file.
        threshold: brightness from which on a pixel is marked, or transparency where a hole is; 1 to
            255. None refuses what is neither black nor white, neither opaque nor transparent.

    Returns:
        bool (H, W).

    Raises:
        FieldError: if it is not clear what is marked.
    """
    # On white, transparent parts are brighter than on black by what they let through.
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
