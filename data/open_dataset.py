"""Opens datasets and fetches what is missing."""

import logging
from pathlib import Path

from data import download as downloads
from data.datasets import DATASETS
from data.file_names import medmnist_file
from data.images import FileImages, ImageDataset, Source
from data.spec import AS_IT_IS, VIEWS, DatasetSpec, Preparation, Reader, Split
from data.token_set import wrong_label
from data.tree import is_litter, list_folder
from utils.errors import FileError, UserError, counted, named, one_line
from utils.size import WrittenSize, size_of

log = logging.getLogger(__name__)


def open_dataset(
    name: str,
    split: Split,
    data_dir: Path,
    size: WrittenSize | None = None,
    download: bool = True,
    notes: Path | None = None,
    preparation: Preparation = AS_IT_IS,
) -> ImageDataset:
    """Open a split of a dataset.

    Args:
        name: a key of DATASETS.
        split: "train" or "validation".
        data_dir: the data folder, in the layout of the libraries; may be read-only if it is
            complete.
        size: height and width of the images in pixels, one number for squares; None for the
            dataset's own size.
        download: whether missing files may be fetched.
        notes: folder for notes of checked images, so that a later start does not check them again;
            None keeps no notes.
        preparation: how the images are shown.

    Raises:
        UserError: if the files are missing or damaged and cannot be fetched.
    """
    spec = DATASETS[name]
    wanted = size_of(size or spec.size)
    place = (data_dir.expanduser(), spec.splits[split], max(wanted))
    source = _open_or_fetch(spec, spec.reader.load(notes), *place, download)
    classes = spec.classes or source.class_names
    if spec.num_classes not in (None, len(classes)):
        raise UserError(
            f"{data_dir} has {counted(len(classes), 'class')} of {name} instead of "
            f"{spec.num_classes}; `dataset` folder takes any folder of images"
        )
    _check_labels(source, len(classes))
    flips, copies = VIEWS[preparation.flips or spec.flips], 1 + preparation.augment
    if split != "train":
        flips = copies = 1
    if isinstance(source.items, FileImages):
        source.items.page = preparation.background
    return ImageDataset(source, classes, spec.channels, wanted, flips, copies, preparation)


def known_classes(spec: DatasetSpec) -> tuple[str, ...]:
    """Return the names of the classes of a dataset whose files are not here; empty if unknown."""
    return spec.classes or getattr(spec.reader.load(), "classes", ())


def fetch_dataset(name: str, data_dir: Path, size: WrittenSize | None = None) -> Path:
    """Fetch the missing files of both splits, so that a later job needs no network.

    Returns:
        The folder of the files.

    Raises:
        UserError: as `open_dataset`.
    """
    folder = open_dataset(name, "train", data_dir, size).source.root
    open_dataset(name, "validation", data_dir, size)
    return folder


def _open_or_fetch(
    spec: DatasetSpec, reader: Reader, root: Path, split: str, size: int, may_fetch: bool
) -> Source:
    """Open a split; if files are missing, fetch them and open it again."""
    by_hand = _by_hand(spec, root, size)
    try:
        return _open(spec, reader, root, split, size)
    except FileNotFoundError as error:
        problem = f"cannot open {spec.name}: {_reason(error)}"
        if not may_fetch:
            raise UserError(f"{problem}; run `download_only` first, {by_hand}") from error
    log.info("%s", problem)
    try:
        downloads.fetch(spec, root, split, size)
        return _open(spec, reader, root, split, size)
    except FileNotFoundError as error:
        raise UserError(f"cannot open {spec.name}: {_reason(error)}; {by_hand}") from error
    except downloads.FetchError as error:
        raise UserError(f"{problem}; cannot fetch {spec.name}: {error}; {by_hand}") from error


def _open(spec: DatasetSpec, reader: Reader, root: Path, split: str, size: int) -> Source:
    """Open a split.

    Raises:
        FileNotFoundError: if files are missing.
        UserError: for anything else.
    """
    try:
        return reader.open(root, split, size)
    except FileNotFoundError:
        raise
    except FileError as error:
        raise UserError(f"cannot open {spec.name}: {error}") from error
    except UserError:
        raise
    except Exception as error:  # readers name the file; for other errors name the dataset
        raise UserError(f"cannot open {spec.name} in {root}: {one_line(error)}") from error


def _check_labels(source: Source, num_classes: int) -> None:
    """Refuse labels that do not match the images or the classes.

    Raises:
        UserError: naming a label and the number of classes.
    """
    labels, count, file = source.items.labels, len(source.items), source.labels_from
    if len(labels) != count:
        raise UserError(f"{file} has {counted(len(labels), 'label')} for {counted(count, 'image')}")
    wrong = wrong_label(labels, num_classes)
    if wrong:
        raise UserError(f"{file} has {wrong}")


def _reason(error: FileNotFoundError) -> str:
    """Say what is missing, and what its folder has instead."""
    if not error.filename:
        return one_line(error, length=1000)
    path = Path(error.filename)
    place = next((folder for folder in path.parents if folder.is_dir()), Path())
    names = named(entry.name for entry in list_folder(place) if not is_litter(entry.name))
    return f"{path} is missing ({place} has {names or 'no files'})"


def _by_hand(spec: DatasetSpec, root: Path, size: int) -> str:
    """Say that they may be in another folder, or where to get and put them by hand."""
    right_size = medmnist_file(spec.name, size)  # MedMNIST alone has a file for each size
    files = (right_size,) if right_size in spec.files else spec.files
    paths = ", ".join(str(root / file) for file in files)
    return f"name another `data_dir`, or by hand: from {spec.source} to {paths}"
