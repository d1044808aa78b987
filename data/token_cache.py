"""The token cache: a dataset is encoded once, and all trainings read its tokens from the disk.

A cache is a folder with the tokens of every view, the labels and a manifest. The name of the folder
contains a hash of everything that the tokens depend on, so that the wrong cache is never used. An
unfinished cache has a partial name and a progress record: encoding continues where it stopped, and
training never reads it. A cache of image files also has a stamp of each, so that a later cache of
more images takes over the tokens of those that are the same.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.earlier_tokens import EarlierTokens, matching_rows
from data.images import Copies, ImageDataset, flip_view
from data.partial_cache import LABELS, RECORD, TOKENS, PartialCache
from data.token_set import TokenSet, token_type, wrong_label
from utils.errors import UserError, failures_of
from utils.files import (
    atomic_write,
    exclusive_lock,
    file_digest,
    make_folder,
    remove_leftovers,
    write_json_atomic,
)
from utils.plain import NOTHING
from utils.processes import ALONE, Processes
from utils.progress import progress_bar
from utils.records import checksum
from utils.workers import batches_of

log = logging.getLogger(__name__)

CACHE_FORMAT = 2
STAMPS = "stamps.npy"
OF_IMAGES = {"source", "images", "classes", "sha256"}  # entries that differ when images are added
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
    earlier: Mapping[str, Any] = NOTHING,
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
        earlier: entries of the identity as earlier versions wrote them, for their caches.
        processes: the processes that encode together; the main one writes.

    Raises:
        UserError: if the disk is too small, or the files of a finished cache are damaged or hold
            impossible tokens or labels.
    """
    manifest = processes.from_main(lambda: _manifest(images, identity, seq_len, codebook_size))
    of_earlier = {**manifest, **earlier}
    known = [one for one in (manifest, of_earlier) if _folder_of(one, cache_dir).is_dir()]
    manifest = processes.from_main(lambda: known[0] if known else manifest)
    folder = _folder_of(manifest, cache_dir)
    # Write the cache if it is not there.
    if not processes.from_main(folder.is_dir):
        make_folder(cache_dir)
        encoding = _Encoding(images, encode, batch_size, num_workers, processes)
        _write_alone(encoding, manifest, folder)
        processes.wait()
    found = _read(folder, manifest)
    _check_ranges(found, folder, codebook_size, num_classes)
    return found


def find_tokens(
    cache_dir: Path,
    dataset: str,
    split: str,
    tokenizers: Collection[str],
    class_names: Sequence[str],
) -> TokenSet | None:
    """Open the newest finished cache of a split without its images; None if there is none.

    Args:
        tokenizers: what the cache may call the tokenizer.
    """

    def fits(stored: Mapping[str, Any]) -> bool:
        return stored["tokenizer"] in tokenizers and stored["classes"] == list(class_names)

    return next((found for _, found in _finished(cache_dir, dataset, split, fits)), None)


def _finished(
    cache_dir: Path, dataset: str, split: str, fits: Callable[[Mapping[str, Any]], bool]
) -> Iterator[tuple[Path, TokenSet]]:
    """Yield the intact finished caches of a split whose manifests fit, the newest first."""
    folders = [path for path in cache_dir.glob(f"{dataset}-{split}-*") if not path.suffix]
    for folder in sorted(folders, key=lambda path: -path.stat().st_mtime):
        try:
            stored = json.loads((folder / "manifest.json").read_text())
            if (stored["dataset"], stored["split"]) != (dataset, split) or not fits(stored):
                continue
            found = _read(folder, {name: stored[name] for name in stored if name != "sha256"})
        except (OSError, ValueError, KeyError, TypeError, UserError):
            continue  # damaged: another cache, or none, will do
        yield folder, found


def _manifest(
    images: ImageDataset, identity: Mapping[str, Any], seq_len: int, codebook_size: int
) -> dict[str, Any]:
    """Describe everything that the contents of a cache depend on."""
    dtype = token_type(codebook_size)
    return {
        **identity,
        "format": CACHE_FORMAT,
        "source": images.fingerprint,
        "images": len(images),
        "views": images.num_views,
        "seq_len": seq_len,
        **({} if dtype == np.uint16 else {"dtype": dtype.name}),  # older caches have uint16 only
    }


def _folder_of(manifest: Mapping[str, Any], cache_dir: Path) -> Path:
    """Name the folder of a cache by everything that its contents depend on."""
    name = f"{manifest['dataset']}-{manifest['split']}-{checksum(manifest)[:12]}"
    return cache_dir / name


def cache_bytes(num_images: int, num_views: int, seq_len: int, dtype: np.dtype) -> int:
    """Compute the size of a cache on the disk: tokens of this type, eight bytes per label."""
    return num_images * (num_views * seq_len * dtype.itemsize + 8)


