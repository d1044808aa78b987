"""Images that some program generated, in a folder or an .npz file, as blocks to measure.

Images of another size or number of channels are brought to the wanted one as the images of every
dataset are (data/images.py). Axes: N images, B images of a block, H W pixels, C channels.
"""

import logging
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image

from data.folder import SUFFIXES
from data.images import load_image, to_tensor
from utils.errors import UserError

log = logging.getLogger(__name__)

NO_LABEL = -1

Block = tuple[np.ndarray, np.ndarray]
"""Images uint8 (B, H, W, C) and labels int64 (B,), NO_LABEL where there is none."""


class GeneratedImages(Protocol):
    """N images that are read block by block."""

    def __len__(self) -> int: ...

    def blocks(self, batch_size: int) -> Iterator[Block]:
        """All images in their order."""


def open_generated(path: Path, size: int, channels: int) -> GeneratedImages:
    """Open a folder of image files (at any depth) or an .npz in the layout of ADM's samples.

    Args:
        path: a folder, or a file with `arr_0`, uint8 (N, H, W, C) or (N, H, W), and perhaps labels
            `arr_1`, int (N,).
        size: side of the images that `blocks` gives.
        channels: C of the images that `blocks` gives.

    Raises:
        UserError: if there are no such images, also while they are read.
    """
    if path.is_dir():
        return _FolderImages(path, size, channels)
    if path.is_file() and path.suffix == ".npz":
        return _NpzImages(path, size, channels)
    raise UserError(f"--images {path} is neither a folder of images nor an .npz file")


class _FolderImages:
    def __init__(self, folder: Path, size: int, channels: int) -> None:
        self._size, self._channels = size, channels
        self._paths = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not self._paths:
            raise UserError(f"--images {folder} has no images ({' '.join(SUFFIXES)})")

    def __len__(self) -> int:
        return len(self._paths)

    def blocks(self, batch_size: int) -> Iterator[Block]:
        for start in range(0, len(self), batch_size):
            images = [load_image(path) for path in self._paths[start : start + batch_size]]
            yield _fitted(images, self._size, self._channels), np.full(len(images), NO_LABEL)


class _NpzImages:
    def __init__(self, path: Path, size: int, channels: int) -> None:
        self._path, self._size, self._channels = path, size, channels
        try:
            with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
                self._shape = _read_shape(file)
            with np.load(path, allow_pickle=False) as stored:
                labels = stored.get("arr_1", np.empty(0))
        except Exception as error:  # a damaged header is parsed as Python, and fails with anything
            raise self._damaged(error) from error
        known = labels.shape == self._shape[:1] and labels.dtype.kind in "iu"
        self._labels = labels.astype(np.int64) if known else np.full(len(self), NO_LABEL)
        if self._shape[1:3] != (size, size):
            log.info("%s: images %s are resized to %d x %d", path, self._shape[1:3], size, size)

    def __len__(self) -> int:
        return self._shape[0]

    def blocks(self, batch_size: int) -> Iterator[Block]:
        height, width, stored_channels = self._shape[1:]
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open("arr_0.npy") as file:
                _read_shape(file)
                for start in range(0, len(self), batch_size):
                    count = min(batch_size, len(self) - start)
                    data = file.read(count * math.prod(self._shape[1:]))
                    images = np.frombuffer(data, np.uint8)
                    images = images.reshape(count, height, width, stored_channels)
                    if images.shape[1:] != (self._size, self._size, self._channels):
                        pages = images.squeeze(-1) if stored_channels == 1 else images
                        pictures = [Image.fromarray(page) for page in pages]
                        images = _fitted(pictures, self._size, self._channels)
                    yield images, self._labels[start : start + count]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"--images {self._path} cannot be read: {error}; it needs arr_0, uint8 (N, H, W, C) "
            "with C 1 or 3"
        )


def _read_shape(file: IO[bytes]) -> tuple[int, int, int, int]:
    """Read the header of an .npy stream: (N, H, W, C) of the bytes that follow."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read(file)
    if len(shape) == 3:
        shape = (*shape, 1)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or fortran_order:
        order = " in Fortran's order" if fortran_order else ""
        raise ValueError(f"arr_0 is {dtype} {shape}{order}")
    return shape


def _fitted(images: list[Image.Image], size: int, channels: int) -> np.ndarray:
    """Images of any size: uint8 (B, size, size, channels)."""
    return np.stack([to_tensor(i, size, channels).permute(1, 2, 0).numpy() for i in images])
