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
    color = np.full((16, 16), shade, np.uint8)
    bands = [color] * (len(mode) - 1)
    return Image.fromarray(np.dstack([*bands, LEFT * np.uint8(255)]).astype(np.uint8))


def palette(levels: list[int]) -> Image.Image:
    image = Image.fromarray(LEFT.astype(np.uint8)).convert("P")
    image.putdata(LEFT.astype(int).ravel().tolist())
    image.putpalette([level for level in levels for _ in range(3)])
    return image


def photo_with(opacity: np.ndarray, mode: str = "RGB") -> Image.Image:
    """A picture of several colors, some of them black and white, with this opacity."""
    colors = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    colors[0], colors[1] = 0, 255
    photo = Image.fromarray(np.kron(colors, np.ones((4, 4, 1), np.uint8))).convert(mode)
    photo.putalpha(Image.fromarray(opacity))
    return photo


HOLE = np.where(LEFT, 0, 255).astype(np.uint8)
LEVELS = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (16, 1))
BLURRED = np.where(LEFT, 255, 0).astype(np.uint8)
BLURRED[:, 7:9] = 150, 100


MASKS = {
    "0 and 255": Image.fromarray(LEFT * np.uint8(255)),
    "0 and 1": Image.fromarray(LEFT.astype(np.uint8)),
    "0 and 1 in color": Image.fromarray(LEFT.astype(np.uint8)).convert("RGB"),
    "0 and 1 of 16 bits": Image.fromarray(LEFT.astype(np.uint16)),
    "0 and 65535": Image.fromarray(LEFT * np.uint16(65535)),
    "0 and 1, floats": Image.fromarray(LEFT.astype(np.float32)),
    "one bit": Image.fromarray(LEFT),
    "palette": palette([0, 255]),
    "palette of 0 and 1": palette([0, 1]),
    "white strokes on transparent": alpha(255, "RGBA"),
    "white strokes on transparent, gray": alpha(255, "LA"),
    "strokes of 1 on transparent": alpha(1, "RGBA"),
    "hole in a photo": photo_with(HOLE),
    "hole in a gray photo": photo_with(HOLE, "L"),
    "hole in a palette": photo_with(HOLE).quantize(8),
    "nearly black and white": Image.fromarray(np.where(LEFT, 200, 50).astype(np.uint8)),
}


def marked(folder: Path, mask: Image.Image, ending: str = "png", **options: object) -> np.ndarray:
    path = folder / ("mask.tiff" if mask.mode == "F" else f"mask.{ending}")
    mask.save(path)
    return region_to_make(np.zeros((16, 16, 3), np.uint8), None, str(path), {}, **options)[1]


@pytest.mark.parametrize("name", MASKS)
def test_every_usual_mask_marks_its_half(tmp_path, name):
    assert np.array_equal(marked(tmp_path, MASKS[name]), LEFT)


def soft_strokes(color: tuple[int, int, int]) -> Image.Image:
    """Strokes of one color with a soft edge on a transparent page."""
    opacity = np.where(LEFT, 255, 0)
    opacity[:, 7] = 200
    return Image.fromarray(np.dstack([np.full((16, 16, 3), color), opacity]).astype(np.uint8))


@pytest.mark.parametrize(
    "mask",
    [Image.new("L", (16, 16)), alpha(0, "RGBA"), alpha(100, "RGBA"), soft_strokes((255, 0, 0)),
     soft_strokes((90, 90, 90))],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_a_mask_that_marks_nothing_is_refused(tmp_path, mask, ending):
    with pytest.raises(FieldError, match=r"`mask_image` .*mask\.\w+: it marks nothing.*threshold"):
        marked(tmp_path, mask, ending)


def on_black(color: tuple[int, int, int]) -> Image.Image:
    return Image.fromarray((LEFT[..., None] * np.array(color)).astype(np.uint8))


@pytest.mark.parametrize(
    ("mask", "count", "unclear"),
    [
        (Image.fromarray(LEVELS), 8 * 16, "neither black nor white"),
        (Image.fromarray(BLURRED), 2 * 16, "neither black nor white"),
        (on_black((255, 224, 0)).convert("P"), None, None),
        (Image.merge("RGB", [Image.fromarray(x) for x in (HOLE, HOLE // 2, HOLE)]), None, None),
        (photo_with(LEVELS), 8 * 16, "neither opaque nor transparent"),
    ],
)
def test_a_mask_that_is_not_two_valued_is_refused(tmp_path, mask, count, unclear):
    said = f"{unclear}: {count} of its 256 pixels; .*`mask_threshold`" if count else "nothing"
    with pytest.raises(FieldError, match=said):
        marked(tmp_path, mask)


def test_colors_beside_white_are_refused(tmp_path):
    """As the borders in the palettes of segmentation sets."""
    mask = np.array(on_black((128, 0, 0)))
    mask[:, 7:9] = 224, 224, 192
    with pytest.raises(FieldError, match="neither black nor white: 112 of its 256 pixels"):
        marked(tmp_path, Image.fromarray(mask))


@pytest.mark.parametrize("others", [(1,), (1, 2), (20,)])
def test_numbers_of_classes_beside_white_are_refused(tmp_path, others):
    mask = LEFT * np.uint8(others[0])
    mask[3:7] = others[-1]
    mask[:, 7:9] = 255
    with pytest.raises(FieldError, match=r"neither black nor white: .* of its 256 pixels"):
        marked(tmp_path, Image.fromarray(mask))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("hole in a photo", "its transparent part is marked"),
        ("white strokes on transparent", "its white parts are marked"),
        ("0 and 255", ""),
    ],
)
def test_what_is_marked_beside_transparent_parts_is_said(tmp_path, caplog, mask, said):
    caplog.set_level("INFO")
    marked(tmp_path, MASKS[mask])
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_a_threshold_says_what_is_marked(tmp_path):
    assert np.array_equal(marked(tmp_path, Image.fromarray(LEVELS), threshold=136), ~LEFT)
    assert np.array_equal(marked(tmp_path, Image.fromarray(BLURRED), threshold=120), LEFT)
    assert np.array_equal(marked(tmp_path, photo_with(LEVELS), threshold=128), LEFT)
    assert np.array_equal(marked(tmp_path, on_black((255, 0, 0)), threshold=50), LEFT)


def test_a_mask_that_jpeg_has_blurred_is_black_and_white(tmp_path):
    large = Image.fromarray(np.kron(LEFT, np.ones((8, 8))).astype(np.uint8) * 255)
    assert np.array_equal(marked(tmp_path, large, "jpg"), LEFT)
    assert np.array_equal(marked(tmp_path, large.convert("RGB"), "jpg"), LEFT)


@pytest.mark.parametrize(
    ("shape", "of_photo", "said"),
    [((16, 16), None, False), ((24, 16), None, True), ((640, 480), (640, 480), False),
     ((320, 240), (641, 480), False), ((512, 512), (640, 480), True),
     ((480, 640), (640, 480), True)],
)  # fmt: skip
def test_a_mask_of_another_shape_than_the_image_is_said(tmp_path, caplog, shape, of_photo, said):
    photo = "mnist:0"
    if of_photo:
        Image.new("RGB", of_photo).save(photo := str(tmp_path / "photo.png"))
    marked(tmp_path, Image.new("L", shape, 255), photo=photo)
    assert ("another shape than the image" in caplog.text) == said
