"""Publishes the images of a mode: they replace earlier ones when all of them are finished.

Everything is made in the folder BESIDE. A kill at any moment leaves the earlier results, the new
ones, or both.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.blocks import BlockFolder
from data.generated import write_npz, write_pngs
from utils.errors import failures_of
from utils.files import exclusive_lock, make_folder, remove_leftovers, replace_file
from utils.pictures import Texts, save_grid
from utils.plain import NOTHING
from utils.progress import progress_bar

BESIDE = "partial"
FILM = ("steps.png", "steps.gif")
BUSY = "wait for it, or choose another `run_name` or `output_dir`"
REPLACED = "replaced"  # holds an earlier folder until the new one is in its place


@contextmanager
def claim(folder: Path, doing: str) -> Iterator[None]:
    """Make a folder for results, and keep other jobs out of it in the block.

    Args:
        folder: folder for the results.
        doing: what this job does, for the message to another job.

    Raises:
        UserError: if another job works in the folder, or it cannot be written.
    """
    make_folder(folder)
    with exclusive_lock(folder / ".lock", f"another job is {doing} into {folder}: {BUSY}"):
        remove_leftovers(folder)
        # After a kill between two renames.
        aside = folder / BESIDE / REPLACED
        if aside.is_dir() and not (folder / "images").exists():
            aside.rename(folder / "images")
        yield


def new_folder(folder: Path) -> Path:
    """Make an empty BESIDE in a claimed folder; leftovers of an earlier job are deleted."""
    shutil.rmtree(folder / BESIDE, ignore_errors=True)
    return make_folder(folder / BESIDE)


def publish(folder: Path, names: tuple[str, ...]) -> None:
    """Move results from BESIDE to their place; delete earlier ones even without a new one.

    Args:
        folder: a claimed folder; its BESIDE is removed at the end.
        names: names of the files. The folder of images, "images", is always there and moves last.

    Raises:
        UserError: if a file cannot be moved.
    """
    made = folder / BESIDE
    with failures_of(f"cannot write into {folder}"):
        for name in names:
            if (made / name).exists():
                replace_file(made / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        # A folder cannot be renamed onto one with files, so the earlier folder moves away first.
        shutil.rmtree(made / REPLACED, ignore_errors=True)
        if (folder / "images").exists():
            (folder / "images").rename(made / REPLACED)
        (made / "images").rename(folder / "images")
        os.sync()
        shutil.rmtree(made)


def bar_of_blocks(indices: Sequence[int], block_size: int, count: int) -> tqdm:
    """Make the progress bar for some blocks of a sampling of `count` images."""
    sizes = (min(block_size, count - index * block_size) for index in indices)
    return progress_bar("sampling", sum(sizes), unit="image")


def write_blocks(
    blocks: BlockFolder, indices: Sequence[int], made: Iterable[np.ndarray], bar: tqdm
) -> None:
    """Write blocks of a sampling as they come, one per index; errors as in `BlockFolder.write`.

    Whoever makes them may advance the bar in between. It is closed at the end.
    """
    done = 0
    with bar:
        for index, images in zip(indices, made, strict=True):
            blocks.write(index, images)
            done += len(images)
            bar.update(done - bar.n)


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
        blocks: the blocks, in the folder BESIDE of a claimed folder; they are removed at the end.
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
    numbers = range(first_image, first_image + len(labels))
    passed = write_pngs(made / "images", _labeled(blocks, labels, block_size), numbers, texts)
    first = write_npz(made / "samples.npz", passed, len(labels), "writing")
    save_grid(made / "grid.png", first, columns, texts)
    publish(made.parent, ("samples.npz", "grid.png", *FILM))


def _labeled(
    blocks: BlockFolder, labels: Sequence[int], block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the images of each block and their labels, in order."""
    for index, start in enumerate(range(0, len(labels), block_size)):
        yield blocks.read(index), np.asarray(labels[start : start + block_size], np.int64)
