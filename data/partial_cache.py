"""An unfinished token cache: arrays that are filled from the start, and a record of the progress.

The progress record has a digest of every span of images as they were encoded. So later changes on
the disk are found when encoding continues, and once more before the cache is finished.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.errors import UserError
from utils.files import file_digest, reserve_space
from utils.links import follow, open_own
from utils.records import read_record, write_record

log = logging.getLogger(__name__)

TOKENS, LABELS, RECORD = "tokens.npy", "labels.npy", "progress.json"
Span = tuple[int, str]
"""Images on the disk: the number after the last one, and their digest.

The first span starts at image 0, the others where the one before ends.
"""


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
        spans = _read_spans(self._record)
        try:
            self._tokens = _open(folder / TOKENS, dtype, tokens)
            self._labels = _open(folder / LABELS, label_type, (count, *label_shape))
        except Exception:  # numpy parses the header as Python: damage raises anything
            spans = []
            self._tokens = _make(folder / TOKENS, dtype, tokens)
            self._labels = _make(folder / LABELS, label_type, (count, *label_shape))
        for name in (TOKENS, LABELS):
            reserve_space(folder / name)
        self._spans = self._intact(spans)
        if self._spans != spans:
            log.warning(
                "%s has changed since it was written: encoding starts again at image %d",
                folder,
                self.done,
            )
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def done(self) -> int:
        """Number of images on the disk."""
        return self._spans[-1][0] if self._spans else 0

    def add(self, tokens: Sequence[Tensor], labels: Tensor) -> None:
        """Take the next images, which `flush` writes.

        Args:
            tokens: int64 (B, L) for each view.
            labels: (B, ...).
        """
        rows = np.stack([view.numpy().astype(self._tokens.dtype) for view in tokens])
        self._waiting.append((rows, labels.numpy().astype(self._labels.dtype)))

    def flush(self) -> None:
        """Write the images to the disk, then the record that counts them.

        Raises:
            OSError or UserError: if that fails.
        """
        if not self._waiting:
            return
        all_tokens, all_labels = zip(*self._waiting, strict=True)
        tokens, labels = np.concatenate(all_tokens, 1), np.concatenate(all_labels)
        start, end = self.done, self.done + len(labels)
        self._tokens[:, start:end], self._labels[start:end] = tokens, labels
        for array in (self._tokens, self._labels):
            array.flush()
        # The digest is of the encoded data, not of what the files hold later.
        self._spans = [*self._spans, (end, _digest(tokens, labels))]
        ends, digests = zip(*self._spans, strict=True)
        write_record(self._record, {"ends": ends, "digests": digests})
        self._waiting = []

    def digests(self) -> dict[str, str]:
        """Compute the SHA-256 of each file, once all images are on the disk.

        Raises:
            UserError: if a file does not hold the encoded data.
        """
        found = {name: file_digest(self._folder / name) for name in (TOKENS, LABELS)}
        # Checked after the digests are computed: they reveal later changes.
        if self._intact(self._spans) != self._spans:
            raise UserError(
                f"{self._folder} has changed while it was written: give the same command again, "
                "which makes the changed part again"
            )
        return found

    def _intact(self, spans: Sequence[Span]) -> list[Span]:
        """Return the spans up to the first one that is wrong, or whose digest differs."""
        start = 0
        for number, (end, digest) in enumerate(spans):
            is_span = type(end) is int and start < end <= len(self._labels)
            part = slice(start, end)
            if not is_span or _digest(self._tokens[:, part], self._labels[part]) != digest:
                return [*spans[:number]]
            start = end
        return [*spans]


def _digest(tokens: np.ndarray, labels: np.ndarray) -> str:
    """Compute the digest of images: tokens (views, B, L), and labels (B, ...)."""
    parts = (hashlib.sha256(np.ascontiguousarray(part).data).digest() for part in (*tokens, labels))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def _read_spans(path: Path) -> list[Span]:
    """Read the spans of a progress record; none if it is missing or damaged."""
    try:
        record = read_record(path)
        return [*zip(record.get("ends", ()), record.get("digests", ()), strict=True)]
    except (UserError, TypeError, ValueError):
        return []


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
