"""The token cache: a dataset is encoded once, and all training reads its tokens from the disk.

A cache is a folder with the tokens of every view, the labels and a manifest. The name of the folder
contains a hash of everything that the tokens depend on, so that a cache of something else is never
used. An unfinished cache has a partial name and a progress record: encoding goes on where it
stopped, and training never reads it.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.images import ImageDataset, flip_view
from data.token_set import TokenSet
from utils.errors import UserError
from utils.files import (
    exclusive_lock,
    file_digest,
    make_folder,
    remove_leftovers,
    reserve_space,
    write_json_atomic,
)
from utils.processes import ALONE, Processes
from utils.progress import progress_bar
from utils.workers import batches_of

log = logging.getLogger(__name__)

CACHE_FORMAT = 2
FILES = ("tokens.npy", "labels.npy")
FLUSH_EVERY = 50  # batches between two progress records


def cached_tokens(
    images: ImageDataset,
    encode: Callable[[Tensor], Tensor],
    seq_len: int,
    identity: Mapping[str, Any],
    cache_dir: Path,
    *,
    batch_size: int,
    num_workers: int,
    processes: Processes = ALONE,
) -> TokenSet:
    """Return the tokens of a split of a dataset; encode what is not on the disk yet.

    Args:
        images: items are (uint8 (C, H, W), label).
        encode: turns uint8 (B, C, H, W) into tokens int64 (B, L), on any device.
        seq_len: L.
        identity: everything that the tokens depend on beside the images. "dataset" and "split"
            become part of the folder's name.
        cache_dir: folder of all caches.
        batch_size: number of images that a process encodes at once.
        num_workers: number of processes that read images for each process that encodes.
        processes: the processes that encode together; the main one writes.

    Raises:
        UserError: if another process is writing this cache, the disk is too small, or the files of
            a finished cache are damaged.
    """
    # Name the folder by everything that the tokens depend on.
    manifest = {
        **identity,
        "format": CACHE_FORMAT,
        "source": processes.from_main(lambda: images.fingerprint),
        "images": len(images),
        "views": images.num_views,
        "seq_len": seq_len,
    }
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{identity['dataset']}-{identity['split']}-{digest}"
    folder = cache_dir / name
    # Write the cache if it is not there, one job at a time.
    if not processes.from_main(folder.is_dir):
        busy = (
            f"another process is writing the token cache {folder}; wait for it, or set `cache_dir`"
        )
        lock = exclusive_lock(make_folder(cache_dir) / f".{name}.lock", busy)
        encoding = _Encoding(images, encode, batch_size, num_workers, processes)
        with lock if processes.is_main else nullcontext():
            if not processes.from_main(folder.is_dir):
                _write(encoding, manifest, folder)
        processes.wait()
    return _read(folder, manifest)


def cache_bytes(num_images: int, num_views: int, seq_len: int) -> int:
    """Compute the size of a cache on the disk: two bytes for a token, eight for a label."""
    return num_images * (num_views * seq_len * 2 + 8)


@dataclass(frozen=True)
class _Encoding:
    """How the processes make tokens together: each encodes its share of every block of images."""

    images: ImageDataset
    encode: Callable[[Tensor], Tensor]
    batch_size: int
    num_workers: int
    processes: Processes

    def blocks(self, start: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield the tokens and labels of the images from `start` on, in order.

        Yields:
            A list with int64 (B, L) for each view, and the labels (B, ...).
        """
        views, count = range(self.images.num_views), len(self.images)
        block_size = self.batch_size * self.processes.size
        blocks = [range(s, min(s + block_size, count)) for s in range(start, count, block_size)]
        loader = DataLoader(
            self.images,
            batch_sampler=[self._share(block) for block in blocks],
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_initialized(),
        )
        for block, (pixels, labels) in zip(blocks, loader, strict=True):
            encoded = [*(self.encode(flip_view(pixels, view)).cpu() for view in views), labels]
            *tokens, labels = (self.processes.gather(part)[: len(block)] for part in encoded)
            yield tokens, labels

    def _share(self, block: range) -> list[int]:
        """Choose the images of this process, equally many for each; the last image may repeat."""
        each = math.ceil(len(block) / self.processes.size)
        first = block.start + self.processes.rank * each
        return [min(index, block.stop - 1) for index in range(first, first + each)]


