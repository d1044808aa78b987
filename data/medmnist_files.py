"""The reader of the MedMNIST datasets."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets.utils import download_url

from data.arrays import read_npz
from data.file_names import medmnist_file, medmnist_size
from data.images import ArrayImages, Source

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # medmnist warns if it cannot make ~/.medmnist
    import medmnist


@dataclass(frozen=True)
class MedMNIST:
    """A dataset of MedMNIST v2: one .npz file per image size.

    Attributes:
        name: class of the package medmnist.
    """

    name: str

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read a split into memory."""
        name = self.name.lower()
        file, side = root / medmnist_file(name, size), medmnist_size(size)
        info = medmnist.INFO[name]
        findings = len(info["label"]) if info["task"] == "multi-label, binary-class" else 1
        shape = (side, side) if info["n_channels"] == 1 else (side, side, 3)
        images = read_npz(
            file,
            f"{split}_images",
            lambda s, dtype: (
                s[1:] == shape and dtype == np.uint8 and is_official(name, split, s[0])
            ),
            f"the official number of images, uint8 (N, {', '.join(map(str, shape))})",
        )
        labels = read_npz(
            file,
            f"{split}_labels",
            lambda s, dtype: s == (len(images), findings) and dtype.kind in "iu",
            f"whole numbers ({len(images)}, {findings})",
        )
        labels = labels[:, 0] if findings == 1 else labels
        return Source(ArrayImages(images, labels), root, [file], file)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download the file with all splits.

        medmnist's own method is not used, because it treats Ctrl-C as a failed download.
        """
        name = self.name.lower()
        file = medmnist_file(name, size)
        info = medmnist.INFO[name]
        suffix = file.removeprefix(name).removesuffix(".npz")
        download_url(info[f"url{suffix}"], root, file, info[f"MD5{suffix}"])


def is_official(name: str, split: str, count: int) -> bool:
    """Whether a split of a dataset officially has this number of images."""
    return bool(medmnist.INFO[name]["n_samples"][split] == count)
