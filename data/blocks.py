"""Keeps blocks of images or of their tokens on disk, so that interrupted work can continue.

A block depends only on its number and on the identity of the work. Each finished block is a file
with checksums in a folder. After a stop, the next run makes the blocks that are missing or damaged;
several processes share them. When all blocks are complete, the results are written from them:
images in data/publish.py, a token cache in data/token_cache.py.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import make_folder, remove_leftovers
from utils.records import checksum

log = logging.getLogger(__name__)


class BlockFolder:
    """A folder of numbered arrays."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Name the folder, which `missing` makes.

        Args:
            path: the folder.
            identity: everything that the blocks depend on, as plain data.
        """
        self.path, self._checksum = path, checksum(identity)

    def missing(self, num_blocks: int, what: str) -> list[int]:
        """List the indices of the blocks that are still to be made; `what` names the work.

        Blocks of another identity are removed, with everything else that was made of them, also if
        a kill in the middle of that has left no block.

        Raises:
            UserError: if the folder cannot be written.
        """
        files = [self._file(index) for index in range(num_blocks)]
        there = set(self.path.glob("block_*"))
        if not there or not there.issubset(files):
            if there:
                log.info("blocks of other settings are deleted: %d", len(there))
            shutil.rmtree(self.path, ignore_errors=True)
        remove_leftovers(make_folder(self.path))
        missing = [index for index in range(num_blocks) if not self._is_intact(index)]
        damaged = [index for index in missing if files[index].exists()]
        if damaged:
            log.warning("damaged blocks, made again: %d of %d", len(damaged), len(there))
        if len(missing) < num_blocks:
            log.info("%s continues, blocks left: %d of %d", what, len(missing), num_blocks)
        return missing

    def write(self, index: int, block: np.ndarray) -> None:
        """Write a block; UserError if that fails."""
        save_checkpoint(self._file(index), self._kind(index), {"block": torch.from_numpy(block)})

    def read(self, index: int) -> np.ndarray:
        """Read a block.

        Raises:
            UserError: if it is missing or damaged.
        """
        try:
            block = load_checkpoint(self._file(index), self._kind(index))["block"]
        except UserError as error:
            raise UserError(f"{error}; the same command makes it again") from error
        found: np.ndarray = block.numpy()
        return found

    def _is_intact(self, index: int) -> bool:
        """Whether a block is there, and unchanged since it was written."""
        try:
            self.read(index)
        except UserError:
            return False
        return True

    def _kind(self, index: int) -> str:
        """Name a block and its work."""
        return f"block {index} of {self._checksum}"

    def _file(self, index: int) -> Path:
        """Name the file of a block."""
        return self.path / f"block_{index:06d}_{self._checksum}.pt"
