"""A user's own folder of images: a class per sub-folder, or no classes if it is flat.

Where the folder has the sub-folders train and val (or valid, validation, test), these are the
splits. Otherwise, also where train is the only sub-folder, a tenth of the images is held out for
validation. Whether an image is held out depends on a hash of its own path alone, so that images
which are added later leave all others in their split. The name of an image is its path relative to
the folder, with forward slashes.
"""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from data.images import FileImages, is_readable
from data.spec import Source
from utils.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VALIDATION_FOLDERS = ("val", "valid", "validation", "test")
HELD_OUT = 0.1
ONLY_CLASS = "images"
"""Name of the one class of a flat folder."""

LISTED = 10
"""Largest number of file names in a warning; it counts the others."""


@dataclass(frozen=True)
class ImageFolder:
    """Reads images from the data folder itself."""

    def open(self, root: Path, split: str, size: int) -> Source:
        """List the readable images of a split.

        Raises:
            UserError: if there are none, or no image to train on has one of their classes.
        """
        folder, training, images = _split(root, split)
        classes = sorted({_class_of(name) for name in training})
        unknown = {_class_of(name) for name in images}.difference(classes)
        if unknown:
            raise UserError(f"{folder} has the class {min(unknown)}, which has no training images")
        labels = {name: label for label, name in enumerate(classes)}
        paths = [f"{folder}/{name}" for name in images]
        items = FileImages(paths, [labels[_class_of(name)] for name in images])
        return Source(items, folder, paths, tuple(classes))

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Refuse: nobody but the user has these images."""
        raise FileNotFoundError("`data_dir` must be your folder of images")


def readable_images(folder: Path) -> tuple[str, ...]:
    """List the names of all images below a folder, sorted.

    Files that cannot be read, and images beside class folders, are left out with a warning.

    Raises:
        UserError: if there are no other images.
    """
    return _examine(folder, tuple(sorted(_image_files(folder))))


@lru_cache(maxsize=4)
def _examine(folder: Path, files: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """Choose the names of the images from (name, time of change).

    The result is kept, as both splits are made from the same images. The times of change are there
    so that a changed file is examined again.
    """
    found = {name for name, _ in files}
    loose = {name for name in found if "/" not in name}
    if loose != found:
        _warn(f"{folder}: left out, as they are in no class folder", loose)
        found -= loose
    damaged = {name for name in found if not is_readable(folder / name)}
    _warn(f"{folder}: left out, as they cannot be read", damaged)
    if found == damaged:
        raise UserError(f"`data_dir` {folder} has no readable images ({' '.join(SUFFIXES)})")
    return tuple(sorted(found - damaged))


def held_out(names: Collection[str]) -> set[str]:
    """Choose the images to validate on: about a tenth, at least one, never all of a class.

    Args:
        names: of all images.

    Raises:
        UserError: if every class has only one image.
    """
    classes: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=_position):
        classes[_class_of(name)].append(name)
    spare = [name for members in classes.values() for name in members[:-1]]
    if not spare:
        raise UserError("no class has two images, one to train on and one to validate on")
    chosen = {name for name in spare if _position(name) < HELD_OUT}
    return chosen or {min(spare, key=_position)}


def _split(root: Path, split: str) -> tuple[Path, Collection[str], Collection[str]]:
    """Find the folder of a split, the names of all training images and those of the split."""
    if not root.is_dir():
        raise UserError(f"`data_dir` {root} is not a folder; `dataset` folder reads images from it")
    validation = [root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()]
    if (root / "train").is_dir() and validation:
        folder = root / "train" if split == "train" else validation[0]
        return folder, readable_images(root / "train"), readable_images(folder)
    if [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")] == ["train"]:
        root = root / "train"
    everything = readable_images(root)
    reserved = held_out(everything)
    training = [name for name in everything if name not in reserved]
    return root, training, training if split == "train" else sorted(reserved)


def _image_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield name and time of change of the images at any depth, without hidden ones."""
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not (name.startswith(".") or _loops(path, name))]
        for name in files:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                file = Path(path, name)
                changed = file.stat().st_mtime_ns if file.exists() else 0  # a broken link
                yield file.relative_to(folder).as_posix(), changed


def _loops(path: str, name: str) -> bool:
    """Whether a folder is a link to a folder that contains it."""
    target, here = Path(path, name), Path(path).resolve()
    return target.is_symlink() and target.resolve() in (here, *here.parents)


def _class_of(name: str) -> str:
    """The class of an image: the first folder of its name."""
    return name.split("/")[0] if "/" in name else ONLY_CLASS


def _position(name: str) -> float:
    """Turn a name into a number in [0, 1) that depends on nothing else."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _warn(text: str, names: Collection[str]) -> None:
    """Log a warning with the first of the names, if there are any."""
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        log.warning("%s: %s%s", text, ", ".join(sorted(names)[:LISTED]), more)