def _write(encoding: _Encoding, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write a cache, or what is missing of it, and give it its final name.

    Every process encodes; the main one writes.
    """
    partial = make_folder(folder.with_name(f"{folder.name}.partial"))
    done = encoding.processes.from_main(lambda: _read_progress(partial))
    if not encoding.processes.is_main:
        for _ in encoding.blocks(done):
            pass
        return
    # Make the files, or open those of an earlier start, and reserve their space.
    remove_leftovers(partial)
    count, views, seq_len = manifest["images"], manifest["views"], manifest["seq_len"]
    _check_space(partial, cache_bytes(count, views, seq_len))
    label_shape = np.asarray(encoding.images[0][1]).shape
    mode = "r+" if done else "w+"
    try:
        tokens = np.lib.format.open_memmap(
            partial / "tokens.npy", mode, np.uint16, (views, count, seq_len)
        )
        labels = np.lib.format.open_memmap(
            partial / "labels.npy",
            mode,
            np.uint8 if label_shape else np.int64,
            (count, *label_shape),
        )
        for name in FILES:
            reserve_space(partial / name)
        # Fill them.
        title = f"tokenising {manifest['dataset']} ({manifest['split']})"
        with progress_bar(title, total=count, done=done, unit="image") as bar:
            for number, (block, block_labels) in enumerate(encoding.blocks(done), start=1):
                end = done + len(block_labels)
                for view in range(views):
                    tokens[view, done:end] = block[view].numpy()
                labels[done:end] = block_labels.numpy()
                bar.update(end - done)
                done = end
                if number % FLUSH_EVERY == 0:
                    _record_progress(partial, done, tokens, labels)
        _record_progress(partial, done, tokens, labels)
        # All is there: finish.
        sums = {name: file_digest(partial / name) for name in FILES}
        write_json_atomic(partial / "manifest.json", {**manifest, "sha256": sums})
        (partial / "progress.json").unlink()
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the token cache {partial}: {error.strerror or error}; it goes on from "
            "here once there is space (or set `cache_dir`)"
        ) from error


def _check_space(folder: Path, needed: int) -> None:
    """Refuse a disk that is too small; space that an earlier start reserved counts as free."""
    free = shutil.disk_usage(folder).free
    reserved = sum(512 * path.stat().st_blocks for path in folder.glob("*.npy"))
    if free + reserved < needed:
        raise UserError(
            f"the token cache needs {needed / 1e9:.1f} GB and {folder.parent} has "
            f"{free / 1e9:.1f} GB free; set `cache_dir` to a larger disk"
        )


def _read_progress(partial: Path) -> int:
    """Read how many images are encoded and on the disk."""
    try:
        return int(json.loads((partial / "progress.json").read_text())["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # no record, or a damaged one: start again


def _record_progress(partial: Path, done: int, *arrays: np.memmap) -> None:
    """Flush the arrays to the disk and record that `done` images are in them."""
    for array in arrays:
        array.flush()
    write_json_atomic(partial / "progress.json", {"images": done})


def _read(folder: Path, manifest: Mapping[str, Any]) -> TokenSet:
    """Open a finished cache and check that it is intact."""
    try:
        stored = json.loads((folder / "manifest.json").read_text())
        sums = stored.pop("sha256")
        damaged = [name for name in sums if file_digest(folder / name) != sums[name]]
        if damaged or stored != manifest or set(sums) != set(FILES):
            raise ValueError(f"{', '.join(damaged) or 'manifest.json'} does not match")
        # "c": torch wants an array that can be written to; the file does not change.
        tokens = np.load(folder / "tokens.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        shape = tuple(manifest[name] for name in ("views", "images", "seq_len"))
        if (tokens.dtype, tokens.shape) != (np.uint16, shape) or len(labels) != shape[1]:
            raise ValueError(f"tokens of shape {tokens.shape}, not {shape}")
        if labels.dtype != (np.int64 if labels.ndim == 1 else np.uint8):
            raise ValueError(f"labels of type {labels.dtype}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the token cache {folder} is damaged ({error}); delete the folder and it is made anew"
        ) from error
    return TokenSet(tokens, labels)
