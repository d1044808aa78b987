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
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.checked_images import examined
from data.deep_pixels import Ranges, black_and_white
from data.image_file import TooManyPixelsError
from data.images import FileImages, Source
from data.label_tables import with_labels
from data.tree import (
    ONLY_CLASS,
    SUFFIXES,
    Tree,
    class_of,
    described,
    folders_in,
    is_image,
    is_litter,
    list_folder,
    walk,
)
from utils.errors import NAMES_SHOWN, FileError, UserError, counted, in_one_line, named
from utils.progress import log_once

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


def is_among(place: Path, root: Path) -> bool:
    """Whether images in a place, which need not exist yet, may count as images of a data folder.

    Beside folders for training and for validation they do not.
    """
    root = Path(os.path.realpath(root))
    if not root.is_dir():
        return False
    folders = {name.lower() for name in folders_in(root)}
    has_splits = not (folders.isdisjoint(TRAIN) or folders.isdisjoint(VALIDATION))
    # A link among the images is followed to where it leads.
    for path in (Path(os.path.realpath(place.parent), place.name), Path(os.path.realpath(place))):
        if path.is_relative_to(root):
            parts = path.relative_to(root).parts
            beside = has_splits and (not parts or parts[0].lower() not in (*TRAIN, *VALIDATION))
            if not beside and not any(map(is_litter, parts)):
                return True
    return False


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
        way_out = "; unpack it first" if root.is_file() else ""
        raise UserError(f"`data_dir` {root} is not a folder of images{way_out}")
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
    unused = [name for name in folders_in(home) if home / name not in used]
    if unused:
        log_once(f"{home}: not used are the folders {named(unused)}")
    return training, fitting[0] if fitting else None


def _unwrapped(folder: Path) -> Path:
    """Skip folders that hold one folder of folders and nothing else."""
    for _ in range(MOST_WRAPPERS):
        inner = folders_in(folder)
        if len(inner) != 1 or inner[0].lower() in TRAIN or not folders_in(folder / inner[0]):
            break
        if any(is_image(entry.name) for entry in list_folder(folder)):
            break
        folder /= inner[0]
    return folder


def _kind(tree: Tree) -> tuple[bool, bool]:
    """Whether a table gives the classes of the images, and whether nothing gives them."""
    return bool(tree.labels), not tree.labels and tree.classes == (ONLY_CLASS,)


def _readable(tree: Tree, notes: Path | None) -> Tree:
    """Leave out images that cannot be read, and images beside class folders; log what is left.

    Raises:
        UserError: if no images are left.
    """
    # Choose the images.
    folder, in_folders = tree.folder, tuple(name for name in tree.names if "/" in name)
    takes_all = bool(tree.labels) or not in_folders
    loose = [] if takes_all else [name for name in tree.names if "/" not in name]
    chosen = tree.names if takes_all else in_folders
    errors, ranges = examined(folder, chosen, notes)
    kept = tuple(name for name in chosen if name not in errors)
    # Log what is left out.
    counts = tree.left_out.copy()
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
            log_once(f"{folder}: left out, as {reason}: {which}", logging.WARNING)
    if not kept:
        suffixes = " ".join(SUFFIXES)
        raise UserError(
            f"`data_dir` {folder} has no readable images ({suffixes}){described(counts)}"
        )
    if counts["other endings", ".heic"]:
        reason = ".heic images need pip install -r requirements-heif.txt"
        log_once(f"{folder}: {reason}", logging.WARNING)
    found = replace(tree, names=kept, ranges=ranges)
    classes = found.classes
    log_once(f"{folder}: {counted(len(classes), 'class')}, {named(classes)}{described(counts)}")
    for common in filter(None, ranges):
        black, white = black_and_white(common)
        samples = "floats" if common.is_float else "samples of more than 8 bits"
        log_once(f"{folder}: {samples} go from {black:g}, black, to {white:g}, white")
    return found


def _by_reason(folder: Path, errors: Mapping[str, FileError]) -> str:
    """Write which images cannot be read, grouped by reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, error in errors.items():
        start = in_one_line(f"cannot read the image {folder}/{name}: ")
        reason = str(error).removeprefix(start)
        reasons[reason.partition(" (")[0]].append(name)  # in brackets are numbers of bytes
    most = sorted(reasons.items(), key=lambda item: -len(item[1]))
    others = len(most) - NAMES_SHOWN
    more = f"; {counted(others, 'other reason')}" if others > 0 else ""
    return "; ".join(f"{named(names)} ({reason})" for reason, names in most[:NAMES_SHOWN]) + more


def _position(name: str) -> float:
    """Hash a name to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48
