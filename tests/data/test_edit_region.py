"""Which pixels an image of a mask marks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.edit_region import region_to_make
from utils.errors import FieldError

LEFT = np.zeros((16, 16), bool)
LEFT[:, :8] = True


def alpha(shade: int, mode: str) -> Image.Image:
    """Strokes of one shade on a transparent page."""
    colour = np.full((16, 16), shade, np.uint8)
    bands = [colour] * (len(mode) - 1)
    return Image.fromarray(np.dstack([*bands, LEFT * np.uint8(255)]).astype(np.uint8))


def palette(levels: list[int]) -> Image.Image:
    image = Image.fromarray(LEFT.astype(np.uint8)).convert("P")
    image.putdata(LEFT.astype(int).ravel().tolist())
    image.putpalette([level for level in levels for _ in range(3)])
    return image


MASKS = {
    "0 and 255": Image.fromarray(LEFT * np.uint8(255)),
    "0 and 1": Image.fromarray(LEFT.astype(np.uint8)),
    "0 and 1 in colour": Image.fromarray(LEFT.astype(np.uint8)).convert("RGB"),
    "0 and 1 of 16 bits": Image.fromarray(LEFT.astype(np.uint16)),
    "0 and 65535": Image.fromarray(LEFT * np.uint16(65535)),
    "0 and 1, floats": Image.fromarray(LEFT.astype(np.float32)),
    "one bit": Image.fromarray(LEFT),
    "palette": palette([0, 255]),
    "palette of 0 and 1": palette([0, 1]),
    "white strokes on transparent": alpha(255, "RGBA"),
    "white strokes on transparent, grey": alpha(255, "LA"),
    "strokes of 1 on transparent": alpha(1, "RGBA"),
}


def marked(folder: Path, mask: Image.Image) -> np.ndarray:
    path = folder / ("mask.tiff" if mask.mode == "F" else "mask.png")
    mask.save(path)
    return region_to_make(np.zeros((16, 16, 3), np.uint8), None, str(path), {})[1]


@pytest.mark.parametrize("name", MASKS)
def test_every_usual_mask_marks_its_half(tmp_path, name):
    assert np.array_equal(marked(tmp_path, MASKS[name]), LEFT)


@pytest.mark.parametrize("mask", [Image.new("L", (16, 16)), alpha(0, "RGBA"), alpha(100, "RGBA")])
def test_a_mask_that_marks_nothing_is_refused(tmp_path, mask):
    with pytest.raises(FieldError, match=r"`mask_image` .*mask\.png: it marks nothing"):
        marked(tmp_path, mask)
