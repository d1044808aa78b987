"""The token cache: a dataset is encoded once, and all trainings read its tokens from the disk.

A cache is a folder with the tokens of every view, the labels and a manifest. The name of the folder
contains a hash of everything that the tokens depend on, so that the wrong cache is never used. An
unfinished cache is a folder of blocks (data/blocks.py): encoding continues where it stopped, and
training never reads it. A cache of image files also has a stamp of each, so that a later cache of
more images takes over the tokens of those that are the same.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.blocks import BlockFolder
from data.content import labels_of
from data.images import Copies, ImageDataset, flip_view
from data.spec import RESIZE, Split
from data.token_set import TokenSet, token_type
from utils.errors import UserError, failures_of
from utils.files import (
    exclusive_lock,
    file_digest,
    make_folder,
    reserve_space,
    temporary_folder,
    write_json_atomic,
)
from utils.processes import ALONE, Processes
from utils.progress import progress_bar
from utils.records import checksum
from utils.size import size_text
from utils.workers import batches_of

log = logging.getLogger(__name__)

CACHE_FORMAT = 2
TOKENS, LABELS, STAMPS = "tokens.npy", "labels.npy", "stamps.npy"
OF_IMAGES = {"source", "images", "classes", "sha256"}  # entries that differ when images are added
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # raised by it
BLOCK = 1024  # images that are encoded between two writes
GOES_ON = "it goes on from here once there is space (or set `cache_dir`)"


def cached_tokens(
    images: ImageDataset,
    split: Split,
    encode: Callable[[Tensor], Tensor],
    seq_len: int,
    identity: Mapping[str, Any],
    cache_dir: Path,
    *,
    codebook_size: int,
    batch_size: int,
    num_workers: int,
    processes: Processes = ALONE,
) -> TokenSet:
    """Return the tokens of a split of a dataset; encode those that are not on the disk yet.

    If another process is writing this cache, a line says so and this one waits. It takes over if
    the other one ends before the cache is finished.

    Args:
        images: items are (uint8 (C, H, W), label).
        split: name of the split; it becomes part of the folder's name, as does the dataset's.
        encode: turns uint8 (B, C, H, W) into tokens int64 (B, L), on any device.
        seq_len: L.
        identity: everything that the tokens depend on besides the images, and the "dataset".
        cache_dir: folder of all caches.
        codebook_size: K.
        batch_size: number of images that a process encodes at once, at most BLOCK.
        num_workers: number of processes that read images for each encoding process.
        processes: the processes that encode together.

    Raises:
        UserError: if the disk is too small, or the files of a finished cache are damaged.
    """
    described = {**identity, "split": split, "seq_len": seq_len}
    manifest = processes.from_main(lambda: _manifest(images, described, codebook_size))
    folder = _folder_of(manifest, cache_dir)
    # Write the cache if it is not there.
    if not processes.from_main(folder.is_dir):
        make_folder(cache_dir)
        encoding = _Encoding(images, encode, batch_size, num_workers)
        _write_alone(encoding, manifest, folder, processes)
    return _read(folder, manifest)


def find_tokens(
    cache_dir: Path,
    dataset: str,
    split: str,
    tokenizer: str,
    class_names: Sequence[str],
) -> TokenSet | None:
    """Open the newest finished cache of a split without its images; None if there is none.

    Args:
        tokenizer: `Tokenizer.encoder_fingerprint`.
    """

    def fits(stored: Mapping[str, Any]) -> bool:
        return stored["tokenizer"] == tokenizer and stored["classes"] == list(class_names)

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
        except (*DAMAGE, UserError):
            continue  # damaged: another cache, or none, will do
        yield folder, found


def _manifest(
    images: ImageDataset, described: Mapping[str, Any], codebook_size: int
) -> dict[str, Any]:
    """Describe everything that the contents of a cache depend on."""
    dtype = token_type(codebook_size)
    return {
        **described,
        "format": CACHE_FORMAT,
        "source": images.fingerprint,
        "images": len(images),
        "classes": list(images.class_names),
        "views": images.num_views,
        "size": size_text(images.size),
        "resize": RESIZE,
        **images.preparation.identity(),
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
    """How images are encoded."""

    images: ImageDataset
    encode: Callable[[Tensor], Tensor]
    batch_size: int
    num_workers: int

    def blocks(
        self,
        parts: Sequence[Sequence[int]],
        title: str,
        watched: Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]],
    ) -> Iterator[np.ndarray]:
        """Yield the tokens (views, B, L) of parts of the images, each given by their numbers.

        Args:
            parts: the numbers of the images of each part.
            title: of the progress bar.
            watched: passes on the tokens of each batch, as in `Processes.together`.
        """
        size = self.batch_size
        batches = [p[s : s + size] for p in parts for s in range(0, len(p), size)]
        encoded = watched(self._encoded(batches))
        with progress_bar(title, sum(map(len, parts)), unit="image") as bar:
            for part in parts:
                found = []
                for _ in range(0, len(part), size):
                    found.append(next(encoded))
                    bar.update(found[-1].shape[1])
                yield np.concatenate(found, 1)

    def _encoded(self, batches: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """Yield the tokens (views, B, L) of batches of images."""
        images, copies = self.images, range(self.images.num_copies)
        keys = [[(index, copies) for index in batch] for batch in batches]
        views = [divmod(view, images.num_flips) for view in range(images.num_views)]
        for pixels, _ in batches_of(Copies(images), self.num_workers, batch_sampler=keys):
            shown = (flip_view(pixels[:, copy], flip) for copy, flip in views)
            yield torch.stack([self.encode(view).cpu() for view in shown]).numpy()


class _Earlier(NamedTuple):
    """An earlier cache, whose tokens are taken over.

    Attributes:
        folder: None if there is no such cache.
        rows: int64 (N,), the row of each image in it; -1 for an image that it lacks.
    """

    folder: Path | None
    rows: np.ndarray


def _write_alone(
    encoding: _Encoding, manifest: Mapping[str, Any], folder: Path, processes: Processes
) -> None:
    """Write a cache; if another process is writing it, wait and write what that one has not."""
    busy = f"another process is writing the token cache {folder}: waiting for it"
    with ExitStack() as held:
        with processes.main_first():
            if processes.is_main:
                lock = exclusive_lock(folder.with_name(f".{folder.name}.lock"), busy, waits=True)
                held.enter_context(lock)
        if not processes.from_main(folder.is_dir):
            _write(encoding, manifest, folder, processes)


def _write(
    encoding: _Encoding, manifest: Mapping[str, Any], folder: Path, processes: Processes
) -> None:
    """Write a cache, or its missing blocks, and give it its final name.

    Each process encodes its share of the blocks; the main one joins them.
    """
    # Find what is to be encoded.
    stamps = processes.from_main(encoding.images.stamps)
    earlier = processes.from_main(lambda: _find_earlier(stamps, manifest, folder.parent))
    if earlier.folder:
        known, count = (earlier.rows >= 0).sum(), manifest["images"]
        log.info("%s has the tokens of %d of %d images", earlier.folder, known, count)
    (todo,) = np.nonzero(earlier.rows < 0)
    identity = {**manifest, "block": BLOCK, "earlier": earlier.folder and earlier.folder.name}
    blocks = BlockFolder(_unfinished(folder), identity)
    title = f"tokenizing {manifest['dataset']} ({manifest['split']})"
    missing = processes.from_main(lambda: blocks.missing(math.ceil(len(todo) / BLOCK), title))
    processes.from_main(lambda: _check_space(folder.parent, manifest, len(missing) * BLOCK))
    # Encode it, and join all blocks.
    own = missing[processes.rank :: processes.size]
    parts = [todo[n * BLOCK : (n + 1) * BLOCK].tolist() for n in own]
    with processes.together() as while_all_run:
        made = encoding.blocks(parts, title, while_all_run)
        for number, tokens in zip(own, made, strict=True):
            try:
                blocks.write(number, tokens.astype(_dtype_of(manifest)))
            except UserError as error:
                raise UserError(f"{error}; {GOES_ON}") from error
    images = encoding.images
    processes.from_main(lambda: _join(blocks, earlier, images, stamps, manifest, folder))


def _unfinished(folder: Path) -> Path:
    """Name the folder of the blocks of a cache."""
    return folder.with_name(f"{folder.name}.partial")


def _check_space(cache_dir: Path, manifest: Mapping[str, Any], missing: int) -> None:
    """Refuse a disk that is too small for a cache and its missing images, which it has twice."""
    views, count, seq_len = _shape_of(manifest)
    needed = cache_bytes(count + min(missing, count), views, seq_len, _dtype_of(manifest))
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise UserError(
            f"the token cache needs {needed / 1e9:.1f} GB and {cache_dir} has "
            f"{free / 1e9:.1f} GB free; set `cache_dir` to a larger disk"
        )


def _join(
    blocks: BlockFolder,
    earlier: _Earlier,
    images: ImageDataset,
    stamps: np.ndarray | None,
    manifest: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write a cache from the tokens of an earlier one, and from blocks of the other images."""
    with (
        failures_of(f"cannot write the token cache {folder}", f"; {GOES_ON}"),
        temporary_folder(blocks.path, folder.name) as around,  # so `missing` deletes a leftover
    ):
        made = make_folder(around / folder.name)
        tokens = np.lib.format.open_memmap(
            made / TOKENS, "w+", _dtype_of(manifest), _shape_of(manifest)
        )
        reserve_space(made / TOKENS)
        if earlier.folder:
            known = np.load(earlier.folder / TOKENS, mmap_mode="r", allow_pickle=False)
            (there,) = np.nonzero(earlier.rows >= 0)
            for start in range(0, len(there), BLOCK):  # all at once would need much memory
                part = there[start : start + BLOCK]
                tokens[:, part] = known[:, earlier.rows[part]]
        (todo,) = np.nonzero(earlier.rows < 0)
        for number, start in enumerate(range(0, len(todo), BLOCK)):
            tokens[:, todo[start : start + BLOCK]] = blocks.read(number)
        tokens.flush()
        labels = labels_of(images)
        np.save(made / LABELS, labels if labels.ndim == 1 else labels.astype(np.uint8))
        if stamps is not None:
            np.save(made / STAMPS, stamps)
        sums = {path.name: file_digest(path) for path in made.iterdir()}
        write_json_atomic(made / "manifest.json", {**manifest, "sha256": sums})
        os.sync()
        made.rename(folder)


