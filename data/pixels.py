"""Turns the images that Pillow decodes into gray ("L") or color ("RGB") of 8 bits.

Pillow decodes some kinds of files into wrong pixels without an error. So their headers are checked
first: each such kind is corrected here or refused. Axes: H W pixels.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImagePalette

from data.deep_pixels import DeepImage, SetOfRanges, bands, checked_visible, eight_bits
from utils.errors import counted

PILLOW_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
"""Modes of Pillow that have 8 bits or less; LAB and HSV are refused."""

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BITS, PHOTOMETRIC, SAMPLES, LENGTHS, PLANES, COLOR_MAP, KIND = 258, 262, 277, 279, 284, 320, 339
"""Tags of a TIFF."""

WHITE_IS_ZERO, RGB, CMYK, YCBCR = 0, 2, 5, 6  # values of PHOTOMETRIC
SIGNED = (2,)  # a value of KIND

Opener = Callable[[], AbstractContextManager[ImageFile.ImageFile]]
"""Opens an image file a second time."""


def decode(image: ImageFile.ImageFile, again: Opener) -> Image.Image | DeepImage:
    """Decode an open image, and turn it upright as its EXIF data say.

    Args:
        image: not loaded yet; loaded at the end.
        again: opens the same file.

    Raises:
        ValueError: for a kind of file that Pillow decodes wrongly.
        Exception: any kind from Pillow, for a damaged file.
    """
    raw = _raw_mode(image)
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF":
        _check_tiff(image, tags, raw)
    if image.format == "JPEG2000":
        _check_jpeg_2000(image)
    if image.mode not in PILLOW_MODES and not image.mode.startswith(("I", "F")):
        raise ValueError(f"its colors are in the space {image.mode}, which is not read")
    _mend_transparent_color(image, raw)
    if raw.startswith(("RGB", "LA")) and raw != "RGB;R" and (";16" in raw):
        return _deep_color(image, raw, again)
    white_is_zero = bool(tags) and tags.get(PHOTOMETRIC, 0) == WHITE_IS_ZERO
    signed = tags.get(KIND) == SIGNED
    shown = _upright(image)
    if image.mode in PILLOW_MODES and not signed:
        return shown
    values = np.asarray(shown)
    if image.format == "PPM" and image.mode == "I" and raw != "I;16B":
        # Pillow has scaled the white of the header to 65535, as it does with color.
        return Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if signed and values.dtype == np.uint8:
        values = values.view(np.int8)
    if raw == "I;32N":  # a TIFF of uint32, which Pillow takes for int32
        values = values.view(np.uint32)
    return DeepImage(values, _keyed(values, image), white_is_zero)


def to_eight_bits(
    image: Image.Image | DeepImage, page: str = "white", ranges: SetOfRanges = None
) -> Image.Image:
    """Convert any image to 8-bit gray ("L") or color ("RGB"); arguments as in `load_image`.

    Raises:
        ValueError: if all of it is transparent.
    """
    return eight_bits(image, page, ranges) if isinstance(image, DeepImage) else _plain(image, page)


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return how the samples are stored, as Pillow names it, for example "RGB;16B"."""
    if not image.tile:
        return ""
    decoder, args = image.tile[0][0], image.tile[0][3]
    if decoder == "ppm" and args == ("RGB", 65535):
        return "RGB;16B"
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _check_tiff(image: ImageFile.ImageFile, tags: Any, raw: str) -> None:
    """Refuse a TIFF whose samples Pillow would read from wrong places; correct its palette.

    Raises:
        ValueError: saying which kind it is.
    """
    bits, kind = max(tags.get(BITS, (1,))), tags.get(PHOTOMETRIC)
    in_planes = tags.get(PLANES) == 2 and tags.get(SAMPLES, 1) > 1
    if in_planes and (bits > 8 or kind not in (RGB, CMYK)):
        raise ValueError("a TIFF of this kind with its colors in planes is not read")
    if image.tile[0][0] == "libtiff" and raw in ("I;16BS", "I;32BS", "F;32BF"):
        raise ValueError("a compressed big-endian TIFF of signed or float samples is not read")
    whole = 3 * image.width * image.height
    if kind == YCBCR and image.tile[0][0] == "raw" and sum(tags.get(LENGTHS, ())) < whole:
        raise ValueError("an uncompressed TIFF with fewer colors than pixels is not read")
    colors = tags.get(COLOR_MAP, ()) if image.mode in ("P", "PA") else ()
    if colors and max(colors) < 256:  # written as 8 bits instead of 16, as libtiff's tools know
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))


