"""Generated images on disk: a grid, single PNGs, and one .npz in the layout of ADM's samples."""

import logging
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.files import atomic_write, make_folder
from utils.images import save_grid, save_png
from utils.progress import progress_bar

log = logging.getLogger(__name__)

GRID_IMAGES = 100


def write_samples(
    folder: Path, blocks: Iterable[np.ndarray], labels: Sequence[int], columns: int | None = None
) -> None:
    """Write blocks of images as they come, in memory that does not grow with their number.

    `folder` gets `images/000000.png` and so on, `samples.npz` (`arr_0` uint8 (N, H, W, C), `arr_1`
    int64 (N,) labels) and `grid.png` of the first images.

    Args:
        folder: made if needed; files of an earlier sampling are replaced.
        blocks: uint8 (B, H, W, C) each, together as many images as labels.
        labels: class of each image.
        columns: of the grid.
    """
    images_folder = make_folder(folder / "images")
    for earlier in images_folder.glob("*.png"):
        earlier.unlink()
    store = folder / ".samples.partial.npy"
    done = 0
    all_images: np.memmap | None = None
    with progress_bar("sampling", len(labels), unit="image") as bar:
        for block in blocks:
            if all_images is None:
                shape = (len(labels), *block.shape[1:])
                all_images = np.lib.format.open_memmap(store, "w+", np.uint8, shape)
            all_images[done : done + len(block)] = block
            for offset, image in enumerate(block):
                save_png(images_folder / f"{done + offset:06d}.png", image)
            done += len(block)
            bar.update(len(block))
    assert all_images is not None
    assert done == len(labels)
    all_images.flush()
    _write_npz(folder / "samples.npz", store, np.asarray(labels, np.int64))
    save_grid(folder / "grid.png", all_images[:GRID_IMAGES], columns)
    store.unlink()
    log.info("%d images in %s", done, images_folder)
    log.info("all of them in %s", folder / "samples.npz")
    log.info("a grid of them in %s", folder / "grid.png")


def _write_npz(path: Path, images: Path, labels: np.ndarray) -> None:
    """Write the .npz from an .npy file without holding the images in memory."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.write(images, "arr_0.npy")
        with archive.open("arr_1.npy", "w") as entry:
            np.lib.format.write_array(entry, labels, allow_pickle=False)
