"""Keeps blocks of images or of their tokens on disk, so that interrupted work can continue.

A block depends only on its number and on the identity record of the work. Each finished block is a
file with a digest in a folder. After a stop, the next run makes the blocks that are missing or
damaged; several processes share them. When all blocks are complete, the results are written from
them: images in data/publish.py, a token cache in data/token_cache.py.
"""

import io
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError, one_line
from utils.files import atomic_write, make_folder, remove_leftovers
from utils.records import checksum, read_record, sealed_bytes, unsealed_bytes, write_record

log = logging.getLogger(__name__)

RECORD = "identity.json"


class BlockFolder:
    """A folder of numbered arrays."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Name the folder, which `missing` makes.

        Args:
            path: the folder.
            identity: everything that the blocks depend on, as plain data.
        """
        self.path = path
        self._identity, self._checksum = identity, checksum(identity)

    def missing(self, num_blocks: int, what: str) -> list[int]:
        """List the indices of the blocks that are still to be made; `what` names the work.

        Blocks that are damaged, and those of another identity, are removed.

        Raises:
            UserError: if the folder cannot be written.
        """
        try:
            is_ours = checksum(read_record(self.path / RECORD)) == self._checksum
        except UserError:  # damaged
            is_ours = False
        if not is_ours:
            shutil.rmtree(self.path, ignore_errors=True)
            make_folder(self.path)
            write_record(self.path / RECORD, self._identity)
        remove_leftovers(self.path)
        there = [index for index in range(num_blocks) if self._file(index).is_file()]
        damaged = [index for index in there if not self._is_intact(index)]
        if damaged:
            log.warning("damaged blocks, made again: %d of %d", len(damaged), len(there))
        missing = sorted({*range(num_blocks)} - {*there} | {*damaged})
        if len(missing) < num_blocks:
            log.info("%s continues, blocks left: %d of %d", what, len(missing), num_blocks)
        return missing

    def write(self, index: int, block: np.ndarray) -> None:
        """Write a block; UserError if that fails."""
        content = io.BytesIO()
        np.save(content, block, allow_pickle=False)
        with atomic_write(self._file(index)) as file:
            file.write(sealed_bytes(content.getvalue(), self._about(index)))

    def read(self, index: int) -> np.ndarray:
        """Read a block.

        Raises:
            UserError: if it is missing or damaged.
        """
        path = self._file(index)
        try:
            content = unsealed_bytes(path.read_bytes(), self._about(index))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is damaged ({one_line(error)}); the same command makes it again"
            ) from error
        return np.load(io.BytesIO(content), allow_pickle=False)

    def _is_intact(self, index: int) -> bool:
        """Whether the file of a block is unchanged since it was written."""
        try:
            self.read(index)
        except UserError:
            return False
        return True

    def _about(self, index: int) -> str:
        """Name the block and its work, for the digest."""
        return f"block {index} of {self._checksum}"

    def _file(self, index: int) -> Path:
        """Name the file of a block."""
        return self.path / f"block_{index:06d}.npy"
