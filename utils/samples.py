"""Images on disk as they come: single PNGs, and one .npz in the layout of ADM's samples."""

import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.files import atomic_write, make_folder
from utils.images import to_picture
from utils.progress import progress_bar

Blocks = Iterable[tuple[np.ndarray, np.ndarray]]
"""(images uint8 (B, H, W, C), labels int (B, ...)), block by block."""


def write_pngs(
    folder: Path, blocks: Blocks, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Write images as `000000.png` and so on while they pass through.

    They are flushed to the disk together, at the end: one by one takes thirty times as long.

    Args:
        folder: made if needed; PNGs of an earlier run are removed.
        blocks: passed on unchanged.
        first: number of the first image.

    Raises:
        UserError: if an image cannot be written.
    """
    make_folder(folder)
    for earlier in folder.glob("*.png"):
        earlier.unlink()
    index = first
    try:
        for images, labels in blocks:
            for image in images:
                to_picture(image).save(folder / f"{index:06d}.png")
                index += 1
            yield images, labels
    except OSError as error:
        raise UserError(f"cannot write images into {folder}: {error.strerror or error}") from error
    os.sync()


def write_npz(path: Path, blocks: Blocks, count: int, title: str, keep: int = 100) -> np.ndarray:
    """Write images and labels as one .npz, in memory that does not grow with their number.

    The file has `arr_0`, uint8 (N, H, W, C), and `arr_1`, the labels.

    Args:
        path: the file.
        blocks: together `count` images.
        count: N.
        title: of the progress bar.
        keep: images to return.

    Returns:
        The first `keep` images, uint8 (up to keep, H, W, C).
    """
    labels: list[np.ndarray] = []
    first: list[np.ndarray] = []
    with (
        progress_bar(title, count, unit="image") as bar,
        atomic_write(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            for images, block_labels in blocks:
                if not labels:
                    shape = (count, *images.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(entry, header)
                entry.write(images.tobytes())
                labels.append(block_labels)
                first.extend(images[: max(0, keep - len(first))])
                bar.update(len(images))
        done = sum(map(len, labels))
        assert done == count, f"{done} images instead of {count}"
        with archive.open("arr_1.npy", "w") as entry:
            np.lib.format.write_array(entry, np.concatenate(labels), allow_pickle=False)
    return np.stack(first)
