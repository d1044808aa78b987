"""Checks image files by decoding them, and notes which are good, so that each is checked once.

The notes are a file of stamps: 8 bytes that depend on the path of a file, its size, its time of
change and what decodes it. A damaged stamp is that of no file, so its file is checked again. So is
a file that could not be read: the reason may lie outside it.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import PIL

from data.files import FileError
from data.image_file import most_pixels, problems
from utils.progress import progress_bar

log = logging.getLogger(__name__)

NOTES = "checked_images"
RULES = 1  # a number for how data/image_file.py decodes: with another one all is checked again
SPAN = 1000  # files that are decoded between two notes
STAMP = np.dtype("<u8")


def stamps_of(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Compute the stamps of files: uint64 (N,).

    Args:
        folder: the folder of the files.
        names: their paths relative to it.
    """
    common = hashlib.blake2b(digest_size=STAMP.itemsize)
    rules = f"{RULES} {PIL.__version__} {most_pixels()}"
    common.update(os.fsencode(f"{rules}\0{os.path.realpath(folder)}\0"))

    def stamp(name: str) -> int:
        digest = common.copy()
        digest.update(os.fsencode(name))  # names need not be UTF-8
        try:
            status = os.stat(f"{folder}/{name}")  # noqa: PTH116 (a million Paths are slow)
            digest.update(b"\0%d %d" % (status.st_size, status.st_mtime_ns))
        except OSError:
            pass  # a broken link, which is never noted
        return int.from_bytes(digest.digest(), "little")

    return np.fromiter(map(stamp, names), STAMP, len(names))


def unreadable(
    folder: Path, names: Sequence[str], stamps: np.ndarray, notes: Path | None
) -> dict[str, FileError]:
    """Decode the images that are not noted as good, and note those that are.

    Args:
        folder: the folder of the files.
        names: their paths relative to it.
        stamps: of the files, as `stamps_of` returns them.
        notes: the folder of the notes; None reads and writes none.

    Returns:
        What is wrong with the others, by name.

    Raises:
        FileError: if a file may not be read.
    """
    file = notes and notes / NOTES
    (new,) = np.nonzero(~np.isin(stamps, _noted(file))) if file else (np.arange(len(names)),)
    errors: dict[str, FileError] = {}
    with progress_bar("checking", len(new), unit="image") as bar:
        for start in range(0, len(new), SPAN):
            span = new[start : start + SPAN]
            found = problems([f"{folder}/{names[index]}" for index in span])
            errors |= {names[i]: error for i, error in zip(span, found, strict=True) if error}
            if file:
                _note(file, stamps[[i for i, error in zip(span, found, strict=True) if not error]])
            bar.update(len(span))
    return errors


def _noted(file: Path) -> np.ndarray:
    """Read all stamps; none where there is no file that can be read."""
    try:
        return np.fromfile(file, STAMP)
    except OSError:
        return np.empty(0, STAMP)


def _note(file: Path, stamps: np.ndarray) -> None:
    """Add stamps to the notes; what is not written is checked again at the next start."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as end:
            end.truncate(end.tell() // STAMP.itemsize * STAMP.itemsize)  # a stamp cut by a crash
            end.write(stamps.tobytes())
    except OSError as error:
        _say_unwritten(file, error.strerror or str(error))


@cache
def _say_unwritten(file: Path, reason: str) -> None:
    """Say, once, that the images will be checked again."""
    log.info("cannot write %s (%s): the next start checks the images again", file, reason)
