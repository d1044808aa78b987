"""Sampling of many images that goes on where it stopped.

Images are made in blocks, and a block depends on nothing but what its identity record says and its
index. Each finished block is a file in a partial folder; whoever comes next, after a crash or in
another process, makes the blocks that are missing. When all are there, the PNGs and the .npz are
made from them beside the finished ones and take their place.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import atomic_write, make_folder, remove_leftovers, write_json_atomic
from utils.images import save_grid
from utils.progress import progress_bar
from utils.samples import write_npz, write_pngs

RECORD = "identity.json"


def open_blocks(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the partial folder, or keep it if its blocks are of the same identity.

    Args:
        folder: of the blocks; what another sampling left in it is removed.
        identity: plain data, everything that the images depend on.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        stored = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        stored = None  # nothing there, or not worth keeping
    if stored != json.loads(json.dumps(identity)):
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        write_json_atomic(folder / RECORD, identity)
    remove_leftovers(folder)


def missing_blocks(folder: Path, num_blocks: int) -> list[int]:
    """Indices of the blocks that are still to be made."""
    return [index for index in range(num_blocks) if not _block(folder, index).is_file()]


def write_blocks(folder: Path, indices: Sequence[int], blocks: Iterable[np.ndarray]) -> None:
    """Write blocks as they come.

    Args:
        folder: made by `open_blocks`.
        indices: of the blocks.
        blocks: uint8 (B, H, W, C), one per index.

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
    """Make `images/`, `samples.npz` and `grid.png` of finished blocks, and replace earlier ones.

    Args:
        partial: the folder of the blocks, removed at the end.
        folder: where the three go.
        labels: of the images, in their order.
        block_size: images of a block; the last one may have fewer.
        columns: of the grid.
        first_image: number of the first image, which names its file.

    Raises:
        UserError: if a file cannot be written or a block is damaged; what was there before is
            intact, and the blocks stay.
    """
    try:
        new = partial / "images"
        shutil.rmtree(new, ignore_errors=True)
        blocks = _read_blocks(partial, labels, block_size)
        passed = write_pngs(new, blocks, first_image)
        first = write_npz(partial / "samples.npz", passed, len(labels), "writing")
        save_grid(partial / "grid.png", first, columns=columns)
        for name in ("samples.npz", "grid.png"):
            (partial / name).replace(folder / name)
        # No folder can be renamed onto a full one, so the earlier one goes aside first.
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


def _read_blocks(
    folder: Path, labels: Sequence[int], block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for index, start in enumerate(range(0, len(labels), block_size)):
        part = np.asarray(labels[start : start + block_size])
        path = _block(folder, index)
        try:
            images = np.load(path, allow_pickle=False)
            if len(images) != len(part):
                raise ValueError(f"{len(images)} images instead of {len(part)}")
        except Exception as error:  # a damaged header is parsed as Python, and fails with anything
            raise UserError(
                f"{path} is damaged ({error}); delete it and the same command makes it anew"
            ) from error
        yield images, part


def _block(folder: Path, index: int) -> Path:
    return folder / f"block_{index:06d}.npy"
