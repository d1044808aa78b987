"""Lists the images in a folder and its sub-folders; all readers of image files use it."""

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from data.deep_pixels import NO_RANGES, Ranges
from utils.errors import FileError, named

READS_HEIF = find_spec("pillow_heif") is not None  # requirements-heif.txt

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tif", ".tiff", ".webp", *((".heic", ".heif") if READS_HEIF else ()),
)  # fmt: skip
"""Endings of the names of images, in upper or lower case."""

LITTER = {"__macosx", "@eadir", "lost+found", "thumbs.db", "desktop.ini", "$recycle.bin"}
"""Files that operating systems leave in folders, in lower case; hidden ones are litter too."""

ONLY_CLASS = "images"
"""Name of the class of images without sub-folders."""

Left = Counter[tuple[str, str]]
"""Number of files that are left out, by reason and detail."""


@dataclass(frozen=True)
class Tree:
    """The images below a folder.

    Attributes:
        names: paths of the images relative to it, with forward slashes, sorted.
        left_out: counts of the other files.
        ranges: ranges of samples of more than 8 bits, after the images have been read.
        labels: class of each image if a table gives the classes; empty if the folders do.
        table: the file of the labels.
    """

    folder: Path
    names: tuple[str, ...]
    left_out: Left = field(default_factory=Counter)
    ranges: Ranges = NO_RANGES
    labels: Mapping[str, str] = field(default_factory=dict)
    table: Path | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the images, in natural order."""
        return tuple(sorted({self.class_of(name) for name in self.names}, key=natural_key))

    def class_of(self, name: str) -> str:
        """Return the class of an image, from the table if there is one."""
        return self.labels[name] if self.labels else class_of(name)

    def path(self, name: str) -> str:
        """Return the path of an image."""
        return f"{self.folder}/{name}"


def walk(folder: Path) -> Tree:
    """List the images of a folder at any depth, each once.

    Links that lead out of the folder are followed. A link to a file or folder that the walk finds
    anyway counts as left out, in any order. So cycles end.

    Raises:
        FileError: if a folder cannot be read.
    """
    return _Walk(folder).run()


class _Walk:
    """A walk. It remembers the places that it has seen, and follows links after everything else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []
        self._folder_links: list[str] = []
        self._file_links: list[str] = []
        self._seen: set[str] = set()  # real paths of folders, and of files that links lead to
        self._left_out: Left = Counter()

    def run(self) -> Tree:
        waiting = [str(self._folder)]
        while waiting or self._folder_links:
            place = waiting.pop() if waiting else self._folder_links.pop(0)
            if self._is_new(place):
                for entry in list_folder(place):
                    if self._take(entry):
                        waiting.append(entry.path)
        self._names += [link for link in self._file_links if self._is_new(link)]
        start = len(str(self._folder).rstrip("/")) + 1
        names = tuple(sorted(name[start:] for name in self._names))
        return Tree(self._folder, names, self._left_out)

    def _take(self, entry: os.DirEntry) -> bool:
        """Note an entry; return whether it is a folder to enter at once."""
        link = entry.is_symlink()
        is_folder = os.path.isdir(entry.path) if link else entry.is_dir()  # noqa: PTH112
        if is_litter(entry.name):
            self._left_out["hidden or litter", ""] += 1
        elif is_folder and link:
            self._folder_links.append(entry.path)
        elif is_folder:
            return True
        elif not is_image(entry.name):
            self._left_out["other endings", Path(entry.name).suffix.lower() or "none"] += 1
        elif link:
            self._file_links.append(entry.path)
        elif not entry.is_file():
            self._left_out["not files", ""] += 1
        else:
            self._names.append(entry.path)
        return False

    def _is_new(self, place: str) -> bool:
        """Whether a folder, or the target of a link, is seen for the first time."""
        target = os.path.realpath(place)
        folder, name = os.path.split(target)
        # The walk has already taken the images of a folder that it has seen.
        is_taken = is_image(name) and folder in self._seen and Path(target).is_file()
        if target in self._seen or is_taken:
            self._left_out["linked twice", ""] += 1
            return False
        self._seen.add(target)
        return True


def list_folder(folder: str | Path) -> list[os.DirEntry]:
    """List a folder, sorted by name.

    Raises:
        FileNotFoundError: if it does not exist.
        FileError: if it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"cannot read the folder {folder}: {error.strerror}") from error


def folders_in(folder: Path) -> list[str]:
    """List the names of the sub-folders that may hold data, sorted."""
    return [
        entry.name
        for entry in list_folder(folder)
        if not is_litter(entry.name) and Path(entry.path).is_dir()
    ]


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name never counts as data."""
    return name.startswith(".") or name.lower() in LITTER


def is_image(name: str) -> bool:
    """Whether a file with this name should be an image."""
    return name.lower().endswith(SUFFIXES) and not is_litter(name)


def class_of(name: str) -> str:
    """Return the class of an image: the first folder of its name."""
    return name.split("/")[0] if "/" in name else ONLY_CLASS


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts the numbers in names by their value: 2 comes before 10."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = map(int, re.findall(r"[0-9]+", name))
    return parts, name


def described(left_out: Left) -> str:
    """Write how many files are left out, by reason; empty if there are none."""
    reasons: dict[str, Counter[str]] = {}
    for (reason, detail), count in sorted(left_out.items()):
        if count:
            reasons.setdefault(reason, Counter())[detail] += count
    parts = []
    for reason, counts in sorted(reasons.items(), key=lambda item: -sum(item[1].values())):
        details = named(f"{detail} {count}" for detail, count in counts.most_common() if detail)
        parts.append(f"{sum(counts.values())} {reason}" + (f" ({details})" if details else ""))
    return "; left out: " + ", ".join(parts) if parts else ""
