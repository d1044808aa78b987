"""Opens datasets and fetches what is missing."""

import logging
from pathlib import Path

from data import download as downloads
from data.datasets import DATASETS
from data.file_names import medmnist_file
from data.images import ImageDataset
from data.spec import DatasetSpec, Source, Split
from utils.errors import UserError, one_line

log = logging.getLogger(__name__)


def open_dataset(
    name: str, split: Split, data_dir: Path, size: int | None = None, download: bool = True
) -> ImageDataset:
    """Open a split of a dataset.

    Args:
        name: a key of DATASETS.
        split: "train" or "validation".
        data_dir: the data folder, in the layout that the libraries use; may be read-only if all
            files are there.
        size: side of the images in pixels; the dataset's own if None.
        download: whether missing files may be fetched.

    Raises:
        UserError: if the files are missing or damaged and cannot be fetched.
    """
    spec = DATASETS[name]
    size = size or spec.size
    source = _open_or_fetch(spec, data_dir.expanduser(), spec.splits[split], size, download)
    classes = spec.classes or source.class_names
    if spec.num_classes not in (None, len(classes)):
        raise UserError(
            f"{data_dir} has {len(classes)} classes of {name} instead of {spec.num_classes}; "
            "`dataset` folder takes any folder of images"
        )
    num_views = spec.num_views if split == "train" else 1
    return ImageDataset(source, classes, spec.channels, size, num_views)


def fetch_dataset(name: str, data_dir: Path, size: int | None = None) -> None:
    """Fetch what is missing of both splits, so that a later job needs no network.

    Args:
        name: a key of DATASETS.
        data_dir: the data folder.
        size: side of the images in pixels; the dataset's own if None.

    Raises:
        UserError: as `open_dataset`.
    """
    for split in DATASETS[name].splits:
        open_dataset(name, split, data_dir, size)


def _open_or_fetch(spec: DatasetSpec, root: Path, split: str, size: int, may_fetch: bool) -> Source:
    """Open a split; where that fails, fetch it and open it again."""
    reader = spec.reader.load()
    by_hand = _by_hand(spec, root, size)
    try:
        return reader.open(root, split, size)
    except downloads.LIBRARY_ERRORS as error:
        problem = f"cannot open {spec.name}: {_reason(error)}"
        if not may_fetch:
            raise UserError(f"{problem}; run `download_only` first, or {by_hand}") from error
    log.info("%s", problem)
    downloads.fetch(spec, root, split, size, by_hand)
    try:
        return reader.open(root, split, size)
    except downloads.LIBRARY_ERRORS as error:
        raise UserError(f"cannot open {spec.name}: {_reason(error)}; {by_hand}") from error


def _reason(error: Exception) -> str:
    """What a library says, without the advice that torchvision gives to programmers."""
    return one_line(error).replace(" You can use download=True to download it", "")


def _by_hand(spec: DatasetSpec, root: Path, size: int) -> str:
    """Tell where to get the files by hand, and where to put them."""
    right_size = medmnist_file(spec.name, size)  # MedMNIST alone has a file for each size
    files = (right_size,) if right_size in spec.files else spec.files
    paths = ", ".join(str(root / file) for file in files)
    return f"by hand: from {spec.source} to {paths}"
