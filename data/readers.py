"""Readers of the datasets with images in arrays: MNIST and others in its format, CIFAR, SVHN."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets

from data.arrays import read_idx
from data.file_names import IDX_FILES
from data.images import ArrayImages, Source
from data.user_files import missing
from utils.errors import reading

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""The folder of the four .gz files of Debian's package dataset-fashion-mnist."""


@dataclass(frozen=True)
class Idx:
    """MNIST and datasets in its format: four IDX files in <class>/raw, gzipped or not."""

    name: str

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the images and labels of a split into memory."""
        files = self._find(root)
        images_file, labels_file = files[:2] if split == "train" else files[2:]
        items = ArrayImages(read_idx(images_file, 3), read_idx(labels_file, 1))
        names = getattr(torchvision.datasets, self.name).classes
        return Source(items, files[0].parent, files, labels_file, tuple(names))

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


@dataclass(frozen=True)
class Torchvision:
    """A class of torchvision that keeps its images in arrays, such as CIFAR-10 and SVHN.

    Attributes:
        files: pattern of its files, relative to the data folder. "{split}" stands for the name of
            the split.
    """

    name: str
    files: str

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the arrays; torchvision verifies the checksums of the files first."""
        files = sorted(root.glob(self.files.format(split=split)))
        place = root / self.files.format(split=split).removesuffix("/*")
        if not files:
            raise missing(place)
        with reading(place):
            try:
                items = self._read(root, split)
            except RuntimeError:  # a file is missing, or its checksum is wrong
                items = None
            images = ArrayImages(*self._arrays(items)) if items else None
        if images is None:
            raise FileNotFoundError(f"{place} is incomplete or not the official one")
        return Source(images, root, files, place, tuple(getattr(items, "classes", ())))

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download a split."""
        self._read(root, split, download=True)

    def _arrays(self, items: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the images, uint8 (N, H, W, 3), and the labels of a dataset of torchvision."""
        images = items.data if items.data.shape[-1] == 3 else items.data.transpose(0, 2, 3, 1)
        labels = np.asarray(items.labels if hasattr(items, "labels") else items.targets)
        if images.dtype != np.uint8 or labels.dtype.kind not in "iu":
            raise ValueError(f"images of type {images.dtype}, labels of type {labels.dtype}")
        return images, labels

    def _read(self, root: Path, split: str, **options: Any) -> Any:
        """Call torchvision's class, which takes the split by name or as `train`."""
        dataset = getattr(torchvision.datasets, self.name)
        if "train" in inspect.signature(dataset).parameters:
            return dataset(root, train=split == "train", **options)
        return dataset(root, split=split, **options)
