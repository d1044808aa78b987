"""Writes generated images to files, and reads such files of any program.

The files are single images in a folder, one .npz in the layout of ADM's samples, or one .npy.
Images are read and written block by block, so that memory does not grow with their number. Images
of another size or number of channels are converted in the same way as those of datasets
(data/images.py).

Axes: N images, B images of a block, H W pixels, C channels.
"""

import itertools
import logging
import math
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from data.arrays import class_labels, images_shape, open_npy, read_npz
from data.deep_pixels import Ranges, common_ranges
from data.files import FileError, digest_of_files, reading
from data.image_file import load_image, problems
from data.images import to_array
from data.spec import Preparation
from data.tree import SUFFIXES, described, walk
from utils.errors import FieldError, UserError, failures_of
from utils.files import atomic_write, make_folder
from utils.pictures import Texts, write_png
from utils.plain import NOTHING
from utils.progress import progress_bar
from utils.size import Size, Written, size_of, size_text

log = logging.getLogger(__name__)

NO_LABEL = -1  # for an image without a label

Block = tuple[np.ndarray, np.ndarray]
"""Images uint8 (B, H, W, C) and labels int64 (B,), NO_LABEL for images without one."""


Blocks = Iterable[tuple[np.ndarray, np.ndarray]]
"""Images uint8 (B, H, W, C) and labels int (B, ...), block by block."""


def write_pngs(
    folder: Path,
    blocks: Blocks,
    numbers: Iterable[int] | None = None,
    texts: Texts = NOTHING,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Write images as `000000.png` and so on, and yield them again.

    They are flushed to the disk together at the end: one by one takes thirty times as long.

    Args:
        folder: made if it is missing.
        blocks: the images, which are yielded unchanged.
        numbers: the numbers in the names of the files; None counts from 0.
        texts: what every file says about itself.

    Raises:
        UserError: if an image cannot be written.
    """
    make_folder(folder)
    number = iter(itertools.count() if numbers is None else numbers)
    with failures_of(f"cannot write images into {folder}"):
        for images, labels in blocks:
            for image in images:
                with (folder / f"{next(number):06d}.png").open("wb") as file:
                    write_png(file, image, texts)
            yield images, labels
    os.sync()


def write_npz(
    path: Path,
    blocks: Blocks,
    count: int,
    title: str,
    more: Mapping[str, np.ndarray] | None = None,
    keep: int = 100,
) -> np.ndarray:
    """Write images and labels as one .npz.

    The file holds `arr_0`, uint8 (N, H, W, C), and `arr_1`, the labels.

    Args:
        path: the file.
        blocks: the images, N in all.
        count: N.
        title: title of the progress bar.
        more: other arrays for the file, by name.
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
        for name, array in {"arr_1": np.concatenate(labels), **(more or {})}.items():
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return np.stack(first)


class GeneratedImages(ABC):
    """Images that are read block by block."""

    def __init__(self, paths: Sequence[str], size: Size, channels: int, resize: str | None) -> None:
        """Name the files; the other arguments are those of `open_generated`."""
        self._paths, self._size, self._channels, self._resize = paths, size, channels, resize

    @property
    def fingerprint(self) -> str:
        """Hash of the paths, sizes and times of change of the files."""
        return digest_of_files(self._paths).hexdigest()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self, batch_size: int) -> Iterator[Block]:
        """Yield all images in their order."""

    def _check_size(self, path: str, found: Size) -> None:
        """Refuse an image of another size if none is to be resized."""
        if self._resize is None and found != self._size:
            raise FieldError(
                "images",
                path,
                f"{size_text(found)} pixels, and the images to compare with have "
                f"{size_text(self._size)}: this `protocol` takes images as they are, and ours "
                "resizes them",
            )

    def _sized(self, image: Image.Image) -> np.ndarray:
        """Give an image its size and channels."""
        how = Preparation(resize=self._resize or "default")
        return to_array(image, self._size, self._channels, how)


