"""Keeps blocks of generated images on disk, so that an interrupted sampling can continue.

Images are made in blocks. A block depends only on its index and on the identity record of the
sampling. Each finished block is a file in a partial folder. After a stop, the next run makes the
blocks that are missing; several processes share them. When all blocks are there, the PNGs and the
.npz are written from them and replace those of an earlier sampling.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data.generated import Blocks, write_npz, write_pngs
from utils.errors import UserError
from utils.files import (
    atomic_write,
    exclusive_lock,
    make_folder,
    remove_leftovers,
    write_json_atomic,
)
from utils.pictures import save_grid
from utils.progress import progress_bar

RECORD = "identity.json"


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Make the folder of the samples, and keep other jobs out of it in the block.

    Raises:
        UserError: if another job samples into it, or it cannot be written.
    """
    make_folder(folder)
    with exclusive_lock(folder / ".lock", f"another job is sampling into {folder}"):
        yield


def open_blocks(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the partial folder, or keep it if its blocks have the same identity.

    Args:
        folder: of the blocks; blocks of another identity are removed.
        identity: everything that the images depend on, as plain data.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        stored = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        stored = None  # no record, or a damaged one
    if stored != json.loads(json.dumps(identity)):
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        write_json_atomic(folder / RECORD, identity)
    remove_leftovers(folder)


def missing_blocks(folder: Path, num_blocks: int) -> list[int]:
    """List the indices of the blocks that are not there yet."""
    return [index for index in range(num_blocks) if not _block(folder, index).is_file()]


def write_blocks(folder: Path, indices: Sequence[int], blocks: Iterable[np.ndarray]) -> None:
    """Write blocks to files as they come.

    Args:
        folder: made by `open_blocks`.
        indices: of the blocks.
        blocks: uint8 (B, H, W, C) each, one per index.

    Raises:
        UserError: if a file cannot be written.
    """
    with progress_bar("sampling", len(indices), unit="block") as bar:
        for index, images in zip(indices, blocks, strict=True):
            with atomic_write(_block(folder, index)) as file:
                np.save(file, images, allow_pickle=False)
            bar.update(1)


def publish_blocks(
    partial: Path,
    folder: Path,
    labels: Sequence[int],
    block_size: int,
    columns: int,
    first_image: int = 0,
) -> None:
    """Write `images/`, `samples.npz` and `grid.png` from finished blocks; earlier ones go.

    Args:
        partial: the folder of the blocks; it is removed at the end.
        folder: where `images/` and the two files go.
        labels: of the images, in their order.
        block_size: number of images in a block; the last one may have fewer.
        columns: of `grid.png`.
        first_image: number of the first image, which names its file.

    Raises:
        UserError: if a file cannot be written or a block is damaged; earlier files and the blocks
            are then still there.
    """
    try:
        # Write everything into the partial folder first.
        new = partial / "images"
        shutil.rmtree(new, ignore_errors=True)
        blocks = _read_blocks(partial, labels, block_size)
        passed = write_pngs(new, blocks, first_image)
        first = write_npz(partial / "samples.npz", passed, len(labels), "writing")
        save_grid(partial / "grid.png", first, columns=columns)
        # Then replace the earlier files.
        for name in ("samples.npz", "grid.png"):
            (partial / name).replace(folder / name)
        # A folder cannot be renamed onto one with files, so the earlier folder moves away first.
        aside = partial / "replaced"
        shutil.rmtree(aside, ignore_errors=True)
        if (folder / "images").exists():
            (folder / "images").rename(aside)
        new.rename(folder / "images")
        shutil.rmtree(partial)
    except OSError as error:
        raise UserError(
            f"cannot write the samples in {folder}: {error.strerror or error}; the same command "
            "goes on from here"
        ) from error


def _read_blocks(folder: Path, labels: Sequence[int], block_size: int) -> Blocks:
    """Yield the images of each block and their labels, in order."""
    for index, start in enumerate(range(0, len(labels), block_size)):
        part = np.asarray(labels[start : start + block_size])
        path = _block(folder, index)
        try:
            images = np.load(path, allow_pickle=False)
            if len(images) != len(part):
                raise ValueError(f"{len(images)} images instead of {len(part)}")
        except Exception as error:  # numpy parses the header as Python: damage raises anything
            raise UserError(
                f"{path} is damaged ({error}); delete it and the same command makes it anew"
            ) from error
        yield images, part


def _block(folder: Path, index: int) -> Path:
    """Name the file of a block."""
    return folder / f"block_{index:06d}.npy"
