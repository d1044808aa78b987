"""The token cache: a dataset is encoded once, and all trainings read its tokens from the disk.

A cache is a folder with the tokens of every view, the labels and a manifest. The name of the folder
contains a hash of everything that the tokens depend on, so that the wrong cache is never used. An
unfinished cache has a partial name and a progress record: encoding continues where it stopped, and
training never reads it.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.images import ImageDataset, flip_view
from data.partial_cache import LABELS, RECORD, TOKENS, PartialCache
from data.token_set import TokenSet, token_type
from utils.errors import UserError
from utils.files import (
    exclusive_lock,
    file_digest,
    make_folder,
    remove_leftovers,
    write_json_atomic,
)
from utils.processes import ALONE, Processes
from utils.progress import progress_bar
from utils.workers import batches_of

log = logging.getLogger(__name__)

CACHE_FORMAT = 2
FLUSH_EVERY = 50  # batches between two progress records


def cached_tokens(
    images: ImageDataset,
    encode: Callable[[Tensor], Tensor],
    seq_len: int,
    identity: Mapping[str, Any],
    cache_dir: Path,
    *,
    codebook_size: int,
    num_classes: int,
    batch_size: int,
    num_workers: int,
    processes: Processes = ALONE,
) -> TokenSet:
    """Return the tokens of a split of a dataset; encode those that are not on the disk yet.

    If another process is writing this cache, a line says so and this one waits. It takes over if
    the other one ends before the cache is finished.

    Args:
        images: items are (uint8 (C, H, W), label).
        encode: turns uint8 (B, C, H, W) into tokens int64 (B, L), on any device.
        seq_len: L.
        identity: everything that the tokens depend on besides the images. "dataset" and "split"
            become part of the folder's name.
        cache_dir: folder of all caches.
        codebook_size: K; tokens must be below it.
        num_classes: number of classes; labels must be below it.
        batch_size: number of images that a process encodes at once.
        num_workers: number of processes that read images for each encoding process.
        processes: the processes that encode together; the main one writes.

    Raises:
        UserError: if the disk is too small, or the files of a finished cache are damaged or hold
            impossible tokens or labels.
    """
    # Name the folder by everything that the tokens depend on.
    dtype = token_type(codebook_size)
    manifest = {
        **identity,
        "format": CACHE_FORMAT,
        "source": processes.from_main(lambda: images.fingerprint),
        "images": len(images),
        "views": images.num_views,
        "seq_len": seq_len,
        **({} if dtype == np.uint16 else {"dtype": dtype.name}),  # older caches have uint16 only
    }
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{identity['dataset']}-{identity['split']}-{digest}"
    folder = cache_dir / name
    # Write the cache if it is not there.
    if not processes.from_main(folder.is_dir):
        make_folder(cache_dir)
        _write_alone(
            _Encoding(images, encode, batch_size, num_workers, processes), manifest, folder
        )
        processes.wait()
    found = _read(folder, manifest)
    _check_ranges(found, folder, codebook_size, num_classes)
    return found


def cache_bytes(num_images: int, num_views: int, seq_len: int, dtype: np.dtype) -> int:
    """Compute the size of a cache on the disk: tokens of this type, eight bytes per label."""
    return num_images * (num_views * seq_len * dtype.itemsize + 8)


@dataclass(frozen=True)
class _AllCopies(Dataset):
    """Every image with all its copies: uint8 (copies, C, H, W), and its label."""

    images: ImageDataset

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        return self.images.copies(index, range(self.images.num_copies))


@dataclass(frozen=True)
class _Encoding:
    """Encodes images with several processes: each encodes its share of every block of images."""

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
        images, count = self.images, len(self.images)
        views = [divmod(view, images.num_flips) for view in range(images.num_views)]
        block_size = self.batch_size * self.processes.size
        blocks = [range(s, min(s + block_size, count)) for s in range(start, count, block_size)]
        loader = DataLoader(
            _AllCopies(images),
            batch_sampler=[self._share(block) for block in blocks],
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_initialized(),
        )
        for block, (pixels, labels) in zip(blocks, batches_of(loader), strict=True):
            shown = (flip_view(pixels[:, copy], flip) for copy, flip in views)
            encoded = [*(self.encode(view).cpu() for view in shown), labels]
            *tokens, labels = (self.processes.gather(part)[: len(block)] for part in encoded)
            yield tokens, labels

    def _share(self, block: range) -> list[int]:
        """Choose this process's images; all get the same number, so the last image may repeat."""
        each = math.ceil(len(block) / self.processes.size)
        first = block.start + self.processes.rank * each
        return [min(index, block.stop - 1) for index in range(first, first + each)]


