"""Readers of the datasets that torchvision knows, and of Tiny ImageNet.

torchvision reads the lists, splits and labels. Where every image is a file, data/images.py reads
the images, so that unusual files are treated in the same way for every dataset. Where torchvision
keeps the images in arrays, they come from torchvision.
"""

import gzip
import inspect
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torchvision.datasets
from torchvision.datasets.utils import download_and_extract_archive
from torchvision.models import ResNet50_Weights

from data.file_names import IDX_FILES
from data.images import FileImages
from data.spec import Source

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the four .gz files."""


@dataclass(frozen=True)
class Idx:
    """MNIST and datasets in its format: four IDX files in <class>/raw, gzipped or not.

    Attributes:
        name: torchvision's class.
    """

    name: str

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the arrays; gzipped files are unpacked into a temporary folder for this."""
        files = self._find(root)
        with _unpacked(files, self.name) as folder:
            items = getattr(torchvision.datasets, self.name)(folder, train=split == "train")
        return Source(items, files[0].parent, files, tuple(items.classes))

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download both splits."""
        getattr(torchvision.datasets, self.name)(root, download=True)

    def _find(self, root: Path) -> list[Path]:
        """Find the four files, in the order of IDX_FILES; plain ones before gzipped ones."""
        folders = [root / self.name / "raw"]
        if self.name == "FashionMNIST":
            folders.append(DEBIAN_FASHION_MNIST)
        for folder in folders:
            variants = [[folder / name, folder / f"{name}.gz"] for name in IDX_FILES]
            found = [path for pair in variants for path in [p for p in pair if p.is_file()][:1]]
            if len(found) == len(IDX_FILES):
                return found
        raise FileNotFoundError(f"{folders[0]} does not hold the four IDX files")


@contextmanager
def _unpacked(files: list[Path], name: str) -> Iterator[Path]:
    """Make a temporary folder with plain IDX files in torchvision's layout."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / name / "raw"
        raw.mkdir(parents=True)
        for file, plain_name in zip(files, IDX_FILES, strict=True):
            if file.suffix == ".gz":
                with gzip.open(file) as packed, (raw / plain_name).open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
            else:
                (raw / plain_name).symlink_to(file.resolve())
        yield Path(folder)


@dataclass(frozen=True)
class Torchvision:
    """A class of torchvision that keeps its images in arrays, such as CIFAR-10 and SVHN.

    Attributes:
        name: torchvision's class.
        files: pattern of the files that it reads, relative to the data folder. "{split}" in it
            stands for the name of the split.
    """

    name: str
    files: str

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the arrays; torchvision verifies the files before it trusts what is in them."""
        items = self._read(root, split)
        files = sorted(root.glob(self.files.format(split=split)))
        return Source(items, root, files, tuple(getattr(items, "classes", ())))

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download a split."""
        self._read(root, split, download=True)

    def _read(self, root: Path, split: str, **options: Any) -> Any:
        """Call torchvision's class, which takes the split by name or as `train`."""
        dataset = getattr(torchvision.datasets, self.name)
        if "train" in inspect.signature(dataset).parameters:
            return dataset(root, train=split == "train", **options)
        return dataset(root, split=split, **options)


@dataclass(frozen=True)
class Places365:
    """Places365-Standard with images of 256 pixels."""

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the lists; the scene "/a/airfield" is called "airfield"."""
        items = torchvision.datasets.Places365(root, split=split, small=True, loader=str)
        if not Path(items.images_dir).is_dir():
            raise FileNotFoundError(f"{items.images_dir} is missing")
        lists = [
            root / "categories_places365.txt",
            root / f"places365_{split.replace('-', '_')}.txt",
        ]
        names = sorted(items.class_to_idx, key=items.class_to_idx.__getitem__)
        return _files(root, items.imgs, lists, [name[len("/a/") :] for name in names])

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download the lists and one split."""
        torchvision.datasets.Places365(root, split=split, small=True, download=True)


