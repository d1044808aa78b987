"""Opens image files: the one way in which a picture of somebody else becomes pixels.

Every reader of this program comes through `load_image`, so that all treat unusual files alike:

- A file is decoded by its contents, and only in the formats of FORMATS. Pillow knows others that
  start programs (an EPS starts Ghostscript).
- An image of more pixels than `most_pixels` is refused before it is decoded.
- A damaged or truncated file is refused, not shown in part.
- An EXIF orientation is obeyed; other EXIF data and damaged ones are passed over.
- Grey of more than 8 bits gets 8 by the rule of `_range_shown`.
"""

import io
import logging
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.files import FileError, check_regular, reading
from utils.errors import UserError

log = logging.getLogger(__name__)

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
PIXELS_VARIABLE = "MASKGIT_MAX_PIXELS"
BAND = 1 << 20  # pixels that are converted at once
READERS = 4  # files that are checked at once

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
WHITES = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)


class TooManyPixelsError(FileError):
    """An image that is larger than `most_pixels`."""


def load_image(path: str | Path, page: str = "white") -> Image.Image:
    """Read an image file as 8-bit grey ("L") or colour ("RGB"), turned upright.

    Of a file with several frames the first one is read.

    Args:
        path: the file.
        page: colour behind transparent parts.

    Raises:
        FileError: if the file cannot be read as an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, which name no file
        return _load(path, page)


def image_of_bytes(data: bytes, name: str, most: int, page: str = "white") -> Image.Image:
    """Read an image file that is in memory, as `load_image` reads one on disk.

    Args:
        data: the bytes of the file.
        name: what messages call it.
        most: pixels that it may have.
        page: colour behind transparent parts.

    Raises:
        FileError: if the bytes cannot be read as an image, or it has more pixels.
    """
    if not data:
        raise FileError(f"cannot read the image {name}: it is empty")
    with warnings.catch_warnings(), reading(name, "the image"):
        warnings.simplefilter("ignore")
        return _decoded(data, name, page, min(most, most_pixels()))


def problems(paths: Sequence[str]) -> list[FileError | None]:
    """Read some images and return what is wrong with each, None where it is good.

    Args:
        paths: of the files, which are all queued at once.

    Raises:
        FileError: if a file may not be read.
    """

    def problem(path: str) -> FileError | None:
        try:
            _load(path, "white")
        except FileError as error:
            if isinstance(error.__cause__, PermissionError):
                raise
            return error
        return None

    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(READERS) as pool,  # Pillow decodes outside Python's lock
    ):
        warnings.simplefilter("ignore")
        return list(pool.map(problem, paths))


@cache
def most_pixels() -> int:
    """Return the number of pixels that an image may have: Pillow's limit, or the user's own.

    Raises:
        UserError: if the variable in the environment is no number.
    """
    value = os.environ.get(PIXELS_VARIABLE, "")
    if value and not value.isdecimal():
        raise UserError(f"{PIXELS_VARIABLE}={value} in the environment is no number; unset it")
    if value:
        Image.MAX_IMAGE_PIXELS = int(value) // 2 + 1  # Pillow refuses twice this number
    return int(value) if value else 2 * (Image.MAX_IMAGE_PIXELS or 1 << 62)


def _load(path: str | Path, page: str) -> Image.Image:
    """Do what `load_image` does, with Pillow's warnings."""
    most = most_pixels()
    with reading(path, "the image"):
        check_regular(path)
        return _decoded(Path(path), path, page, most)


