"""Writes generated images to files, and reads such files of any program.

The files are single images in a folder, or one .npz in the layout of ADM's samples. Images go in
and out block by block, so that memory does not grow with their number. Images of another size or
number of channels than wanted are converted as those of datasets are (data/images.py). Axes: N
images, B images of a block, H W pixels, C channels.
"""

import logging
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from PIL import Image

from data.folder import SUFFIXES
from data.images import load_image, to_tensor
from utils.errors import UserError
from utils.files import atomic_write, make_folder
from utils.pictures import to_picture
from utils.progress import progress_bar

log = logging.getLogger(__name__)

NO_LABEL = -1  # stands for the label of an image that has none

Block = tuple[np.ndarray, np.ndarray]
"""Images uint8 (B, H, W, C) and labels int64 (B,), NO_LABEL where there is none."""


Blocks = Iterable[tuple[np.ndarray, np.ndarray]]
"""Images uint8 (B, H, W, C) and labels int (B, ...), block by block."""


class GeneratedImages(Protocol):
    """Images that are read block by block."""

    def __len__(self) -> int: ...

    def blocks(self, batch_size: int) -> Iterator[Block]:
        """Yield all images in their order."""


def write_pngs(
    folder: Path, blocks: Blocks, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Write images as `000000.png` and so on, and yield them again.

    They are flushed to the disk together at the end: one by one takes thirty times as long.

    Args:
        folder: made where it is missing; PNGs that are in it are removed.
        blocks: the images, which are yielded unchanged.
        first: number of the first image.

    Raises:
        UserError: if an image cannot be written.
    """
    make_folder(folder)
    for earlier in folder.glob("*.png"):
        earlier.unlink()
    index = first
    try:
        for images, labels in blocks:
            for image in images:
                to_picture(image).save(folder / f"{index:06d}.png")
                index += 1
            yield images, labels
    except OSError as error:
        raise UserError(f"cannot write images into {folder}: {error.strerror or error}") from error
    os.sync()


def write_npz(path: Path, blocks: Blocks, count: int, title: str, keep: int = 100) -> np.ndarray:
    """Write images and labels as one .npz.

    The file holds `arr_0`, uint8 (N, H, W, C), and `arr_1`, the labels.

    Args:
        path: the file.
        blocks: the images, N in all.
        count: N.
        title: of the progress bar.
        keep: number of images to return.

    Returns:
        The first `keep` images, uint8 (keep or less, H, W, C).

    Raises:
        UserError: if the file cannot be written.
    """
    labels: list[np.ndarray] = []
    first: list[np.ndarray] = []
    with (
        progress_bar(title, count, unit="image") as bar,
        atomic_write(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        # The header comes first, as soon as the size of the images is known.
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            for images, block_labels in blocks:
                if not labels:
                    shape = (count, *images.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(entry, header)
                entry.write(images.tobytes())
                labels.append(block_labels)
                first.extend(images[: max(0, keep - len(first))])
                bar.update(len(images))
        # The labels.
        done = sum(map(len, labels))
        assert done == count, f"{done} images instead of {count}"
        with archive.open("arr_1.npy", "w") as entry:
            np.lib.format.write_array(entry, np.concatenate(labels), allow_pickle=False)
    return np.stack(first)


def open_generated(path: Path, size: int, channels: int) -> GeneratedImages:
    """Open a folder of image files (at any depth) or an .npz in the layout of ADM's samples.

    Args:
        path: a folder, or a file with `arr_0`, uint8 (N, H, W, C) or (N, H, W), and perhaps labels
            `arr_1`, int (N,).
        size: side of the images that `blocks` gives.
        channels: C of the images that `blocks` gives.

    Raises:
        UserError: if there are no such images; damage may show only while `blocks` reads them.
    """
    if path.is_dir():
        return _FolderImages(path, size, channels)
    if path.is_file() and path.suffix == ".npz":
        return _NpzImages(path, size, channels)
    raise UserError(f"`images` {path} is neither a folder of images nor an .npz file")


class _FolderImages:
    """The image files of a folder, sorted by path, without labels."""

    def __init__(self, folder: Path, size: int, channels: int) -> None:
        self._size, self._channels = size, channels
        self._paths = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not self._paths:
            raise UserError(f"`images` {folder} has no images ({' '.join(SUFFIXES)})")

    def __len__(self) -> int:
        return len(self._paths)

    def blocks(self, batch_size: int) -> Iterator[Block]:
        for start in range(0, len(self), batch_size):
            images = [load_image(path) for path in self._paths[start : start + batch_size]]
            yield _fitted(images, self._size, self._channels), np.full(len(images), NO_LABEL)


class _NpzImages:
    """The images of an .npz file, with its labels if it has one for each image."""

    def __init__(self, path: Path, size: int, channels: int) -> None:
        self._path, self._size, self._channels = path, size, channels
        try:
            with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
                self._shape = _read_shape(file)
            with np.load(path, allow_pickle=False) as stored:
                labels = stored.get("arr_1", np.empty(0))
        except Exception as error:  # numpy parses the header as Python: damage raises anything
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
                    # Resize only where needed, as it takes its time.
                    if images.shape[1:] != (self._size, self._size, self._channels):
                        pages = images.squeeze(-1) if stored_channels == 1 else images
                        pictures = [Image.fromarray(page) for page in pages]
                        images = _fitted(pictures, self._size, self._channels)
                    yield images, self._labels[start : start + count]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        """Make the error that tells what is wrong with the file."""
        return UserError(
            f"`images` {self._path} cannot be read: {error}; it needs arr_0, uint8 (N, H, W, C) "
            "with C 1 or 3"
        )


def _read_shape(file: IO[bytes]) -> tuple[int, int, int, int]:
    """Read the header of an .npy stream.

    Returns:
        N, H, W, C of the bytes that follow.

    Raises:
        Exception: of any kind if it is damaged, or is not that of images.
    """
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
    """Convert images of any size to uint8 (B, size, size, channels)."""
    return np.stack([to_tensor(i, size, channels).permute(1, 2, 0).numpy() for i in images])