@dataclass(frozen=True)
class Dtd:
    """Describable Textures, partition 1 of the official ten."""

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the split's list."""
        items = torchvision.datasets.DTD(root, split=split, partition=1, loader=str)
        pairs = [items[index] for index in range(len(items))]  # (path, label), as loader is str
        lists = [root / "dtd" / "dtd" / "labels" / f"{split}1.txt"]
        return _files(root, pairs, lists, items.classes)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download all splits."""
        torchvision.datasets.DTD(root, download=True)


@dataclass(frozen=True)
class CelebA:
    """Aligned and cropped faces; the class is the attribute Male."""

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the five lists: class 0 is female, 1 is male."""
        items = torchvision.datasets.CelebA(root, split=split, target_type="attr")
        folder = root / items.base_folder
        labels = items.attr[:, items.attr_names.index("Male")].tolist()
        paths = [folder / "img_align_celeba" / name for name in items.filename]
        lists = sorted(folder.glob("*.txt"))
        return _files(root, list(zip(paths, labels, strict=True)), lists)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download all splits; needs the package gdown."""
        torchvision.datasets.CelebA(root, download=True)


@dataclass(frozen=True)
class TinyImageNet:
    """The folder tiny-imagenet-200 of Stanford's course CS231n.

    The classes are in the order of their WordNet ids (wnids).
    """

    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    md5 = "90528d7ca1a48142e341f4ef8d21d0de"

    def open(self, root: Path, split: str, size: int) -> Source:
        """List the images of a split; the test images have no labels and are not used."""
        # Classes: their wnids, and for each the words that name it.
        folder = root / "tiny-imagenet-200"
        wnids = sorted((folder / "wnids.txt").read_text().split())
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        words = dict(_rows(folder / "words.txt"))
        # Images: a folder per class to train on, a list of names and classes to validate on.
        annotations = folder / "val" / "val_annotations.txt"
        if split == "train":
            places = [(folder / "train" / wnid / "images", wnid) for wnid in wnids]
            found = [(path, wnid) for place, wnid in places for path in sorted(place.iterdir())]
        else:
            found = [(folder / "val" / "images" / row[0], row[1]) for row in _rows(annotations)]
        pairs = [(path, labels[wnid]) for path, wnid in found]
        lists = [folder / "wnids.txt", folder / "words.txt", annotations]
        return _files(root, pairs, lists, [words[wnid].split(",")[0] for wnid in wnids])

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download all splits."""
        download_and_extract_archive(self.url, root, md5=self.md5)


@dataclass(frozen=True)
class ImageNet:
    """ILSVRC2012: train/<wnid> and val/<wnid> in the data folder or in imagenet/ below it."""

    def open(self, root: Path, split: str, size: int) -> Source:
        """List the images of a split; classes in the order of wnids, as torchvision's weights."""
        folder = self._folder(root, split)
        items = torchvision.datasets.ImageFolder(folder / split)
        names = ResNet50_Weights.DEFAULT.meta["categories"]
        if len(items.classes) != len(names):
            names = items.classes  # a part of the dataset: open_dataset refuses it
        return _files(folder, items.samples, [], names)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Unpack the official archives; there is no download, as nobody may pass them on."""
        archive = "ILSVRC2012_devkit_t12.tar.gz"
        folder = next((f for f in (root, root / "imagenet") if (f / archive).is_file()), root)
        torchvision.datasets.ImageNet(folder, split=split)

    def _folder(self, root: Path, split: str) -> Path:
        """Find the folder of the splits; if the other split is there, its classes must be equal."""
        other = "val" if split == "train" else "train"
        for folder in (root, root / "imagenet"):
            wnids, others = _wnids(folder / split), _wnids(folder / other)
            if wnids and others in ([], wnids):
                return folder
        raise FileNotFoundError(
            f"no folders {split}/n01440764 ..., the same as in {other}, in {root} or "
            f"{root / 'imagenet'}"
        )


def _files(
    root: Path, pairs: list[tuple[Any, int]], lists: list[Path], names: list[str] | None = None
) -> Source:
    """Make a source of image files from pairs of path and label.

    Args:
        root: folder of the dataset.
        pairs: one per image.
        lists: files that the labels come from.
        names: of the classes; None where the table has them.
    """
    if not pairs:
        raise FileNotFoundError(f"{root} has no images")
    paths, labels = zip(*pairs, strict=True)
    images = FileImages(paths, labels)
    return Source(images, root, [*lists, *images.paths], tuple(names or ()))


def _rows(path: Path) -> list[list[str]]:
    """Read the first two columns of a tab-separated file."""
    return [line.split("\t")[:2] for line in path.read_text().splitlines() if line]


def _wnids(folder: Path) -> list[str]:
    """List the names of the sub-folders that are WordNet ids."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if re.fullmatch(r"n\d{8}", p.name))
