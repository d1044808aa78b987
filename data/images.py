"""The dataset that training reads: images of one size, as tensors, with their labels.

The largest centered part of an image with the wanted shape is resized to the wanted size. The
filter is PIL's bilinear one, which averages over all source pixels when it shrinks an image.
`Preparation.resize` chooses another rule; `Preparation.fit` "pad" adds bars instead of cropping.
Published FIDs depend on this choice: random crops, squashing to a square or a filter that does not
average give other reference statistics. So compare only with figures that were measured on images
prepared in the same way. Axes: B batch, C channels, H W pixels.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from data.augment import Augmentation, FloatBox, drawn_augmentation
from data.deep_pixels import Ranges
from data.image_file import load_image
from data.spec import AS_IT_IS, Preparation
from data.user_files import digest_of_files, file_lines
from utils.size import Size, WrittenSize, size_of

FILTERS = {  # of what is left to resize, for each way in data.spec.RESIZES
    "default": Image.Resampling.BILINEAR,
    "adm": Image.Resampling.BICUBIC,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Source:
    """An opened split of a dataset.

    Attributes:
        files: all files of the images and labels; the fingerprint depends on them.
        labels_from: the file or folder of the labels.
        class_names: names in the order of the labels; empty if the table has them.
    """

    items: "FileImages | ArrayImages"
    root: Path
    files: Sequence[str | Path]
    labels_from: Path
    class_names: tuple[str, ...] = ()


@dataclass(eq=False)
class ImageDataset(Dataset):
    """A split of a dataset at one image size.

    Items are (image uint8 (C, H, W), label): an int, or for multi-label data a uint8 tensor
    with a 1 for every finding.

    Attributes:
        class_names: in the order of the labels.
        size: height and width of the images in pixels, (H, W).
        num_flips: number of flips under which an image is used (`flip_view`); 1 outside training.
        num_copies: 1, and more with changed copies of every image.
    """

    source: Source
    class_names: tuple[str, ...]
    channels: int
    size: Size
    num_flips: int = 1
    num_copies: int = 1
    preparation: Preparation = AS_IT_IS

    @property
    def num_views(self) -> int:
        """Number of ways to show an image; view v is copy v // num_flips, flip v % num_flips."""
        return self.num_flips * self.num_copies

    def __len__(self) -> int:
        return len(self.source.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        """Read one image.

        Raises:
            FileError: if its file is damaged.
        """
        pixels, label = self.copies(index, [0])
        return pixels[0], label

    def picture(self, index: int) -> tuple[np.ndarray, int | None]:
        """Read one image as uint8 (H, W, C), and its class; None if it has several or none.

        Raises:
            FileError: if its file is damaged.
        """
        pixels, label = self[index]
        return pixels.permute(1, 2, 0).numpy(), label if isinstance(label, int) else None

    def copies(self, index: int, numbers: Iterable[int]) -> tuple[Tensor, int | Tensor]:
        """Read one image, and return some of its copies: uint8 (copies, C, H, W), and its label.

        Copy 0 is the image itself.

        Raises:
            FileError: if its file is damaged.
        """
        image, label = self.source.items[index]
        target = (self.size, self.channels, self.preparation)
        shown = [to_array(image, *target, self._augmentation(index, number)) for number in numbers]
        pixels = np.ascontiguousarray(np.stack(shown).transpose(0, 3, 1, 2))
        return torch.from_numpy(pixels), _plain_label(label)

    def _augmentation(self, index: int, number: int) -> Augmentation | None:
        """Return the change that makes a copy of an image; None for the image itself.

        It depends on the name of the image's file, so that added files do not change other images.
        """
        if number == 0:
            return None
        return drawn_augmentation(self.preparation.seed, self.name_of(index) or str(index), number)

    def name_of(self, index: int) -> str | None:
        """Return the path of an image in the dataset; None if it is not a file of its own."""
        items = self.source.items
        if isinstance(items, ArrayImages):
            return None
        return os.path.relpath(items.paths[index], self.source.root)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the paths, sizes and times of change of all source files.

        With images of more than 8 bits, the hash depends on their common range too.

        Raises:
            OSError: if a file is missing.
        """
        digest = digest_of_files(self.source.files, str(self.source.root))
        digest.update(self._ranges())
        return digest.hexdigest()

    def stamps(self) -> np.ndarray | None:
        """Compute one number for each image, which changes when the pixels may have changed.

        Returns:
            uint64 (N,), from path, size and time of change of its file, and from the common range
            of images of more than 8 bits; None if the images are not one file each.

        Raises:
            OSError: if a file is missing.
        """
        if not isinstance(self.source.items, FileImages):
            return None
        ranges = self._ranges()
        lines = file_lines(self.source.items.paths, str(self.source.root))
        stamps = (hashlib.blake2b(line + ranges, digest_size=8).digest() for line in lines)
        return np.frombuffer(b"".join(stamps), "<u8")

    def _ranges(self) -> bytes:
        """Write the common ranges of images of more than 8 bits; empty if there are none."""
        items = self.source.items
        ranges = items.ranges if isinstance(items, FileImages) else None
        return repr(ranges).encode() if ranges and any(ranges) else b""


@dataclass(frozen=True)
class Copies(Dataset):
    """The copies of images; a key has the arguments of `ImageDataset.copies`."""

    images: ImageDataset

    def __getitem__(self, key: tuple[int, Iterable[int]]) -> tuple[Tensor, int | Tensor]:
        return self.images.copies(*key)


@dataclass
class FileImages:
    """Images that are one file each, read when an index asks for them.

    Attributes:
        labels: int64 (N,); workers share an array, but would copy a list.
        ranges: the common ranges of samples of more than 8 bits; None if each image has its own.
        page: color behind transparent parts.
    """

    paths: Sequence[str]
    labels: np.ndarray
    ranges: Ranges | None = None
    page: str = "white"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return load_image(self.paths[index], self.page, self.ranges), int(self.labels[index])


@dataclass
class ArrayImages:
    """Images that are in memory.

    Attributes:
        images: uint8 (N, H, W) or (N, H, W, 3).
        labels: int64 (N,), or uint8 (N, F) with a 1 for every finding.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return Image.fromarray(self.images[index]), self.labels[index]


def to_array(
    image: Image.Image,
    size: WrittenSize,
    channels: int,
    preparation: Preparation = AS_IT_IS,
    augmentation: Augmentation | None = None,
) -> np.ndarray:
    """Give an image the shape of a size, and resize it.

    Args:
        image: the image.
        size: the height and width.
        channels: 1 for gray, 3 for color.
        preparation: its `fit`, `background` and `resize` are used.
        augmentation: which part to take, and how to change its colors; None for the image itself.

    Returns:
        uint8 (H, W, channels).
    """
    height, width = size_of(size)
    mode = "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    if preparation.fit == "pad":
        image = _padded(image, height, width, preparation.background)
    if preparation.resize == "adm":
        image = _as_adm(image, height, width)
    if image.size != (width, height) or augmentation is not None:
        box = center_box(image.size, height, width)
        box = box if augmentation is None else augmentation.part_of(box)
        image = image.resize((width, height), FILTERS[preparation.resize], box=box)
    pixels = np.array(image, np.uint8).reshape(height, width, channels)
    return pixels if augmentation is None else augmentation.recolored(pixels)


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


def center_box(size: tuple[int, int], height: int, width: int) -> FloatBox:
    """Find the largest box with the shape height x width in the center of an image.

    Args:
        size: width and height of the image.
        height: height of the shape.
        width: width of the shape.
    """
    # Products come first: for a square the sides of the box are whole numbers.
    across = min(size[0], size[1] * width / height)
    down = min(size[1], size[0] * height / width)
    left, top = (size[0] - across) / 2, (size[1] - down) / 2
    return left, top, left + across, top + down


def _as_adm(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize and crop an image as guided-diffusion does (center_crop_arr in image_datasets.py).

    It is halved with a box filter while it stays large enough, resized with a bicubic filter, and
    cropped in the center.
    """
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    sides = round(image.width * scale), round(image.height * scale)
    image = image.resize(sides, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _padded(image: Image.Image, height: int, width: int, background: str) -> Image.Image:
    """Put an image in the middle of the smallest sheet with the shape height x width."""
    across = max(image.width, math.ceil(image.height * width / height))
    down = max(image.height, math.ceil(image.width * height / width))
    return ImageOps.pad(image, (across, down), color=background)


def _plain_label(label: Any) -> int | Tensor:
    """Convert a label to an int, or to uint8 (F,) if it has an entry for each of F findings."""
    values = np.asarray(label).reshape(-1)
    return int(values[0]) if len(values) == 1 else torch.from_numpy(values.astype(np.uint8))
