"""Opens image files: the only place where user images are decoded.

Every reader of this program uses `load_image`, so that all treat unusual files alike:

- A file is decoded by its contents, and only in the formats of FORMATS, and HEIF where the package
  pillow-heif is installed. Pillow knows others that start programs (an EPS starts Ghostscript).
- An image of more pixels than MOST_PIXELS is refused before it is decoded.
- A damaged or truncated file is refused, not shown in part. Damaged texts and color profiles in it
  do not matter.
- An EXIF orientation is obeyed; other EXIF data and damaged ones are ignored.
- Samples of more than 8 bits are converted to 8 by one rule for gray and color (data/pixels.py).
"""

import io
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from data.deep_pixels import DeepImage, Range, SetOfRanges
from data.pixels import decode, to_eight_bits
from data.tree import READS_HEIF
from data.user_files import check_regular
from utils.errors import FileError, one_line, reading

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS = 178_956_970  # Pillow refuses more too
READERS = 4  # files checked at once

PNG = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
"""The chunks of a PNG that its pixels depend on."""

CONVERT = "convert it to PNG or JPEG"
HEIF = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")  # how HEIC begins, after four bytes
FOREIGN = (  # offset and bytes of formats that are not read
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (128, b"DICM", "DICOM"),
)


class TooManyPixelsError(FileError):
    """An image of too many pixels."""


def load_image(path: str | Path, page: str = "white", ranges: SetOfRanges = None) -> Image.Image:
    """Read an image file as 8-bit gray ("L") or color ("RGB"), turned upright.

    Of a file with several frames the first one is read.

    Args:
        path: the file.
        page: color behind transparent parts.
        ranges: ranges of the set that the image belongs to.

    Raises:
        FileError: if the file cannot be read as an image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings do not name the file
        with reading(path, "the image"):
            return to_eight_bits(_load(path), page, ranges)


def image_of_bytes(data: bytes, name: str, most: int, page: str = "white") -> Image.Image:
    """Read an image file that is in memory, as `load_image` reads one on disk.

    Args:
        data: the bytes of the file.
        name: name of the image in messages.
        most: largest number of pixels.
        page: color behind transparent parts.

    Raises:
        FileError: if the bytes cannot be read as an image, or it has more pixels.
    """
    if not data:
        raise FileError(f"cannot read the image {name}: it is empty")
    with warnings.catch_warnings(), reading(name, "the image"):
        warnings.simplefilter("ignore")
        return to_eight_bits(_decoded(data, name, min(most, MOST_PIXELS)), page)


def problems(paths: Sequence[str]) -> list[FileError | Range | None]:
    """Decode images, all queued at once, and return what is wrong with each.

    Returns:
        For each image an error if it cannot be read, the range of its samples if it has more than
        8 bits, and None otherwise.

    Raises:
        FileError: if the permission to read a file is missing.
    """

    def problem(path: str) -> FileError | Range | None:
        try:
            with reading(path, "the image"):
                image = _load(path)
                to_eight_bits(image)
        except FileError as error:
            if isinstance(error.__cause__, PermissionError):
                raise
            return error
        return image.range if isinstance(image, DeepImage) else None

    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(READERS) as pool,  # Pillow decodes outside Python's lock
    ):
        warnings.simplefilter("ignore")
        return list(pool.map(problem, paths))


def _load(path: str | Path) -> Image.Image | DeepImage:
    """Decode a file; raises any exception, and Pillow's warnings."""
    check_regular(path)
    return _decoded(Path(path), path, MOST_PIXELS)


def _decoded(source: Path | bytes, name: str | Path, most: int) -> Image.Image | DeepImage:
    """Decode a file, or the bytes of one; raises any exception."""
    try:
        return _decoded_once(source, name, most)
    except ValueError:
        data = _bytes_of(source)
        if not data.startswith(PNG):
            raise
        # The damage may be in the texts or in the color profile only.
        return _decoded_once(_needed(data), name, most)


def _decoded_once(source: Path | bytes, name: str | Path, most: int) -> Image.Image | DeepImage:
    """Do what `_decoded` does, with everything in the file."""
    try:
        with _opened(source) as image:
            if image.width * image.height > most:
                raise _too_many(name, image.width * image.height, most)
            pixels = decode(image, partial(_opened, source))
            _check_complete(image, source)
            return pixels
    except Image.DecompressionBombError as error:
        raise _too_many(name, int(re.findall(r"\d+", str(error))[0]), most) from error
    except UnidentifiedImageError as error:
        raise ValueError(_why_unknown(source)) from error


