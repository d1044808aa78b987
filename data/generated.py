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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from data.arrays import class_labels, images_shape, open_npy, read_npz
from data.deep_pixels import common_ranges
from data.image_file import load_image, problems
from data.images import to_array
from data.spec import Preparation
from data.tree import SUFFIXES, described, walk
from data.user_files import digest_of_files
from utils.errors import FieldError, FileError, UserError, counted, failures_of, reading
from utils.files import atomic_write, make_folder
from utils.pictures import Texts, write_png
from utils.plain import NOTHING
from utils.progress import log_once, progress_bar
from utils.size import Size, WrittenSize, size_of, size_text

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


@dataclass(frozen=True)
class GeneratedImages:
    """Images that are read one after the other.

    Attributes:
        paths: their files.
        labels: int64 (N,), NO_LABEL for images without one.
        read: opens the files, and yields the images in their order.
        size: height and width that the images get.
        channels: C that the images get.
        resize: as in `open_generated`.
    """

    paths: Sequence[str]
    labels: np.ndarray
    read: Callable[[], Iterator[Image.Image]]
    size: Size
    channels: int
    resize: str | None

    @property
    def fingerprint(self) -> str:
        """Hash of the paths, sizes and times of change of the files."""
        return digest_of_files(self.paths).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def blocks(self, batch_size: int) -> Iterator[Block]:
        """Yield all images in their order."""
        target = (self.size, self.channels, Preparation(resize=self.resize or "default"))
        images = self.read()
        for start in range(0, len(self), batch_size):
            labels = self.labels[start : start + batch_size]
            # One by one: they may be much larger than the wanted size.
            block = [to_array(next(images), *target) for _ in labels]
            yield np.stack(block), labels


def open_generated(
    path: Path,
    size: WrittenSize,
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
    wanted = size_of(size)
    only = wanted if resize is None else None
    if path.is_dir():
        paths = _paths_in(path)
        labels, read = np.full(len(paths), NO_LABEL), partial(_read_files, paths, wanted, only)
    elif path.is_file() and path.suffix in (".npz", ".npy"):
        paths, shape = [str(path)], _shape_of(path, wanted, only)
        labels = _labels_of(path, shape[0]) if with_labels else np.full(shape[0], NO_LABEL)
        read = partial(_read_array, path, shape)
    else:
        raise UserError(f"`images` {path} is neither a folder of images nor an .npz or .npy file")
    return GeneratedImages(paths, labels, read, wanted, channels, resize)


def images_from(images: GeneratedImages, batch_size: int, first: int) -> Iterator[Block]:
    """Yield the blocks of `batch_size` images that begin with the `first` image or a later one."""
    return itertools.islice(images.blocks(batch_size), math.ceil(first / batch_size), None)


def _check_size(path: Path | str, found: Size, only: Size | None) -> None:
    """Refuse an image of another size than `only`; None accepts any."""
    if only is not None and found != only:
        raise FieldError(
            "images",
            path,
            f"{size_text(found)} pixels, and the images to compare with have "
            f"{size_text(only)}: this `protocol` takes images as they are, and ours resizes them",
        )


def _paths_in(folder: Path) -> list[str]:
    """List the image files of a folder, sorted."""
    tree = walk(folder)
    if not tree.names:
        reason = f"({' '.join(SUFFIXES)}){described(tree.left_out)}"
        raise UserError(f"`images` {folder} has no images {reason}")
    log.info("%s: %s%s", folder, counted(len(tree.names), "image"), described(tree.left_out))
    return [tree.path(name) for name in tree.names]


def _read_files(paths: Sequence[str], wanted: Size, only: Size | None) -> Iterator[Image.Image]:
    """Read image files; those of more than 8 bits have one range, for which all are read first."""
    ranges, has_others = cache(lambda: common_ranges(problems(paths))), False
    for path in paths:
        image = load_image(path, ranges=ranges)
        size = (image.height, image.width)
        _check_size(path, size, only)
        if size != wanted and not has_others:  # perhaps a grid, not a single sample
            has_others = True
            shape, needed = (f"{height} x {width}" for height, width in (size, wanted))
            log_once(f"{path} has {shape} pixels: images of another size are resized to {needed}")
        yield image


def _shape_of(path: Path, wanted: Size, only: Size | None) -> tuple[int, int, int, int]:
    """Read N, H, W, C of the images in an .npz or .npy file."""
    with open_npy(path, "arr_0") as (_, found, dtype, in_fortran_order):
        shape = images_shape(found, dtype, in_fortran_order)
    _check_size(path, shape[1:3], only)
    if shape[1:3] != wanted:
        log.info("%s: images %s are resized to %d x %d", path, shape[1:3], *wanted)
    return shape


def _read_array(path: Path, shape: tuple[int, int, int, int]) -> Iterator[Image.Image]:
    """Read the images in an .npz or .npy file."""
    count, *sides, channels = shape
    with open_npy(path, "arr_0") as (file, *_):
        for _ in range(count):
            image = np.frombuffer(file.read(math.prod(shape[1:])), np.uint8)
            yield Image.fromarray(image.reshape(sides if channels == 1 else shape[1:]))


def _labels_of(path: Path, count: int) -> np.ndarray:
    """Read the labels; NO_LABEL, with a warning for wrong ones, if there are none to use."""
    try:
        if path.suffix == ".npz":
            labels = read_npz(
                path,
                "arr_1",
                lambda shape, _: shape[:1] == (count,),
                f"a label for each of {counted(count, 'image')}",
            )
            with reading(path, "the labels arr_1 of"):
                return class_labels(labels)
    except FileError as error:
        log.warning("%s; the images are used without labels", error)
    return np.full(count, NO_LABEL)