def _check_jpeg_2000(image: ImageFile.ImageFile) -> None:
    """Refuse the depths that Pillow scales wrongly: color above 8 bits, and anything below 8.

    Raises:
        ValueError: naming the depth.
    """
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    _, start, size = image.fp.read(1 << 16).partition(b"\xff\x4f\xff\x51")
    image.fp.seek(place)
    depths = {(depth & 0x7F) + 1 for depth in size[38 : 38 + 3 * size[37] : 3]} if start else {8}
    most = 16 if image.mode.startswith("I;16") else 8
    if min(depths) < 8 or max(depths) > most:
        raise ValueError(
            f"JPEG 2000 of {counted(min(depths), 'bit')} is not read in the mode {image.mode}"
        )


def _mend_transparent_color(image: ImageFile.ImageFile, raw: str) -> None:
    """Convert the transparent color of a PNG to the scale of Pillow's pixels."""
    key = image.info.get("transparency")
    if image.format != "PNG" or isinstance(key, bytes | None):
        return
    if raw in ("L;2", "L;4"):
        top = 2 ** int(raw[-1]) - 1
        image.info["transparency"] = (key & top) * (255 // top)
    elif raw in ("L", "RGB"):  # the standard ignores higher bits
        low = np.bitwise_and(key, 255).tolist()
        image.info["transparency"] = low if raw == "L" else tuple(low)


def _deep_color(image: ImageFile.ImageFile, raw: str, again: Opener) -> DeepImage:
    """Decode color of 16 bits, of which Pillow returns only the high bytes.

    The file is decoded twice. The second time Pillow gets the wrong byte order, and so returns the
    low bytes.

    Raises:
        ValueError: if an alpha value cannot be decoded.
    """
    kind, _, order = raw.partition(";16")
    order = {"N": "B" if sys.byteorder == "big" else "L"}.get(order, order)
    if kind == "LA":  # decoded as four bytes
        _set_raw_mode(image, "RGBA")
        bytes_of = np.asarray(_upright(image)).astype(np.uint16)
        samples = bytes_of[..., 0::2] << 8 | bytes_of[..., 1::2]
    else:
        plain = kind.replace("a", "A")
        _set_raw_mode(image, f"{plain};16{order}")
        samples = np.asarray(_upright(image)).astype(np.uint16) << 8
        with again() as other:
            _set_raw_mode(other, f"{plain};16{'L' if order == 'B' else 'B'}")
            samples |= np.asarray(_upright(other))
    colors = 1 if kind == "LA" else 3
    values = samples[..., :colors].squeeze(-1) if colors == 1 else samples[..., :3]
    if samples.shape[-1] == colors:
        return DeepImage(values, _keyed(values, image))
    alpha = samples[..., -1].astype(np.float32) / np.float32(65535)
    return DeepImage(values, alpha, premultiplied="a" in kind)


def _set_raw_mode(image: ImageFile.ImageFile, raw: str) -> None:
    """Set how the samples are stored, before the image is decoded."""

    def changed(tile: Any) -> Any:
        if tile.codec_name == "ppm":
            return tile._replace(codec_name="raw", args=(raw, 0, 1))
        return tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:]))

    image.tile = list(map(changed, image.tile))


def _keyed(values: np.ndarray, image: Image.Image) -> np.ndarray | None:
    """Return the alpha values of a transparent color; None if the image has no such color."""
    key = image.info.get("transparency")
    if key is None:
        return None
    other = values != np.asarray(key)
    return (other if other.ndim == 2 else other.any(-1)).astype(np.float32)


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    """Load an image and turn it as its EXIF data say."""
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data raise anything
        turn = None
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image, page: str) -> Image.Image:
    """Do what `to_eight_bits` does, for images of 8 bits or less."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if not image.has_transparency_data:
        return image.convert("L" if image.mode == "1" else "RGB")
    flat = Image.new("L" if image.mode.startswith(("L", "1")) else "RGB", image.size)
    visible = False
    for rows in bands(image.height, image.width):
        band = image.crop((0, rows.start, image.width, rows.stop))
        if band.mode == "La":
            band = band.convert("LA")
        band = band.convert("RGBA")
        visible |= band.getchannel("A").getbbox() is not None
        back = Image.new("RGBA", band.size, page)
        flat.paste(Image.alpha_composite(back, band).convert(flat.mode), (0, rows.start))
    return checked_visible(visible, flat)