@dataclass(frozen=True)
class _Encoding:
    """Encodes images with several processes: each encodes its share of every block of images."""

    images: ImageDataset
    encode: Callable[[Tensor], Tensor]
    batch_size: int
    num_workers: int
    processes: Processes
    earlier: EarlierTokens | None = None

    def blocks(self, start: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield the tokens and labels of the images from `start` on, in order.

        Yields:
            A list with int64 (B, L) for each view, and the labels (B, ...).
        """
        images, count = self.images, len(self.images)
        views = [divmod(view, images.num_flips) for view in range(images.num_views)]
        block_size = self.batch_size * self.processes.size
        blocks = [range(s, min(s + block_size, count)) for s in range(start, count, block_size)]
        missing = [self._missing(block) for block in blocks]
        shares = [self._share(part) for part in missing if part]
        batches = batches_of(Copies(images), self.num_workers, batch_sampler=shares)
        for block, part in zip(blocks, missing, strict=True):
            tokens, labels = None, torch.empty(0)
            if part:
                pixels, labels = next(batches)
                shown = (flip_view(pixels[:, copy], flip) for copy, flip in views)
                encoded = [*(self.encode(view).cpu() for view in shown), labels]
                *tokens, labels = (self.processes.gather(one)[: len(part)] for one in encoded)
            if self.earlier is not None:
                tokens, labels = self.earlier.completed(block, tokens)
            assert tokens is not None
            yield tokens, labels

    def _missing(self, block: range) -> Sequence[int]:
        """Return the images of a block that no earlier cache has."""
        if self.earlier is None:
            return block
        return [index for index in block if self.earlier.rows[index] < 0]

    def _share(self, images: Sequence[int]) -> list[tuple[int, range]]:
        """Choose this process's images, with all their copies.

        All processes get the same number, so the last image may repeat.
        """
        each, copies = math.ceil(len(images) / self.processes.size), range(self.images.num_copies)
        first = self.processes.rank * each
        return [(images[min(i, len(images) - 1)], copies) for i in range(first, first + each)]


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
    stamps = processes.from_main(encoding.images.stamps)
    earlier = processes.from_main(lambda: _find_earlier(stamps, manifest, folder.parent))
    if earlier is not None:
        path, rows = earlier
        log.info("%d of %d images have their tokens in %s", (rows >= 0).sum(), count, path)
        tokens = np.load(path / TOKENS, mmap_mode="r", allow_pickle=False)
        known = EarlierTokens(rows, tokens, encoding.images.source.items.labels)
        encoding = replace(encoding, earlier=known)
    with failures_of(
        f"cannot write the token cache {partial}",
        "; it continues from here once there is space (or set `cache_dir`)",
    ):
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
        sums = cache.digests()
        if stamps is not None:
            with atomic_write(partial / STAMPS) as file:
                np.save(file, stamps)
            sums[STAMPS] = file_digest(partial / STAMPS)
        write_json_atomic(partial / "manifest.json", {**manifest, "sha256": sums})
        partial.rename(folder)


def _find_earlier(
    stamps: np.ndarray | None, manifest: Mapping[str, Any], cache_dir: Path
) -> tuple[Path, np.ndarray] | None:
    """Find the finished cache with the tokens of most of the images.

    Returns:
        Its folder and the row of each image there, -1 for one that it lacks; None if there is none.
    """
    if stamps is None:
        return None

    def fits(stored: Mapping[str, Any]) -> bool:
        has_stamps = STAMPS in stored["sha256"]
        return has_stamps and _without_images(stored) == _without_images(manifest)

    best: tuple[Path, np.ndarray] | None = None
    for folder, _ in _finished(cache_dir, manifest["dataset"], manifest["split"], fits):
        try:
            known = np.load(folder / STAMPS, allow_pickle=False).tolist()
        except (OSError, ValueError):  # not stamps, or just deleted
            continue
        rows = matching_rows(stamps, known)
        if best is None or (rows >= 0).sum() > (best[1] >= 0).sum():
            best = folder, rows
    return best if best is not None and (best[1] >= 0).any() else None


def _without_images(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a manifest that do not depend on which images a set has."""
    return {name: value for name, value in manifest.items() if name not in OF_IMAGES}


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
        if damaged or stored != manifest or sums.keys() - {STAMPS} != {TOKENS, LABELS}:
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
    problem, largest = wrong_label(found.labels, num_classes), found.tokens.max(initial=0)
    if largest >= codebook_size:
        problem = f"the token {largest}, but the codebook has {codebook_size} codes"
    if problem:
        raise UserError(
            f"the token cache {folder} is damaged (it has {problem}); delete the folder to make it "
            "again"
        )
