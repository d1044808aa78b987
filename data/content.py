"""A fingerprint of a split that does not depend on where the files lie.

A run records it, so that it cannot be continued with other images. Processes that train together
compare it. Modification times and the path of the data folder are not part of it.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.deep_pixels import black_and_white
from data.images import FileImages, ImageDataset

MOST_BYTES = 1 << 28  # if image files have more together, an even share of them is read
MOST_FILES = 10_000
ROWS = 4096  # rows of an array digested at once


def content_of(images: ImageDataset) -> dict[str, Any]:
    """Describe the images of a split.

    Returns:
        "images", their number; "class_names", in the order of the labels; "labels", a digest; and
        "source", a digest of the images. If a few files hold all images as arrays, all pixels are
        in it. If each image is a file, it has the names and sizes of all files and the contents of
        all files up to MOST_BYTES and MOST_FILES, or of an even share of them in larger sets. For
        images of more than 8 bits also "levels", as a brighter image makes all others darker.

    Raises:
        OSError: if a file cannot be read.
    """
    items, root = images.source.items, images.source.root
    labels = labels_of(images)
    if isinstance(items, FileImages):
        source = _digest(_files(items.paths, str(root)))
    else:
        source = digest_of(items.images)
    ranges = items.ranges if isinstance(items, FileImages) else None
    levels = ["black {:g}, white {:g}".format(*black_and_white(one)) for one in ranges or () if one]
    return {
        "images": len(images),
        "class_names": list(images.class_names),
        "labels": digest_of(labels),
        "source": source,
        **({"levels": "; ".join(levels)} if levels else {}),
    }


def sizes_of_files(images: ImageDataset) -> dict[str, int]:
    """Return the name and the size in bytes of every image file, in their order.

    It is empty if the images are not one file each.

    Raises:
        OSError: if a file is missing.
    """
    items = images.source.items
    if not isinstance(items, FileImages):
        return {}
    names = (_name(path, str(images.source.root)) for path in items.paths)
    return dict(zip(names, _sizes(items.paths), strict=True))


def chosen_files(
    images: ImageDataset, names: Collection[str], class_names: Sequence[str]
) -> ImageDataset:
    """Leave out all image files but those with these names, and name their classes."""
    items, root = images.source.items, str(images.source.root)
    assert isinstance(items, FileImages)
    kept = [i for i, path in enumerate(items.paths) if _name(path, root) in names]
    items = replace(items, paths=[items.paths[i] for i in kept], labels=items.labels[kept])
    return _with_items(images, items, class_names)


def labels_of(images: ImageDataset) -> np.ndarray:
    """Return the labels of all images: int64 (N,), or (N, F) for images with several findings."""
    return np.asarray(images.source.items.labels, np.int64)


def digest_of(array: np.ndarray) -> str:
    """Compute 16 hexadecimal digits of an array's shape, type and contents."""
    return _digest(_rows(array))


def in_order(images: ImageDataset, class_names: Sequence[str]) -> ImageDataset:
    """Number the classes of image files in another order.

    Args:
        images: the images.
        class_names: the names of their classes in the wanted order. Nothing changes if the images
            have other names, or if the table of datasets fixes the names.
    """
    items = images.source.items
    names = tuple(class_names)
    if not isinstance(items, FileImages) or set(names) != set(images.class_names):
        return images
    numbers = np.array([names.index(name) for name in images.class_names])
    return _with_items(images, replace(items, labels=numbers[items.labels]), names)


def _with_items(
    images: ImageDataset, items: FileImages, class_names: Sequence[str]
) -> ImageDataset:
    """Copy a split, with other image files or other labels."""
    source = replace(images.source, items=items)
    return replace(images, source=source, class_names=tuple(class_names))


def _digest(parts: Iterator[bytes]) -> str:
    """Compute 16 hexadecimal digits of some bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _rows(array: np.ndarray) -> Iterator[bytes]:
    """Yield shape, type and contents of an array, some rows at a time."""
    yield f"{array.shape} {array.dtype.str}\n".encode()
    for start in range(0, len(array), ROWS):
        yield np.ascontiguousarray(array[start : start + ROWS]).tobytes()


def _files(paths: Sequence[str], root: str) -> Iterator[bytes]:
    """Yield name and size of every file, and the contents of as many as may be read."""
    sizes = _sizes(paths)
    share = min(1.0, MOST_BYTES / max(sum(sizes), 1), MOST_FILES / len(paths))
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        name = _name(path, root)
        yield f"{len(name)} {name} {size}\n".encode(errors="surrogateescape")
        if int((number + 1) * share) > int(number * share):
            yield Path(path).read_bytes()


def _name(path: str, root: str) -> str:
    """Return the path of a file relative to the folder of the images."""
    return path.removeprefix(root).lstrip("/")


def _sizes(paths: Sequence[str]) -> list[int]:
    """Return the sizes of files in bytes."""
    return [os.stat(path).st_size for path in paths]  # noqa: PTH116 (a million Paths are slow)
