"""A user's own folder of images: a class per sub-folder, or no classes if it is flat.

A table beside the images may say their classes instead (data/label_tables.py).

Wrapping folders, as archives have them, are skipped. If there are sub-folders for training and for
validation (TRAIN, VALIDATION, upper or lower case), these are the splits. Otherwise a tenth of the
images is held out for validation. Whether an image is held out depends only on a hash of its own
path, so images that are added later do not move others to another split. The name of an image is
its path relative to the folder, with forward slashes.
"""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress
from pathlib import Path

import numpy as np

from data.checked_images import STAMP, examined, stamps_of
from data.deep_pixels import Ranges, black_and_white
from data.files import FileError
from data.image_file import TooManyPixelsError
from data.images import FileImages, Source
from data.label_tables import with_labels
from data.tree import (
    ONLY_CLASS,
    SUFFIXES,
    Left,
    Tree,
    class_of,
    described,
    entries,
    folders_in,
    is_image,
    walk,
)
from utils.errors import NAMES_SHOWN, UserError, named

log = logging.getLogger(__name__)

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "test", "testing")
HELD_OUT = 0.1
MOST_WRAPPERS = 5  # wrapping folders that are skipped


@dataclass(frozen=True)
class ImageFolder:
    """Reads images from the data folder itself.

    Attributes:
        notes: folder for the notes of checked images; None keeps no notes.
    """

    notes: Path | None = None

    def open(self, root: Path, split: str, size: int) -> Source:
        """List the readable images of a split.

        Raises:
            UserError: if there are none, or if one of their classes has no training images.
        """
        training, images = _split(root, split, self.notes)
        classes = training.classes
        unknown = set(images.classes).difference(classes)
        if unknown:
            raise UserError(
                f"{images.folder} has the class {min(unknown)}, which has no training images"
            )
        for name in classes:
            if name != name.encode(errors="replace").decode():
                raise UserError(
                    f"the class folder {name!a} in {training.folder} has a name that is "
                    "not UTF-8 here; rename it, or set LC_ALL=C.UTF-8"
                )
        labels = {name: label for label, name in enumerate(classes)}
        paths = [images.path(name) for name in images.names]
        numbers = np.array([labels[images.class_of(name)] for name in images.names], np.int64)
        pairs = zip(training.ranges, images.ranges, strict=True)
        items = FileImages(paths, numbers, Ranges(*(own or other for own, other in pairs)))
        files = [*paths, *([str(images.table)] if images.table else [])]
        return Source(items, images.folder, files, images.table or images.folder, classes)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Refuse: nobody but the user has these images."""
        raise FileNotFoundError("`data_dir` must be your folder of images")


def held_out(names: Collection[str], class_of: Callable[[str], str] = class_of) -> set[str]:
    """Choose the images to validate on: about a tenth, at least one, never all of a class.

    Raises:
        UserError: if every class has only one image.
    """
    positions = {name: _position(name) for name in names}
    classes: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=positions.__getitem__):
        classes[class_of(name)].append(name)
    spare = [name for members in classes.values() for name in members[:-1]]
    if not spare:
        raise UserError(
            "`data_dir` needs a class with two images, one to train on and one to validate on"
        )
    chosen = {name for name in spare if positions[name] < HELD_OUT}
    return chosen or {min(spare, key=positions.__getitem__)}


def _split(root: Path, split: str, notes: Path | None) -> tuple[Tree, Tree]:
    """Find the images to train on, and those of a split."""
    if not root.is_dir():
        raise UserError(f"`data_dir` {root} is not a folder; `dataset` folder reads images from it")
    found, validation = _find(_unwrapped(root), root)
    everything = _readable(found, notes)
    if validation:
        return everything, everything if split == "train" else _readable(validation, notes)
    reserved = held_out(everything.names, everything.class_of)
    kept = tuple(name for name in everything.names if name not in reserved)
    training = replace(everything, names=kept)
    chosen = replace(everything, names=tuple(sorted(reserved)))
    return training, training if split == "train" else chosen


def _find(home: Path, root: Path) -> tuple[Tree, Tree | None]:
    """Find the images to train on, and those to validate on if these have their own folder.

    Args:
        home: the folder of the images or of the splits.
        root: the highest folder that may hold a table of their classes.
    """
    folders = {name.lower(): name for name in folders_in(home)}
    train = next((home / folders[name] for name in TRAIN if name in folders), None)
    validation = [home / folders[name] for name in VALIDATION if name in folders]
    if train is None or not (validation or len(folders) == 1):
        return with_labels(walk(home), root), None  # "train" may be a class of vehicles
    training = with_labels(walk(train), root)
    # Kaggle's test images often have no classes.
    trees = [with_labels(walk(folder), root, named_in_full=True) for folder in validation]
    fitting = [tree for tree in trees if tree.names and _kind(tree) == _kind(training)]
    used = {train, *(tree.folder for tree in fitting[:1])}
    unused = [name for name in folders.values() if home / name not in used]
    if unused:
        log.info("%s: not used are the folders %s", home, named(unused))
    return training, fitting[0] if fitting else None


def _unwrapped(folder: Path) -> Path:
    """Skip folders that hold one folder of folders and nothing else."""
    for _ in range(MOST_WRAPPERS):
        inner = folders_in(folder)
        if len(inner) != 1 or inner[0].lower() in TRAIN or not folders_in(folder / inner[0]):
            break
        if any(is_image(entry.name) for entry in entries(folder)):
            break
        folder /= inner[0]
    return folder


def _kind(tree: Tree) -> tuple[bool, bool]:
    """Whether a table gives the classes of the images, and whether nothing gives them."""
    return bool(tree.labels), not tree.labels and tree.classes == (ONLY_CLASS,)


def _readable(tree: Tree, notes: Path | None) -> Tree:
    """Leave out images that cannot be read, and images beside class folders, with a warning.

    Raises:
        UserError: if no images are left.
    """
    stamps = stamps_of(tree.folder, tree.names).tobytes()
    left_out = tuple(tree.left_out.items())
    labels = tuple(map(tree.class_of, tree.names)) if tree.labels else ()
    names, ranges = _examine(tree.folder, tree.names, stamps, left_out, labels, notes)
    return replace(tree, names=names, ranges=ranges)


@lru_cache(maxsize=4)
def _examine(
    folder: Path,
    names: tuple[str, ...],
    stamps: bytes,
    left_out: tuple[tuple[tuple[str, str], int], ...],
    labels: tuple[str, ...],
    notes: Path | None,
) -> tuple[tuple[str, ...], Ranges]:
    """Do what `_readable` does, and log the classes.

    The result is cached, because both splits may come from the same images. The stamps are an
    argument so that a changed file is examined again.
    """
    # Choose the images.
    is_chosen = np.array(["/" in name for name in names], bool)
    is_chosen |= bool(labels) or not is_chosen.any()
    rest, loose = list(compress(names, is_chosen)), list(compress(names, ~is_chosen))
    errors, ranges = examined(folder, rest, np.frombuffer(stamps, STAMP)[is_chosen], notes)
    kept = tuple(name for name in rest if name not in errors)
    # Log what is left out.
    counts: Left = Counter(dict(left_out))
    large = [name for name, error in errors.items() if isinstance(error, TooManyPixelsError)]
    how = str(errors[large[0]]).rpartition(": ")[2] if large else ""
    unread = {name: e for name, e in errors.items() if not isinstance(e, TooManyPixelsError)}
    for reason, members, which in (
        ("in no class folder", loose, named(loose)),
        ("not readable", unread, _by_reason(folder, unread)),
        (f"with too many pixels (the first: {how})", large, named(large)),
    ):
        if members:
            counts[reason, ""] += len(members)
            log.warning("%s: left out, as %s: %s", folder, reason, which)
    if not kept:
        suffixes = " ".join(SUFFIXES)
        raise UserError(
            f"`data_dir` {folder} has no readable images ({suffixes}){described(counts)}"
        )
    if counts["other endings", ".heic"]:
        log.warning("%s: .heic images need pip install -r requirements-heif.txt", folder)
    classes = Tree(folder, kept, labels=dict(zip(names, labels, strict=False))).classes
    log.info("%s: %d classes, %s%s", folder, len(classes), named(classes), described(counts))
    for common in filter(None, ranges):
        black, white = black_and_white(common)
        samples = "floats" if common.is_float else "samples of more than 8 bits"
        log.info("%s: %s go from %g, black, to %g, white", folder, samples, black, white)
    return kept, ranges


def _by_reason(folder: Path, errors: Mapping[str, FileError]) -> str:
    """Write which images cannot be read, grouped by reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, error in errors.items():
        reason = str(error).removeprefix(f"cannot read the image {folder}/{name}: ")
        reasons[reason.partition(" (")[0]].append(name)  # in brackets are numbers of bytes
    most = sorted(reasons.items(), key=lambda item: -len(item[1]))
    more = f"; {len(most) - NAMES_SHOWN} more reasons" if len(most) > NAMES_SHOWN else ""
    return "; ".join(f"{named(names)} ({reason})" for reason, names in most[:NAMES_SHOWN]) + more


def _position(name: str) -> float:
    """Hash a name to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48
