"""Keeps blocks of generated images on disk, so that an interrupted sampling can continue.

Images are made in blocks. A block depends only on its index and on the identity record of the
sampling. Each finished block is a file in a partial folder, with a digest. After a stop, the next
run makes the blocks that are missing or damaged; several processes share them. When all blocks are
complete, the PNGs and the .npz are written from them and replace earlier ones.
"""

import io
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from data.generated import write_npz, write_pngs
from data.publish import BESIDE, claim, publish
from utils.errors import UserError, one_line
from utils.files import atomic_write, make_folder, remove_leftovers
from utils.pictures import Texts, save_grid
from utils.plain import NOTHING
from utils.progress import progress_bar
from utils.records import checksum, read_record, sealed_bytes, unsealed_bytes, write_record

log = logging.getLogger(__name__)

RECORD = "identity.json"
FILM = ("steps.png", "steps.gif")


class BlockFolder:
    """The folder of the blocks of a sampling."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Name the folder of the blocks, which `missing` makes.

        Args:
            folder: folder for the samples.
            identity: everything that the images depend on, as plain data.
        """
        self.folder, self.path = folder, folder / BESIDE
        self._identity, self._checksum = identity, checksum(identity)

    def claimed(self) -> AbstractContextManager[None]:
        """Keep other jobs out of the folder in a block; errors as in `data.publish.claim`."""
        return claim(self.folder, "sampling")

    def missing(self, num_blocks: int) -> list[int]:
        """List the indices of the blocks that are still to be made.

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
            log.warning("%d of %d blocks are damaged: made again", len(damaged), len(there))
        return sorted({*range(num_blocks)} - {*there} | {*damaged})

    def write(self, indices: Sequence[int], blocks: Iterable[np.ndarray]) -> None:
        """Write blocks to files as they come.

        Args:
            indices: indices of the blocks.
            blocks: uint8 (B, H, W, C) each, one per index.

        Raises:
            UserError: if a file cannot be written.
        """
        with progress_bar("sampling", len(indices), unit="block") as bar:
            for index, images in zip(indices, blocks, strict=True):
                content = io.BytesIO()
                np.save(content, images, allow_pickle=False)
                with atomic_write(self._file(index)) as file:
                    file.write(sealed_bytes(content.getvalue(), self._about(index)))
                bar.update(1)

    def read(self, index: int) -> np.ndarray:
        """Read the images of a block.

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
        """Name the block and its sampling, for the digest."""
        return f"block {index} of {self._checksum}"

    def _file(self, index: int) -> Path:
        """Name the file of a block."""
        return self.path / f"block_{index:06d}.npy"


def publish_blocks(
    blocks: BlockFolder,
    labels: Sequence[int],
    block_size: int,
    columns: int,
    first_image: int = 0,
    texts: Texts = NOTHING,
) -> None:
    """Write `images/`, `samples.npz` and `grid.png` from finished blocks; earlier ones are removed.

    Args:
        blocks: the blocks; they are removed at the end.
        labels: labels of the images, in their order.
        block_size: images per block; the last block may have fewer.
        columns: images per row of `grid.png`.
        first_image: number of the first image; the files are named by number.
        texts: what every PNG says about itself.

    Raises:
        UserError: if a file cannot be written, or a block is damaged. Earlier files and the blocks
            then stay.
    """
    made = blocks.path
    shutil.rmtree(made / "images", ignore_errors=True)
    numbers = range(first_image, first_image + len(labels))
    passed = write_pngs(made / "images", _labeled(blocks, labels, block_size), numbers, texts)
    first = write_npz(made / "samples.npz", passed, len(labels), "writing")
    save_grid(made / "grid.png", first, columns, texts)
    publish(blocks.folder, ("samples.npz", "grid.png", *FILM))


def _labeled(
    blocks: BlockFolder, labels: Sequence[int], block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the images of each block and their labels, in order."""
    for index, start in enumerate(range(0, len(labels), block_size)):
        yield blocks.read(index), np.asarray(labels[start : start + block_size], np.int64)