@contextmanager
def _opened(source: Path | bytes) -> Iterator[ImageFile.ImageFile]:
    """Open a file, or the bytes of one, without decoding it."""
    # Pillow gets a stream. From a path it would map the file, and turned TIFFs come out wrong.
    with _stream(source) as file, Image.open(file, formats=_formats()) as image:
        yield image


def _stream(source: Path | bytes) -> BinaryIO:
    """Open a file, or the bytes of one."""
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


@cache
def _formats() -> tuple[str, ...]:
    """Return FORMATS, with HEIF if its package is installed."""
    if not READS_HEIF:
        return FORMATS
    import_module("pillow_heif").register_heif_opener()
    return (*FORMATS, "HEIF")


def _why_unknown(source: Path | bytes) -> str:
    """Say what a file is that Pillow does not recognize as an image."""
    with _stream(source) as file:
        start = file.read(1 << 12)
        if start.startswith(HEIF, 4) and not READS_HEIF:
            return f"it is HEIC: pip install -r requirements-heif.txt, or {CONVERT}"
        for at, mark, kind in FOREIGN:
            if start.startswith(mark, at):
                return f"it is {kind}; {CONVERT}"
        if b"<svg" in start:
            return f"it is an SVG drawing; {CONVERT}"
        for name in _formats():
            opener, accepts = Image.OPEN[name]
            if accepts and accepts(start[:16]) is True:
                file.seek(0)
                try:
                    opener(file, "")
                except Exception as error:
                    reason = one_line(error)
                    if reason.isdecimal():  # of a compression, without a word
                        reason = f"the number {reason} in it is unknown"
                    return f"damaged, or {name} of a kind that is not read: {reason}"
        if start[4:8] == b"ftyp":
            return "it is a film"
    return f"damaged, or in none of the formats {', '.join(FORMATS)}"


def _too_many(name: str | Path, count: int, most: int) -> TooManyPixelsError:
    """Make the error about an image that is too large."""
    return TooManyPixelsError(
        f"cannot read the image {name}: it has {count:,} pixels, more than {most:,}; make it "
        "smaller"
    )


def _check_complete(image: Image.Image, source: Path | bytes) -> None:
    """Refuse files that decode without an error although a part is missing or changed.

    Raises:
        ValueError: saying what is wrong.
    """
    if image.format == "PNG":
        data = _bytes_of(source)
        for kind, start, end in _chunks(data):  # Pillow ignores the checksums of the pixels
            sum_found = zlib.crc32(memoryview(data)[start + 4 : end - 4])
            if kind == b"IDAT" and sum_found != int.from_bytes(data[end - 4 : end], "big"):
                raise ValueError("a checksum of its pixels is wrong")
    elif image.format in ("JPEG", "MPO") and _ends_gray(image):
        # libjpeg makes missing parts gray. It stops reading at the end of a complete image, so
        # changed bytes before the end mark change only an image with a missing part.
        head, mark, tail = _bytes_of(source).rpartition(b"\xff\xd9")
        with _opened(head + b"\x55" * 64 + mark + tail) as other:
            if other.size == image.size and other.tobytes() != image.tobytes():
                raise ValueError("image file is truncated")


def _bytes_of(source: Path | bytes) -> bytes:
    """Return the bytes of a file."""
    return source if isinstance(source, bytes) else source.read_bytes()


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of the chunks of a PNG."""
    at = len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, end
        if data[at + 4 : at + 8] == b"IEND":
            break
        at = end


def _needed(data: bytes) -> bytes:
    """Remove the chunks of a PNG that its pixels do not depend on."""
    kept = (data[start:end] for kind, start, end in _chunks(data) if kind in NEEDED)
    return PNG + b"".join(kept)


def _ends_gray(image: Image.Image) -> bool:
    """Whether the last block of a JPEG has the gray of missing parts."""
    left, top = ((side - 1) // 8 * 8 for side in image.size)
    levels = np.asarray(image.crop((left, top, *image.size)))
    return bool(((levels == 128) | (levels == 127)).all())