def _decoded(source: Path | bytes, name: str | Path, page: str, most: int) -> Image.Image:
    """Decode a file, or the bytes of one; raises any exception."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > most:
                raise _too_many(name, image.width * image.height, most)
            image.load()
            _check_complete(image, source)
            return plain(_upright(image), page)
    except Image.DecompressionBombError as error:
        raise _too_many(name, int(re.findall(r"\d+", str(error))[0]), most) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"damaged, or in none of the formats {', '.join(FORMATS)}") from error


def _too_many(name: str | Path, count: int, most: int) -> TooManyPixelsError:
    """Make the error about an image that is too large."""
    allow = f", or allow it with {PIXELS_VARIABLE}={count} in the environment"
    return TooManyPixelsError(
        f"cannot read the image {name}: it has {count:,} pixels, more than {most:,}; make it "
        f"smaller{allow if most == most_pixels() else ''}"
    )


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data says."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data raise anything
        turn = None
    return image if turn is None else image.transpose(turn)


def _check_complete(image: Image.Image, source: Path | bytes) -> None:
    """Refuse what decodes without an error though a part of it is missing or changed.

    Args:
        image: the decoded image.
        source: its file, or the bytes of that.

    Raises:
        ValueError: saying what is wrong.
    """
    if image.format == "PNG":
        _check_sums(_bytes_of(source))
    elif image.format in ("JPEG", "MPO") and _ends_grey(image):
        # libjpeg makes missing parts grey. It reads no further than a complete image goes, so
        # other bytes before the end mark change only an image with a missing part.
        head, mark, tail = _bytes_of(source).rpartition(b"\xff\xd9")
        with Image.open(io.BytesIO(head + b"\x55" * 64 + mark + tail), formats=FORMATS) as other:
            if other.size == image.size and other.tobytes() != image.tobytes():
                raise ValueError("image file is truncated")


def _bytes_of(source: Path | bytes) -> bytes:
    """Return the bytes of a file."""
    return source if isinstance(source, bytes) else source.read_bytes()


def _check_sums(data: bytes) -> None:
    """Compare the checksums of the pixels in a PNG, which Pillow does not look at."""
    at = 8
    while at + 12 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            found = zlib.crc32(memoryview(data)[at + 4 : end])
            if found != int.from_bytes(data[end : end + 4], "big"):
                raise ValueError("a checksum of its pixels is wrong")
        at = end + 4


def _ends_grey(image: Image.Image) -> bool:
    """Whether the last block of a JPEG is of the grey that stands for nothing."""
    left, top = ((side - 1) // 8 * 8 for side in image.size)
    levels = np.asarray(image.crop((left, top, *image.size)))
    return bool(((levels == 128) | (levels == 127)).all())


def plain(image: Image.Image, page: str = "white") -> Image.Image:
    """Convert any kind of image to 8-bit grey ("L") or colour ("RGB").

    Palettes, CMYK and the like become RGB. Large images are converted in bands, so that memory
    holds little more than what goes in and what comes out.

    Args:
        image: the image.
        page: colour behind transparent parts.
    """
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("L" if image.mode == "1" else "RGB")
    flat = Image.new("L" if image.mode.startswith(("L", "1")) else "RGB", image.size)
    for top, band in _bands(image):
        back = Image.new("RGBA", band.size, page)
        flat.paste(Image.alpha_composite(back, band.convert("RGBA")).convert(flat.mode), (0, top))
    return flat


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut an image into bands of full width: the top of each, and its pixels."""
    height = max(1, BAND // image.width)
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert grey of more than 8 bits, by the rule of `_range_shown`."""
    ranges = [_range_of(band) for _, band in _bands(image)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    black, white = _range_shown(low, high, is_float=image.mode == "F")
    flat = Image.new("L", image.size)
    for top, band in _bands(image):
        levels = np.nan_to_num(np.asarray(band).astype(np.float64), nan=black)
        levels = (levels - black) * 255 / (white - black)
        flat.paste(Image.fromarray(levels.clip(0, 255).round().astype(np.uint8)), (0, top))
    return flat


def _range_of(band: Image.Image) -> tuple[float, float]:
    """Return the smallest and the largest finite value; (0, 0) if there is none."""
    levels = np.asarray(band)
    finite = levels[np.isfinite(levels)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _range_shown(low: float, high: float, *, is_float: bool) -> tuple[float, float]:
    """Return which values of a deep grey image are black and white.

    Black is 0. White is the first of WHITES that no value exceeds, or 1 for floats: the depths of
    cameras and scanners. An image that leaves this range goes from its smallest to its largest
    value.

    Args:
        low: smallest value in the image.
        high: largest value in the image.
        is_float: whether the values are floats.
    """
    _tell_rule()
    whites = [white for white in ((1.0,) if is_float else WHITES) if high <= white]
    if low >= 0 and whites:
        return 0.0, whites[0]
    return low, high if high > low else low + 1


@cache
def _tell_rule() -> None:
    """Say the rule, once."""
    log.info(
        "grey of more than 8 bits: 0 is black, white is the first of %s that holds the image (for "
        "floats 1); other images go from their smallest to their largest value",
        ", ".join(f"{white:.0f}" for white in WHITES),
    )
