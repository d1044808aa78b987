"""Reads image files into tensors, and the dataset that training reads.

Every image is resized so that its shorter side has the wanted length, and then cropped to the
square in its centre. The filter is PIL's bilinear one, which averages over all source pixels when
it shrinks an image. Published FIDs depend on this choice. Random crops, squashing to a square or a
filter that does not average give other reference statistics. So compare only with figures that were
measured on images prepared in the same way. Axes: B batch, C channels, H W pixels.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from data.spec import Source
from utils.errors import UserError

# What PIL raises for a file that is damaged, truncated or no image at all.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


class ImageError(UserError):
    """An image that cannot be read; the message names its file.

    A DataLoader raises the error of a worker again, with the traceback of the worker as the text.
    Only the last line of that text, the original message, is for the user.
    """

    def __init__(self, message: str) -> None:
        prefix = f"{ImageError.__module__}.{ImageError.__name__}: "
        super().__init__(message.strip().splitlines()[-1].removeprefix(prefix))


class ImageDataset(Dataset):
    """A split of a dataset at one image size.

    Items are (image uint8 (C, size, size), label): an int, or for multi-label data a uint8 tensor
    with a 1 for every finding.

    Attributes:
        class_names: in the order of the labels.
        channels: C.
        size: side of the images in pixels.
        num_views: number of flips under which an image is used (`flip_view`); 1 outside training.
    """

    def __init__(
        self, source: Source, class_names: Sequence[str], channels: int, size: int, num_views: int
    ) -> None:
        self._source = source
        self.class_names = tuple(class_names)
        self.channels = channels
        self.size = size
        self.num_views = num_views

    def __len__(self) -> int:
        return len(self._source.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        """Read one image.

        Raises:
            ImageError: if its file is damaged.
        """
        image, label = self._source.items[index]
        return to_tensor(image, self.size, self.channels), _plain_label(label)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the paths, sizes and times of change of all source files.

        Raises:
            ImageError: if one of the files is missing.
        """
        digest = hashlib.sha256()
        root = str(self._source.root)
        for file in map(str, self._source.files):
            try:
                status = os.stat(file)  # noqa: PTH116 (a million Paths are slow)
            except OSError as error:
                raise ImageError(f"cannot read {file}: {error.strerror}") from error
            name = file.removeprefix(root)
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


class FileImages:
    """Images that are one file each, read when an index asks for them.

    Attributes:
        paths: one file per image.
        labels: one class per image.
    """

    def __init__(self, paths: Sequence[str | Path], labels: Sequence[int]) -> None:
        self.paths = [str(path) for path in paths]
        self.labels = np.asarray(labels, np.int64)  # workers share an array, but would copy a list

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return load_image(self.paths[index]), int(self.labels[index])


def load_image(path: str | Path) -> Image.Image:
    """Read an image file as 8-bit grey ("L") or colour ("RGB"), turned upright.

    Of a file with several frames the first one is read.

    Raises:
        ImageError: if the file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return plain(_upright(image))
    except UNREADABLE as error:
        raise ImageError(f"cannot read the image {path}: {error}") from error


def is_readable(path: str | Path) -> bool:
    """Whether a file is a complete image.

    JPEG and PNG files end with a mark, which a truncated file lacks; where it is there, reading the
    two ends of the file is enough. Otherwise the image is decoded to find out.
    """
    try:
        with Image.open(path) as image:
            mark = END_MARKS.get(image.format or "")
            if mark is None or mark not in _tail(path):
                image.load()
    except UNREADABLE:
        return False
    return True


def plain(image: Image.Image) -> Image.Image:
    """Convert any kind of image to 8-bit grey ("L") or colour ("RGB").

    Transparent parts become white. 16-bit grey keeps its range. Palettes, CMYK and the like become
    RGB.
    """
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image.copy()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(page, image.convert("RGBA"))
        return flat.convert("L" if image.mode.startswith(("L", "1")) else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def to_tensor(image: Image.Image, size: int, channels: int) -> Tensor:
    """Resize the shorter side of an image and crop the square in its centre.

    Returns:
        uint8 (channels, size, size).
    """
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = _centre_square(image, size)
    pixels = np.array(image, np.uint8).reshape(size, size, channels)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def flip_view(images: Tensor, view: int) -> Tensor:
    """Flip images as one of their views shows them.

    Args:
        images: (..., H, W), any dtype.
        view: 0 unchanged, 1 mirrored left to right, 2 upside down, 3 both.

    Returns:
        A tensor of the same shape; the input itself for view 0.
    """
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if view & bit]
    return images.flip(axes) if axes else images


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    """Resize the square in the centre of an image to size x size pixels."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data says; ignore damaged EXIF data."""
    try:
        return ImageOps.exif_transpose(image)
    except UNREADABLE:
        return image


def _tail(path: str | Path, length: int = 64) -> bytes:
    """Read the last bytes of a file."""
    with Path(path).open("rb") as file:
        file.seek(-min(length, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return file.read()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert grey of more than 8 bits, which is 16-bit integers or floats in [0, 1]."""
    levels = np.asarray(image).astype(np.float64)
    levels = levels * 255 if image.mode == "F" else levels / 257
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))


def _plain_label(label: Any) -> int | Tensor:
    """Convert a label to an int, or to uint8 (F,) if it has an entry for each of F findings."""
    values = np.asarray(label).reshape(-1)
    return int(values[0]) if len(values) == 1 else torch.from_numpy(values.astype(np.uint8))
