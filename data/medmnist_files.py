"""The reader of the MedMNIST datasets."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import download_url

from data.file_names import medmnist_file, medmnist_size
from data.spec import Source

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # medmnist warns where it cannot make ~/.medmnist
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
        file = root / medmnist_file(self.name.lower(), size)
        dataset = getattr(medmnist, self.name)
        items = dataset(split=split, root=root, size=medmnist_size(size))
        try:
            len(items)  # medmnist compares with the official number
        except AssertionError as error:
            raise ValueError(f"{file} does not have the official number of images") from error
        return Source(items, root, [file])

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download the file with all splits.

        medmnist's own method is not used, for it treats Ctrl-C as a failed download.
        """
        name = self.name.lower()
        file = medmnist_file(name, size)
        info = medmnist.INFO[name]
        suffix = file.removeprefix(name).removesuffix(".npz")
        download_url(info[f"url{suffix}"], root, file, info[f"MD5{suffix}"])