def _write_alone(encoding: _Encoding, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write a cache; if another process is writing it, wait and write what that one has not."""
    processes = encoding.processes
    busy = f"another process is writing the token cache {folder}: waiting for it"
    with ExitStack() as held:
        with processes.main_first():
            if processes.is_main:
                lock = exclusive_lock(folder.with_name(f".{folder.name}.lock"), busy, waits=True)
                held.enter_context(lock)
        if not processes.from_main(folder.is_dir):
            _write(encoding, manifest, folder)


def _write(encoding: _Encoding, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write a cache, or its missing part, and give it its final name.

    Every process encodes; the main one writes.
    """
    partial = make_folder(folder.with_name(f"{folder.name}.partial"))
    processes, count = encoding.processes, manifest["images"]
    try:
        cache = _open_partial(encoding, manifest, partial) if processes.is_main else None
        done = processes.from_main(lambda: cache.done if cache else 0)
        if cache is None:
            for _ in encoding.blocks(done):
                pass
            return
        # Fill the files.
        title = f"tokenizing {manifest['dataset']} ({manifest['split']})"
        with progress_bar(title, total=count, done=done, unit="image") as bar:
            for number, (tokens, labels) in enumerate(encoding.blocks(done), start=1):
                cache.add(tokens, labels)
                bar.update(len(labels))
                if number % FLUSH_EVERY == 0:
                    cache.flush()
        cache.flush()
        # All images are written: finish.
        write_json_atomic(partial / "manifest.json", {**manifest, "sha256": cache.digests()})
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the token cache {partial}: {error.strerror or error}; it continues from "
            "here once there is space (or set `cache_dir`)"
        ) from error


def _open_partial(encoding: _Encoding, manifest: Mapping[str, Any], partial: Path) -> PartialCache:
    """Make the files of a cache, or open those of an earlier start."""
    remove_leftovers(partial)
    shape = (manifest["views"], manifest["images"], manifest["seq_len"])
    dtype = _dtype_of(manifest)
    views, count, seq_len = shape
    _check_space(partial, cache_bytes(count, views, seq_len, dtype))
    return PartialCache(partial, shape, dtype, np.asarray(encoding.images[0][1]).shape)


def _dtype_of(manifest: Mapping[str, Any]) -> np.dtype:
    """Return the type of the tokens of a cache."""
    return np.dtype(manifest.get("dtype", "uint16"))


def _check_space(folder: Path, needed: int) -> None:
    """Refuse a disk that is too small; space that an earlier start reserved counts as free."""
    free = shutil.disk_usage(folder).free
    reserved = sum(512 * path.stat().st_blocks for path in folder.glob("*.npy"))
    if free + reserved < needed:
        raise UserError(
            f"the token cache needs {needed / 1e9:.1f} GB and {folder.parent} has "
            f"{free / 1e9:.1f} GB free; set `cache_dir` to a larger disk"
        )


def _read(folder: Path, manifest: Mapping[str, Any]) -> TokenSet:
    """Open a finished cache and check that it is intact."""
    with suppress(OSError):  # a kill may have left the record, which a finished cache does not need
        (folder / RECORD).unlink()
    try:
        stored = json.loads((folder / "manifest.json").read_text())
        sums = stored.pop("sha256")
        damaged = [name for name in sums if file_digest(folder / name) != sums[name]]
        if damaged or stored != manifest or sums.keys() != {TOKENS, LABELS}:
            raise ValueError(f"{', '.join(damaged) or 'manifest.json'} does not match")
        # "c": torch wants a writable array; the file does not change.
        tokens = np.load(folder / TOKENS, mmap_mode="c", allow_pickle=False)
        labels = np.load(folder / LABELS, allow_pickle=False)
        shape = tuple(manifest[name] for name in ("views", "images", "seq_len"))
        if (tokens.dtype, tokens.shape) != (_dtype_of(manifest), shape) or len(labels) != shape[1]:
            raise ValueError(f"tokens of shape {tokens.shape}, not {shape}")
        if labels.dtype != (np.int64 if labels.ndim == 1 else np.uint8):
            raise ValueError(f"labels of type {labels.dtype}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the token cache {folder} is damaged ({error}); delete the folder to make it again"
        ) from error
    return TokenSet(tokens, labels)


def _check_ranges(found: TokenSet, folder: Path, codebook_size: int, num_classes: int) -> None:
    """Refuse tokens outside the codebook and labels that are not classes."""
    tokens, labels = found.tokens, found.labels
    if tokens.max(initial=0) >= codebook_size:
        problem = f"a token is {tokens.max()} and the codebook has {codebook_size} codes"
    elif labels.ndim == 1 and not ((labels >= 0) & (labels < num_classes)).all():
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        problem = f"a label is {wrong} and there are {num_classes} classes"
    elif labels.ndim > 1 and (labels.shape[1] != num_classes - 1 or labels.max(initial=0) > 1):
        problem = f"its labels are not findings of {num_classes - 1} kinds"
    else:
        return
    raise UserError(
        f"the token cache {folder} is damaged ({problem}); delete the folder to make it again"
    )
