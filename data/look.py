"""Looks at images as the networks see them, and finds what often goes wrong."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Dataset

from data.image_file import load_image
from data.images import FileImages, ImageDataset, center_box, to_array
from data.tree import folders_in, named
from utils.progress import progress_bar
from utils.workers import batches_of

FEW = 20  # training images of a class; with fewer it is hardly learned
CUT = 0.3  # share of an image; if the crop cuts off more, it is said
SEEN_AT_START = 64  # images that every start looks at
MOST_COMPARED = 2000  # files of equal size that every start compares
ROW = np.dtype([("digest", "<u8"), ("color", "<i8"), ("cut", "<f8")])
COLORS = {0xFFFFFF: "white", 0: "black"}


@dataclass(frozen=True)
class Looks:
    """What was seen of some images.

    Attributes:
        names: the images.
        digest: of the pixels that the networks see, uint64 (N,).
        color: 0xRRGGBB if all pixels are equal, else -1; int64 (N,).
        cut: share of the image that the crop cuts off, float64 (N,).
    """

    names: list[str]
    digest: np.ndarray
    color: np.ndarray
    cut: np.ndarray


@dataclass(frozen=True)
class _Seen(Dataset):
    """What is seen of an image, as an item of ROW."""

    images: ImageDataset

    def __getitem__(self, index: int) -> np.ndarray:
        images, prepared = self.images, self.images.preparation
        image, _ = images.source.items[index]
        shown = to_array(image, images.size, images.channels, prepared)
        first = shown[0, 0]
        color = int.from_bytes(np.broadcast_to(first, 3).tobytes(), "big")
        left, top, right, bottom = center_box(image.size, *images.size)
        kept = (right - left) * (bottom - top) / (image.width * image.height)
        digest = hashlib.blake2b(shown.tobytes(), digest_size=8).digest()
        return np.array(
            (
                int.from_bytes(digest, "little"),
                color if (shown == first).all() else -1,
                1 - kept if prepared.fit == "crop" else 0.0,
            ),
            ROW,
        )


def look_at(images: ImageDataset, indices: Sequence[int], num_workers: int = 0) -> Looks:
    """Read some images of a split.

    Raises:
        FileError: if a file is damaged.
    """
    loader: DataLoader = DataLoader(
        _Seen(images), 32, sampler=indices, num_workers=num_workers, collate_fn=np.stack
    )
    rows = []
    with progress_bar("looking", len(indices), unit="image") as bar:
        for batch in batches_of(loader):
            rows.append(batch)
            bar.update(len(batch))
    found = np.concatenate([np.empty(0, ROW), *rows])
    names = [name_of(images, index) for index in indices]
    return Looks(names, found["digest"], found["color"], found["cut"])


def name_of(images: ImageDataset, index: int) -> str:
    """Name an image: its path in the dataset, or its number."""
    items = images.source.items
    if isinstance(items, FileImages):
        return os.path.relpath(items.paths[index], images.source.root)
    return f"image {index}"


def evenly(count: int, most: int) -> list[int]:
    """Choose at most `most` of the indices below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round()).astype(int).tolist()


def problems_of_classes(train: ImageDataset) -> list[str]:
    """Name the classes that have few training images or none."""
    counts = class_counts(train)
    problems = []
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW]
    if few:
        problems.append(f"classes with fewer than {FEW} training images: {named(few)}")
    if isinstance(train.source.items, FileImages) and len(counts) > 1 and train.source.class_names:
        empty = [name for name in folders_in(Path(train.source.root)) if name not in counts]
        if empty:
            problems.append(f"folders without images: {named(empty)}")
    return problems


def class_counts(images: ImageDataset) -> dict[str, int]:
    """Count the images of each class; one with several findings counts for each of them."""
    labels = np.asarray(images.source.items.labels)
    names = images.class_names
    if labels.ndim == 2:
        return dict(zip(names, [*labels.sum(0).tolist(), int((~labels.any(1)).sum())], strict=True))
    return dict(zip(names, np.bincount(labels.ravel(), minlength=len(names)).tolist(), strict=True))


def problems_of_pixels(images: ImageDataset, looks: Looks) -> list[str]:
    """Name images of one color, and images that the crop cuts."""
    problems = []
    for color in np.unique(looks.color[looks.color >= 0]).tolist():
        names = [n for n, own in zip(looks.names, looks.color, strict=True) if own == color]
        text = f"{len(names)} all {COLORS.get(color, f'#{color:06x}')}: {named(names)}"
        hidden = sum(_differs_on_black(images, name) for name in names)
        if hidden:
            text += f" ({hidden} drawn on transparent ground: another `background` shows them)"
        problems.append(text)
    cut = [n for n, share in zip(looks.names, looks.cut, strict=True) if share > CUT]
    if cut:
        problems.append(
            f"{len(cut)} lose more than {CUT:.0%} to the crop (`fit` pad keeps all): {named(cut)}"
        )
    return problems


def _differs_on_black(images: ImageDataset, name: str) -> bool:
    """Whether a file that shows one color shows something before black or white."""
    if not isinstance(images.source.items, FileImages):
        return False
    path = Path(images.source.root) / name
    extremes = [load_image(path, page).convert("L").getextrema() for page in ("black", "white")]
    return any(low != high for low, high in extremes)


def repeated(groups: Iterable[tuple[object, str]]) -> list[list[str]]:
    """Return the names that share a key, as lists of two or more; groups are (key, name)."""
    found = defaultdict(list)
    for key, name in groups:
        found[key].append(name)
    return [names for names in found.values() if len(names) > 1]


def problems_of_copies(train: Looks, validation: Looks) -> list[str]:
    """Name images with equal pixels, within the training images and across both splits."""
    constant = set(train.digest[train.color >= 0].tolist())
    pairs = [(d, n) for d, n in zip(train.digest.tolist(), train.names, strict=True)]
    groups = repeated((digest, name) for digest, name in pairs if digest not in constant)
    problems = []
    if groups:
        extra = sum(len(group) - 1 for group in groups)
        shown = named(" = ".join(group[:2]) for group in groups)
        problems.append(f"{extra} training images repeat others: {shown}")
    known = {digest: name for digest, name in pairs if digest not in constant}
    held_out = zip(validation.digest.tolist(), validation.names, strict=True)
    twins = [f"{known[digest]} = {name}" for digest, name in held_out if digest in known]
    if twins:
        problems.append(
            f"{len(twins)} validation images are also training images: {named(twins)}; the "
            "validation loss is too low"
        )
    return problems


def problems_of_files(train: ImageDataset, validation: ImageDataset) -> list[str]:
    """Say how many files are equal; of many files of equal size only some are compared."""
    items = [one.source.items for one in (train, validation)]
    if not all(isinstance(one, FileImages) for one in items):
        return []
    paths = [path for one in items for path in one.paths]  # type: ignore[attr-defined]
    sizes = [os.stat(path).st_size for path in paths]  # noqa: PTH116 (a million Paths are slow)
    common = {size for size, count in Counter(sizes).items() if count > 1}
    alike = [path for path, size in zip(paths, sizes, strict=True) if size in common]
    keys = ((hashlib.sha256(Path(path).read_bytes()).digest(), path) for path in alike)
    groups = repeated(keys) if len(alike) <= MOST_COMPARED else []
    extra = sum(len(group) - 1 for group in groups)
    return [f"{extra} files repeat others"] if extra else []