def _find_earlier(
    stamps: np.ndarray | None, manifest: Mapping[str, Any], cache_dir: Path
) -> _Earlier:
    """Find the finished cache with the tokens of most of the images."""
    best = _Earlier(None, np.full(manifest["images"], -1))
    if stamps is None:
        return best

    def fits(stored: Mapping[str, Any]) -> bool:
        has_stamps = STAMPS in stored["sha256"]
        return has_stamps and _without_images(stored) == _without_images(manifest)

    for folder, _ in _finished(cache_dir, manifest["dataset"], manifest["split"], fits):
        try:
            known = np.load(folder / STAMPS, allow_pickle=False).tolist()
        except (OSError, ValueError):  # not stamps, or just deleted
            continue
        places = {stamp: row for row, stamp in enumerate(known)}
        rows = np.array([places.get(stamp, -1) for stamp in stamps.tolist()])
        if (rows >= 0).sum() > (best.rows >= 0).sum():
            best = _Earlier(folder, rows)
    return best


def _without_images(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a manifest that do not depend on which images a set has."""
    return {name: value for name, value in manifest.items() if name not in OF_IMAGES}


def _dtype_of(manifest: Mapping[str, Any]) -> np.dtype:
    """Return the type of the tokens of a cache."""
    return np.dtype(manifest.get("dtype", "uint16"))


def _shape_of(manifest: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the numbers of views, of images, and of tokens per image."""
    return manifest["views"], manifest["images"], manifest["seq_len"]


def _read(folder: Path, manifest: Mapping[str, Any]) -> TokenSet:
    """Open a finished cache and check that it is intact."""
    shutil.rmtree(_unfinished(folder), ignore_errors=True)
    try:
        stored = json.loads((folder / "manifest.json").read_text())
        sums = stored.pop("sha256")
        damaged = [name for name in sums if file_digest(folder / name) != sums[name]]
        if damaged or stored != manifest or sums.keys() - {STAMPS} != {TOKENS, LABELS}:
            raise ValueError(f"{', '.join(damaged) or 'manifest.json'} does not match")
        # "c": torch wants a writable array; the file does not change.
        tokens = np.load(folder / TOKENS, mmap_mode="c", allow_pickle=False)
        labels = np.load(folder / LABELS, allow_pickle=False)
        shape = _shape_of(manifest)
        if (tokens.dtype, tokens.shape) != (_dtype_of(manifest), shape) or len(labels) != shape[1]:
            raise ValueError(f"tokens of shape {tokens.shape}, not {shape}")
        if labels.dtype != (np.int64 if labels.ndim == 1 else np.uint8):
            raise ValueError(f"labels of type {labels.dtype}")
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    except DAMAGE as error:
        raise UserError(
            f"the token cache {folder} is damaged ({error}); delete the folder to make it again"
        ) from error
    return TokenSet(tokens, labels)
