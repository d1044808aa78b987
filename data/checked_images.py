"""Checks image files by decoding them, and notes the good ones, so that each is checked once.

The notes are a file of stamps. A stamp has 8 bytes, which depend on the path of a file, its size,
its time of change and the decoder. A damaged stamp matches no file, so its file is checked again. A
file that could not be read is checked again too, because the reason may lie outside it. Images of
more than 8 bits have their own notes, with their ranges.
"""

import hashlib
import os
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL

from data.deep_pixels import Range, Ranges, common_ranges
from data.image_file import MOST_PIXELS, problems
from utils.errors import FileError
from utils.links import open_own
from utils.progress import log_once, progress_bar

NOTES = "checked_images"
DEEP_NOTES = "checked_deep_images"
RULES = 2  # version of how data/image_file.py decodes: a new one makes all files checked again
SPAN = 1000  # files decoded between two writes of notes
STAMP = np.dtype("<u8")
DEEP = np.dtype([("stamp", STAMP), ("is_float", "<u8"), ("low", "<f8"), ("high", "<f8")])
"""The note of an image of more than 8 bits; a checksum of its range is mixed into the stamp."""


def stamps_of(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Compute the stamps of files, named relative to the folder: uint64 (N,)."""
    common = hashlib.blake2b(digest_size=STAMP.itemsize)
    rules = f"{RULES} {PIL.__version__} {MOST_PIXELS}"
    common.update(os.fsencode(f"{rules}\0{os.path.realpath(folder)}\0"))

    def stamp(name: str) -> int:
        digest = common.copy()
        digest.update(os.fsencode(name))  # names need not be UTF-8
        try:
            status = os.stat(f"{folder}/{name}")  # noqa: PTH116 (a million Paths are slow)
            digest.update(b"\0%d %d" % (status.st_size, status.st_mtime_ns))
        except OSError:
            pass  # a broken link, never noted
        return int.from_bytes(digest.digest(), "little")

    return np.fromiter(map(stamp, names), STAMP, len(names))


def examined(
    folder: Path, names: tuple[str, ...], notes: Path | None
) -> tuple[dict[str, FileError], Ranges]:
    """Decode the images without a note, and note the good ones.

    Args:
        folder: the folder of the files.
        names: their paths relative to it.
        notes: the folder of the notes; None reads and writes none.

    Returns:
        The errors of images that cannot be read, by name, and the ranges of the images of more than
        8 bits.

    Raises:
        FileError: if the permission to read a file is missing.
    """
    return _examined(folder, names, stamps_of(folder, names).tobytes(), notes)


@lru_cache(maxsize=4)
def _examined(
    folder: Path, names: tuple[str, ...], stamps_of_names: bytes, notes: Path | None
) -> tuple[dict[str, FileError], Ranges]:
    """Do what `examined` does, once: both splits may come from the same images."""
    stamps = np.frombuffer(stamps_of_names, STAMP)
    noted = _noted(notes, NOTES, STAMP)
    deep = _noted(notes, DEEP_NOTES, DEEP)
    deep_stamps = deep["stamp"] ^ _checksums(deep)
    deep, deep_stamps = (array[np.isin(deep_stamps, stamps)] for array in (deep, deep_stamps))
    (new,) = np.nonzero(~np.isin(stamps, np.concatenate([noted, deep_stamps])))
    ranges = [Range(bool(is_float), low, high) for _, is_float, low, high in deep.tolist()]
    errors: dict[str, FileError] = {}
    with progress_bar("checking", len(new), unit="image") as bar:
        for start in range(0, len(new), SPAN):
            span = new[start : start + SPAN]
            found = problems([f"{folder}/{names[index]}" for index in span])
            pairs = list(zip(span, found, strict=True))
            errors |= {names[i]: error for i, error in pairs if isinstance(error, FileError)}
            ranges += [one for one in found if isinstance(one, Range)]
            _note(notes, NOTES, stamps[[i for i, result in pairs if result is None]])
            rows = [(stamps[i], *one) for i, one in pairs if isinstance(one, Range)]
            notes_of_deep = np.array(rows, DEEP)
            notes_of_deep["stamp"] ^= _checksums(notes_of_deep)
            _note(notes, DEEP_NOTES, notes_of_deep)
            bar.update(len(span))
    return errors, common_ranges(ranges)


def _checksums(deep: np.ndarray) -> np.ndarray:
    """Compute checksums of the ranges in notes: uint64 (N,)."""
    sums = (zlib.crc32(row.tobytes()[STAMP.itemsize :]) for row in deep)
    return np.fromiter(sums, STAMP, len(deep))


def _noted(notes: Path | None, name: str, kind: np.dtype) -> np.ndarray:
    """Read all notes of a kind; none if their file is missing or unreadable."""
    try:
        if notes and (notes / name).is_file():  # a pipe would be waited for
            return np.fromfile(notes / name, kind)
    except OSError:
        pass
    return np.empty(0, kind)


def _note(notes: Path | None, name: str, rows: np.ndarray) -> None:
    """Add to the notes; images without a note are checked again at the next start."""
    if notes is None or not len(rows):
        return
    try:
        notes.mkdir(parents=True, exist_ok=True)
        with open_own(notes / name, "ab") as end:
            end.truncate(end.tell() // rows.itemsize * rows.itemsize)  # a note cut by a crash
            end.write(rows.tobytes())
    except OSError as error:
        reason = error.strerror or error
        log_once(f"cannot write {notes / name} ({reason}): the next start checks the images again")
