"""An unfinished token cache: arrays that are filled from the start, and a record of the progress.

The progress record has a digest of every span of images as they were encoded. So later changes on
the disk are found when encoding continues, and once more before the cache is finished.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.errors import UserError
from utils.files import file_digest, reserve_space
from utils.links import follow, open_own
from utils.plain import from_plain, to_plain
from utils.records import read_record, write_record

log = logging.getLogger(__name__)

TOKENS, LABELS, RECORD = "tokens.npy", "labels.npy", "progress.json"


@dataclass(frozen=True)
class _Progress:
    """The spans of images on the disk: the first starts at image 0, the others where one ends.

    Attributes:
        ends: for each span, the number of the image after its last one.
    """

    ends: tuple[int, ...] = ()
    digests: tuple[str, ...] = ()


class PartialCache:
    """The files of an unfinished cache."""

    def __init__(
        self,
        folder: Path,
        tokens: tuple[int, int, int],
        dtype: np.dtype,
        label_shape: tuple[int, ...],
    ) -> None:
        """Open the files of an earlier start up to the first change in them, or make them.

        Args:
            folder: folder of the files; it must exist.
            tokens: number of views, of images, and of tokens per image.
            dtype: type of the tokens.
            label_shape: shape of the label of an image.

        Raises:
            OSError: if a file cannot be made, or the disk has too little space for it.
        """
        self._record, self._folder = folder / RECORD, folder
        _, count, _ = tokens
        label_type = np.uint8 if label_shape else np.int64
        self._progress = _read_progress(self._record, count)
        try:
            self._tokens = _open(folder / TOKENS, dtype, tokens)
            self._labels = _open(folder / LABELS, label_type, (count, *label_shape))
        except Exception:  # numpy parses the header as Python: damage raises anything
            self._progress = _Progress()
            self._tokens = _make(folder / TOKENS, dtype, tokens)
            self._labels = _make(folder / LABELS, label_type, (count, *label_shape))
        for name in (TOKENS, LABELS):
            reserve_space(folder / name)
        before, self._progress = self.done, self._intact()
        if self.done < before:
            log.warning(
                "%s has changed since it was written: encoding starts again at image %d",
                folder,
                self.done,
            )
        self._end, self._digest = self.done, _SpanDigest(len(self._tokens))

    @property
    def done(self) -> int:
        """Number of images on the disk."""
        return self._progress.ends[-1] if self._progress.ends else 0

    def add(self, tokens: Sequence[Tensor], labels: Tensor) -> None:
        """Write the next images.

        Args:
            tokens: int64 (B, L) for each view.
            labels: (B, ...).
        """
        rows = [view.numpy().astype(self._tokens.dtype) for view in tokens]
        label_rows = labels.numpy().astype(self._labels.dtype)
        # The digest is of the encoded data, not of what the files hold later.
        self._digest.add(rows, label_rows)
        start, self._end = self._end, self._end + len(label_rows)
        for view, view_rows in enumerate(rows):
            self._tokens[view, start : self._end] = view_rows
        self._labels[start : self._end] = label_rows

    def flush(self) -> None:
        """Write the images to the disk, then the record that counts them.

        Raises:
            OSError or UserError: if that fails.
        """
        if self._end == self.done:
            return
        for array in (self._tokens, self._labels):
            array.flush()
        self._progress = _Progress(
            (*self._progress.ends, self._end), (*self._progress.digests, self._digest.text())
        )
        write_record(self._record, to_plain(self._progress))
        self._digest = _SpanDigest(len(self._tokens))

    def digests(self) -> dict[str, str]:
        """Compute the SHA-256 of each file, once all images are on the disk.

        Raises:
            UserError: if a file does not hold the encoded data.
        """
        found = {name: file_digest(self._folder / name) for name in (TOKENS, LABELS)}
        # Checked after the digests are computed: they reveal later changes.
        intact = self._intact()
        if intact != self._progress:
            raise UserError(
                f"{self._folder} has changed while it was written: give the same command again, "
                "which makes the changed part again"
            )
        return found

    def _intact(self) -> _Progress:
        """Return the spans up to the first one whose digest differs."""
        progress = self._progress
        good = 0
        for start, end, digest in _spans(progress):
            found = _SpanDigest(len(self._tokens))
            found.add(self._tokens[:, start:end], self._labels[start:end])
            if found.text() != digest:
                break
            good += 1
        return _Progress(progress.ends[:good], progress.digests[:good])


class _SpanDigest:
    """The digest of the images of a span; it does not depend on the batches."""

    def __init__(self, views: int) -> None:
        self._parts = [hashlib.sha256() for _ in range(views + 1)]

    def add(self, tokens: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray) -> None:
        """Add images: their tokens (B, L) for each view, and their labels."""
        for part, rows in zip(self._parts, [*tokens, labels], strict=True):
            part.update(np.ascontiguousarray(rows).data)

    def text(self) -> str:
        """Return the digest, in hexadecimal digits."""
        return hashlib.sha256(b"".join(part.digest() for part in self._parts)).hexdigest()[:32]


def _spans(progress: _Progress) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and digest of each span."""
    starts = (0, *progress.ends)
    return zip(starts, progress.ends, progress.digests, strict=False)


def _read_progress(path: Path, count: int) -> _Progress:
    """Read the record of a cache of `count` images; an empty record if it is missing or wrong."""
    try:
        progress = from_plain(_Progress, read_record(path))
    except (UserError, ValueError):
        return _Progress()
    are_numbered = len(progress.ends) == len(progress.digests)
    is_rising = all(start < end <= count for start, end, _ in _spans(progress))
    return progress if are_numbered and is_rising else _Progress()


def _make(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """Make a file for an array of zeros; it replaces an existing one."""
    path = follow(path)
    path.unlink(missing_ok=True)
    with open_own(path, "x+b") as file:
        descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        return np.memmap(file, dtype, "r+", file.tell(), shape)


def _open(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """Open an array made by `_make`, to change it.

    Raises:
        Exception: any kind, if it is missing, damaged, or of another type or shape.
    """
    with open_own(path, "r+b") as file:
        np.lib.format.read_magic(file)
        found = np.lib.format.read_array_header_1_0(file)
        if found != (shape, False, np.dtype(dtype)):
            raise ValueError(f"{path} is {found}")
        return np.memmap(file, dtype, "r+", file.tell(), shape)
