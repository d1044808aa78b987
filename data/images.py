"""The dataset that training reads: images of one size, as tensors, with their labels.

The largest centered part of an image with the wanted shape is resized to the wanted size. The
filter is PIL's bilinear one, which averages over all source pixels when it shrinks an image.
Published FIDs depend on this choice: random crops, squashing to a square or a filter that does not
average give other reference statistics. So compare only with figures that were measured on images
prepared in the same way. Axes: B batch, C channels, H W pixels.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.deep_pixels import Ranges
from data.files import FileError
from data.image_file import load_image
from data.spec import Source
from utils.size import Written, size_of


class ImageDataset(Dataset):
    """A split of a dataset at one image size.

    Items are (image uint8 (C, H, W), label): an int, or for multi-label data a uint8 tensor
    with a 1 for every finding.

    Attributes:
        class_names: in the order of the labels.
        size: height and width of the images in pixels, (H, W).
        num_views: number of flips under which an image is used (`flip_view`); 1 outside training.
    """

    def __init__(
        self,
        source: Source,
        class_names: Sequence[str],
        channels: int,
        size: Written,
        num_views: int,
    ) -> None:
        self.source = source
        self.class_names = tuple(class_names)
        self.channels = channels
        self.size = size_of(size)
        self.num_views = num_views

    def __len__(self) -> int:
        return len(self.source.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        """Read one image.

        Raises:
            FileError: if its file is damaged.
        """
        image, label = self.source.items[index]
        return to_tensor(image, self.size, self.channels), _plain_label(label)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the paths, sizes and times of change of all source files.

        With images of more than 8 bits, the hash depends on their common range too.

        Raises:
            FileError: if a file is missing.
        """
        digest = hashlib.sha256()
        root = str(self.source.root)
        for file in map(str, self.source.files):
            try:
                status = os.stat(file)  # noqa: PTH116 (a million Paths are slow)
            except OSError as error:
                raise FileError(f"cannot read {file}: {error.strerror}") from error
            line = f"{file.removeprefix(root)} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(os.fsencode(line))  # names need not be UTF-8
        ranges = getattr(self.source.items, "ranges", None)
        digest.update(repr(ranges).encode() if ranges and any(ranges) else b"")
        return digest.hexdigest()


class FileImages:
    """Images that are one file each, read when an index asks for them.

    Attributes:
        ranges: the common ranges of samples of more than 8 bits; None if each image has its own.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Sequence[int] | np.ndarray,
        ranges: Ranges | None = None,
    ) -> None:
        self.paths = [str(path) for path in paths]
        self.labels = np.asarray(labels, np.int64)  # workers share an array, but would copy a list
        self.ranges = ranges

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return load_image(self.paths[index], ranges=self.ranges), int(self.labels[index])


class ArrayImages:
    """Images that are in memory.

    Attributes:
        images: uint8 (N, H, W) or (N, H, W, 3).
        labels: int64 (N,), or uint8 (N, F) with a 1 for every finding.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return Image.fromarray(self.images[index]), self.labels[index]


def to_tensor(image: Image.Image, size: Written, channels: int) -> Tensor:
    """Do what `to_array` does; uint8 (channels, H, W)."""
    pixels = to_array(image, size, channels).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels))


def to_array(image: Image.Image, size: Written, channels: int) -> np.ndarray:
    """Crop the center of an image to the shape of a size, and resize it.

    Returns:
        uint8 (H, W, channels).
    """
    height, width = size_of(size)
    mode = "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    if image.size != (width, height):
        image = _resized_center(image, height, width)
    return np.array(image, np.uint8).reshape(height, width, channels)


def flip_view(images: Tensor, view: int) -> Tensor:
    """Flip images by the number of a view.

    Args:
        images: (..., H, W), any dtype.
        view: 0 unchanged, 1 mirrored left to right, 2 upside down, 3 both.

    Returns:
        A tensor of the same shape; the input itself for view 0.
    """
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if view & bit]
    return images.flip(axes) if axes else images


def _resized_center(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize the largest box in the center of an image that has the shape height x width."""
    # Products come first: for a square the sides of the box are whole numbers.
    across = min(image.width, image.height * width / height)
    down = min(image.height, image.width * height / width)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _plain_label(label: Any) -> int | Tensor:
    """Convert a label to an int, or to uint8 (F,) if it has an entry for each of F findings."""
    values = np.asarray(label).reshape(-1)
    return int(values[0]) if len(values) == 1 else torch.from_numpy(values.astype(np.uint8))
