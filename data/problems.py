"""Looks at images as the networks see them, and finds what often goes wrong."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from torch.utils.data import Dataset

from data.image_file import load_image
from data.images import FileImages, ImageDataset, center_box, to_array
from data.tree import folders_in
from utils.errors import named
from utils.progress import progress_bar
from utils.workers import batches_of

FEW = 20  # training images of a class; with fewer it is hardly learned
CUT = 0.3  # share of an image; if the crop cuts off more, it is said
SEEN_AT_START = 64  # images that every start looks at
MOST_COMPARED = 2000  # files of equal size that every start compares
PAIRS_SHOWN = 3  # of copies, because their names may be long
COLORS = {0xFFFFFF: "white", 0: "black"}


class Look(NamedTuple):
    """What was seen of an image.

    Attributes:
        digest: of the pixels that the networks see.
        color: 0xRRGGBB if all pixels are equal, else None.
        cut: share of the image that the crop cuts off.
    """

    name: str
    digest: bytes
    color: int | None
    cut: float


@dataclass(frozen=True)
class _Seen(Dataset):
    """The look of an image."""

    images: ImageDataset

    def __getitem__(self, index: int) -> Look:
        images, prepared = self.images, self.images.preparation
        image, _ = images.source.items[index]
        shown = to_array(image, images.size, images.channels, prepared)
        color = int.from_bytes(np.broadcast_to(shown[0, 0], 3).tobytes(), "big")
        left, top, right, bottom = center_box(image.size, *images.size)
        kept = (right - left) * (bottom - top) / (image.width * image.height)
        return Look(
            images.name_of(index) or f"image {index}",
            hashlib.blake2b(shown.tobytes(), digest_size=8).digest(),
            color if (shown == shown[0, 0]).all() else None,
            1 - kept if prepared.fit == "crop" else 0.0,
        )


def look_at(images: ImageDataset, indices: Sequence[int], num_workers: int = 0) -> list[Look]:
    """Read some images of a split.

    Raises:
        FileError: if a file is damaged.
    """
    batches = batches_of(
        _Seen(images), num_workers, batch_size=32, sampler=indices, collate_fn=list
    )
    looks = []
    with progress_bar("looking", len(indices), unit="image") as bar:
        for batch in batches:
            looks += batch
            bar.update(len(batch))
    return looks


def evenly(count: int, most: int) -> list[int]:
    """Choose at most `most` of the indices below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round()).astype(int).tolist()


def problems_of_classes(train: ImageDataset) -> list[str]:
    """Name the classes that have few training images or none, or names like those of others."""
    counts = class_counts(train)
    problems = []
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEW]
    if few:
        problems.append(f"classes with fewer than {FEW} training images: {named(few)}")
    if isinstance(train.source.items, FileImages) and len(counts) > 1 and train.source.class_names:
        empty = [name for name in folders_in(Path(train.source.root)) if name not in counts]
        if empty:
            problems.append(f"folders without images: {named(empty)}")
        # An accent is one character or two, depending on the system where it was typed.
        folded = ((normalize("NFKC", name).casefold().strip(), name) for name in counts)
        alike = [" = ".join(map(repr, names)) for names in repeated(folded)]
        if alike:
            problems.append(f"classes whose names look alike: {named(alike)}")
    return problems


def class_counts(images: ImageDataset) -> dict[str, int]:
    """Count the images of each class; one with several findings counts for each of them."""
    labels = np.asarray(images.source.items.labels)
    names = images.class_names
    if labels.ndim == 2:
        return dict(zip(names, [*labels.sum(0).tolist(), int((~labels.any(1)).sum())], strict=True))
    return dict(zip(names, np.bincount(labels.ravel(), minlength=len(names)).tolist(), strict=True))


def problems_of_pixels(images: ImageDataset, looks: Sequence[Look]) -> list[str]:
    """Name images of one color, and images that the crop cuts."""
    problems = []
    for color in sorted({look.color for look in looks if look.color is not None}):
        names = [look.name for look in looks if look.color == color]
        text = f"{len(names)} all {COLORS.get(color, f'#{color:06x}')}: {named(names)}"
        hidden = sum(_differs_on_black(images, name) for name in names)
        if hidden:
            text += f" ({hidden} drawn on transparent ground: another `background` shows them)"
        problems.append(text)
    cut = [look.name for look in looks if look.cut > CUT]
    if cut:
        problems.append(
            f"{len(cut)} lose more than {CUT:.0%} to the crop (`fit` pad keeps all): {named(cut)}"
        )
    return problems


def _differs_on_black(images: ImageDataset, name: str) -> bool:
    """Whether a file is transparent in places, and shows something before black or white."""
    if not isinstance(images.source.items, FileImages):
        return False
    path = Path(images.source.root) / name
    shown = [load_image(path, page).convert("RGB") for page in ("black", "white")]
    extremes = [image.convert("L").getextrema() for image in shown]
    return shown[0] != shown[1] and any(low != high for low, high in extremes)


def repeated(groups: Iterable[tuple[object, str]]) -> list[list[str]]:
    """Return the names that share a key, as lists of two or more; groups are (key, name)."""
    found = defaultdict(list)
    for key, name in groups:
        found[key].append(name)
    return [names for names in found.values() if len(names) > 1]


def problems_of_copies(train: Sequence[Look], validation: Sequence[Look]) -> list[str]:
    """Name images with equal pixels, within the training images and across both splits."""
    pairs = [(look.digest, look.name) for look in train if look.color is None]
    groups = repeated(pairs)
    problems = []
    if groups:
        extra = sum(len(group) - 1 for group in groups)
        shown = named((" = ".join(group[:2]) for group in groups), PAIRS_SHOWN)
        problems.append(f"training images that repeat others ({extra}): {shown}")
    known = dict(pairs)
    twins = [f"{known[one.digest]} = {one.name}" for one in validation if one.digest in known]
    if twins:
        problems.append(
            f"validation images that are also training images ({len(twins)}): "
            f"{named(twins, PAIRS_SHOWN)}; the validation loss is too low"
        )
    return problems


def problems_of_files(train: ImageDataset, validation: ImageDataset) -> list[str]:
    """Say how many files are equal; of many files of equal size only some are compared."""
    items = [one.source.items for one in (train, validation)]
    paths = [path for one in items if isinstance(one, FileImages) for path in one.paths]
    sizes = [os.stat(path).st_size for path in paths]  # noqa: PTH116 (a million Paths are slow)
    common = {size for size, count in Counter(sizes).items() if count > 1}
    alike = [path for path, size in zip(paths, sizes, strict=True) if size in common]
    keys = ((hashlib.sha256(Path(path).read_bytes()).digest(), path) for path in alike)
    groups = repeated(keys) if len(alike) <= MOST_COMPARED else []
    extra = sum(len(group) - 1 for group in groups)
    return [f"files that repeat others: {extra}"] if extra else []