def open_generated(
    path: Path,
    size: Written,
    channels: int,
    resize: str | None = "default",
    *,
    with_labels: bool = True,
) -> GeneratedImages:
    """Open a folder of image files (at any depth) or an array of images in a file.

    Args:
        path: a folder; an .npz file in the layout of ADM's samples, with `arr_0` and perhaps labels
            `arr_1` (`data.arrays.class_labels`); or an .npy file. The images are uint8 (N, H, W, C)
            or (N, H, W).
        size: height and width of the images that `blocks` yields.
        channels: C of the images that `blocks` yields.
        resize: how images of another size are resized, a key of `data.spec.RESIZES`; None refuses
            them.
        with_labels: whether to read labels, and to warn if there are none.

    Raises:
        UserError: if there are no such images. Some damage, and images of another size in a folder,
            are found only while `blocks` reads them.
    """
    if path.is_dir():
        return _FolderImages(path, size_of(size), channels, resize)
    if path.is_file() and path.suffix in (".npz", ".npy"):
        return _ArrayFile(path, size_of(size), channels, resize, with_labels)
    raise UserError(f"`images` {path} is neither a folder of images nor an .npz or .npy file")


def images_from(images: GeneratedImages, batch_size: int, first: int) -> Iterator[Block]:
    """Yield the blocks of `batch_size` images that begin with the `first` image or a later one."""
    return itertools.islice(images.blocks(batch_size), math.ceil(first / batch_size), None)


class _FolderImages(GeneratedImages):
    """The image files of a folder, sorted by path, without labels."""

    def __init__(self, folder: Path, size: Size, channels: int, resize: str | None) -> None:
        tree = walk(folder)
        super().__init__([tree.path(name) for name in tree.names], size, channels, resize)
        if not self._paths:
            reason = f"({' '.join(SUFFIXES)}){described(tree.left_out)}"
            raise UserError(f"`images` {folder} has no images {reason}")
        log.info("%s: %d images%s", folder, len(self), described(tree.left_out))

    def __len__(self) -> int:
        return len(self._paths)

    def blocks(self, batch_size: int) -> Iterator[Block]:
        for start in range(0, len(self), batch_size):
            images = [self._read(path) for path in self._paths[start : start + batch_size]]
            yield np.stack(images), np.full(len(images), NO_LABEL)

    def _read(self, path: str) -> np.ndarray:
        """Read an image as uint8 (H, W, C)."""
        image = load_image(path, ranges=lambda: self._ranges)
        self._check_size(path, (image.height, image.width))
        return self._sized(image)

    @cached_property
    def _ranges(self) -> Ranges:
        """The ranges of all images, which are read at the first one of more than 8 bits."""
        return common_ranges(problems(self._paths))


class _ArrayFile(GeneratedImages):
    """The images of an .npz or .npy file, and its labels if each image has one."""

    def __init__(
        self, path: Path, size: Size, channels: int, resize: str | None, with_labels: bool
    ) -> None:
        super().__init__([str(path)], size, channels, resize)
        self._path = path
        with open_npy(path, "arr_0") as (_, shape, dtype, in_fortran_order):
            self._shape = images_shape(shape, dtype, in_fortran_order)
        self._check_size(str(path), self._shape[1:3])
        no_labels = np.full(len(self), NO_LABEL)
        self._labels = self._read_labels() if with_labels else no_labels
        if self._shape[1:3] != size:
            log.info("%s: images %s are resized to %d x %d", path, self._shape[1:3], *size)

    def __len__(self) -> int:
        return self._shape[0]

    def blocks(self, batch_size: int) -> Iterator[Block]:
        length = math.prod(self._shape[1:])
        for_picture = self._shape[1:3] if self._shape[3] == 1 else self._shape[1:]
        wanted = (*self._size, self._channels)
        with open_npy(self._path, "arr_0") as (file, *_):
            for start in range(0, len(self), batch_size):
                labels = self._labels[start : start + batch_size]
                images = []
                # One by one: they may be much larger than the wanted size.
                for _ in labels:
                    image = np.frombuffer(file.read(length), np.uint8).reshape(self._shape[1:])
                    if image.shape != wanted:
                        picture = Image.fromarray(image.reshape(for_picture))
                        image = self._sized(picture)
                    images.append(image)
                yield np.stack(images), labels

    def _read_labels(self) -> np.ndarray:
        """Read the labels; NO_LABEL, with a warning for wrong ones, if there are none to use."""
        count = len(self)
        try:
            if self._path.suffix == ".npz":
                labels = read_npz(
                    self._path,
                    "arr_1",
                    lambda shape, _: shape[:1] == (count,),
                    f"a label for each of {count} images",
                )
                with reading(self._path, "the labels arr_1 of"):
                    return class_labels(labels)
        except FileError as error:
            log.warning("%s; the images are used without labels", error)
        return np.full(count, NO_LABEL)
