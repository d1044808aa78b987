"""The table of datasets. Adding one is adding a row.

Importing this module loads neither torch nor torchvision nor medmnist: the command line reads the
table before it knows whether it has anything to do.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import download as downloads
from data import readers
from data.folder import ImageFolder
from data.spec import DatasetSpec, Source, Split
from utils.errors import UserError, one_line

if TYPE_CHECKING:
    from data.images import ImageDataset

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "documentation_table",
    "fetch_dataset",
    "open_dataset",
]

log = logging.getLogger(__name__)

MEDMNIST_SIZES = (28, 64, 128, 224)
MEDMNIST_DEFAULT = 32
"""At this size MedMNIST's original 28-pixel images are enlarged, as MNIST's are."""


@dataclass(frozen=True)
class MedMNIST:
    """A set of MedMNIST v2: one .npz file per image size.

    Attributes:
        name: medmnist's class.
    """

    name: str

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read a split into memory."""
        file = root / self.file(size)
        items = getattr(_medmnist(), self.name)(split=split, root=root, size=self.stored_size(size))
        try:
            len(items)  # medmnist compares with the official number
        except AssertionError as error:
            raise ValueError(f"{file} does not have the official number of images") from error
        return Source(items, root, [file])

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download the file with all splits.

        Not by medmnist's own method, which takes Ctrl-C for a failed download.
        """
        from torchvision.datasets.utils import download_url

        file = self.file(size)
        flag = self.name.lower()
        info = _medmnist().INFO[flag]
        suffix = file.removeprefix(flag).removesuffix(".npz")
        download_url(info[f"url{suffix}"], root, file, info[f"MD5{suffix}"])

    @staticmethod
    def stored_size(size: int) -> int:
        """The smallest stored size that need not be enlarged, at most the largest there is."""
        if size == MEDMNIST_DEFAULT:
            return MEDMNIST_SIZES[0]
        return next((stored for stored in MEDMNIST_SIZES if stored >= size), MEDMNIST_SIZES[-1])

    def file(self, size: int) -> str:
        """Name of the file for images of `size`."""
        return medmnist_files(self.name.lower())[MEDMNIST_SIZES.index(self.stored_size(size))]


def medmnist_files(flag: str) -> tuple[str, ...]:
    """Names of the files of a set, one for each of MEDMNIST_SIZES."""
    return (f"{flag}.npz", *(f"{flag}_{size}.npz" for size in MEDMNIST_SIZES[1:]))


def _medmnist() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains where it cannot make ~/.medmnist
        import medmnist
    return medmnist


IMAGENET_TERMS = "non-commercial research and education only; the images belong to their authors"
MEDMNIST_PAGE = "https://zenodo.org/records/10519652"
TRAIN_TEST: dict[Split, str] = {"train": "train", "validation": "test"}
TRAIN_VAL: dict[Split, str] = {"train": "train", "validation": "val"}

_ROWS = (
    DatasetSpec(
        name="mnist",
        reader=readers.Idx("MNIST"),
        channels=1,
        num_classes=10,
        classes=tuple("0123456789"),
        size=32,
        splits=TRAIN_TEST,
        source="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
        files=tuple(f"MNIST/raw/{name}.gz" for name in readers.IDX_FILES),
    ),
    DatasetSpec(
        name="cifar10",
        reader=readers.Torchvision("CIFAR10", "cifar-10-batches-py/*"),
        channels=3,
        num_classes=10,
        classes=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        size=32,
        splits=TRAIN_TEST,
        flips="horizontal",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; cite Krizhevsky 2009",
        files=("cifar-10-python.tar.gz",),
    ),
    DatasetSpec(
        name="cifar100",
        reader=readers.Torchvision("CIFAR100", "cifar-100-python/*"),
        channels=3,
        num_classes=100,
        size=32,
        splits=TRAIN_TEST,
        flips="horizontal",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated; cite Krizhevsky 2009",
        files=("cifar-100-python.tar.gz",),
    ),
    DatasetSpec(
        name="places365",
        reader=readers.Places365(),
        channels=3,
        num_classes=365,
        size=128,
        splits={"train": "train-standard", "validation": "val"},
        flips="horizontal",
        source="http://places2.csail.mit.edu/download.html",
        licence="non-commercial research and education only",
        files=(
            "filelist_places365-standard.tar",
            "train_256_places365standard.tar",
            "val_256.tar",
        ),
    ),
    DatasetSpec(
        name="dtd",
        reader=readers.Dtd(),
        channels=3,
        num_classes=47,
        size=128,
        splits=TRAIN_VAL,
        flips="horizontal",
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        licence="research only",
        files=("dtd/dtd-r1.0.1.tar.gz",),
    ),
    DatasetSpec(
        name="fashionmnist",
        reader=readers.Idx("FashionMNIST"),
        channels=1,
        num_classes=10,
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        size=32,
        splits=TRAIN_TEST,
        source="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        files=tuple(f"FashionMNIST/raw/{name}.gz" for name in readers.IDX_FILES),
    ),
    DatasetSpec(
        name="chestmnist",
        reader=MedMNIST("ChestMNIST"),
        channels=1,
        num_classes=15,
        classes=(
            "atelectasis",
            "cardiomegaly",
            "effusion",
            "infiltration",
            "mass",
            "nodule",
            "pneumonia",
            "pneumothorax",
            "consolidation",
            "edema",
            "emphysema",
            "fibrosis",
            "pleural",
            "hernia",
            "no finding",
        ),
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        source=MEDMNIST_PAGE,
        licence="CC BY 4.0",
        files=medmnist_files("chestmnist"),
    ),
    DatasetSpec(
        name="bloodmnist",
        reader=MedMNIST("BloodMNIST"),
        channels=3,
        num_classes=8,
        classes=(
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        flips="both",
        source=MEDMNIST_PAGE,
        licence="CC BY 4.0",
        files=medmnist_files("bloodmnist"),
    ),
    DatasetSpec(
        name="dermamnist",
        reader=MedMNIST("DermaMNIST"),
        channels=3,
        num_classes=7,
        classes=(
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        flips="both",
        source=MEDMNIST_PAGE,
        licence="CC BY-NC 4.0",
        files=medmnist_files("dermamnist"),
    ),
    DatasetSpec(
        name="octmnist",
        reader=MedMNIST("OCTMNIST"),
        channels=1,
        num_classes=4,
        classes=("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        source=MEDMNIST_PAGE,
        licence="CC BY 4.0",
        files=medmnist_files("octmnist"),
    ),
    DatasetSpec(
        name="tissuemnist",
        reader=MedMNIST("TissueMNIST"),
        channels=1,
        num_classes=8,
        classes=(
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        source=MEDMNIST_PAGE,
        licence="CC BY 4.0",
        files=medmnist_files("tissuemnist"),
    ),
    DatasetSpec(
        name="pneumoniamnist",
        reader=MedMNIST("PneumoniaMNIST"),
        channels=1,
        num_classes=2,
        classes=("normal", "pneumonia"),
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        source=MEDMNIST_PAGE,
        licence="CC BY 4.0",
        files=medmnist_files("pneumoniamnist"),
    ),
    DatasetSpec(
        name="retinamnist",
        reader=MedMNIST("RetinaMNIST"),
        channels=3,
        num_classes=5,
        classes=tuple("01234"),  # grades of diabetic retinopathy
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        flips="both",
        source=MEDMNIST_PAGE,
        licence="CC BY 4.0",
        files=medmnist_files("retinamnist"),
    ),
    DatasetSpec(
        name="svhn",
        reader=readers.Torchvision("SVHN", "{split}_32x32.mat"),
        channels=3,
        num_classes=10,
        classes=tuple("0123456789"),
        size=32,
        splits=TRAIN_TEST,
        source="http://ufldl.stanford.edu/housenumbers/",
        licence="non-commercial use only",
        files=("train_32x32.mat", "test_32x32.mat"),
    ),
    DatasetSpec(
        name="tinyimagenet",
        reader=readers.TinyImageNet(),
        channels=3,
        num_classes=200,
        size=64,
        splits=TRAIN_VAL,
        flips="horizontal",
        source="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        licence=IMAGENET_TERMS,
        files=("tiny-imagenet-200.zip",),
    ),
    DatasetSpec(
        name="imagenet",
        reader=readers.ImageNet(),
        channels=3,
        num_classes=1000,
        size=128,
        splits=TRAIN_VAL,
        flips="horizontal",
        source="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        licence=IMAGENET_TERMS,
        files=(
            "ILSVRC2012_img_train.tar",
            "ILSVRC2012_img_val.tar",
            "ILSVRC2012_devkit_t12.tar.gz",
        ),
    ),
    DatasetSpec(
        name="celeba",
        reader=readers.CelebA(),
        channels=3,
        num_classes=2,
        classes=("female", "male"),
        size=128,
        splits={"train": "train", "validation": "valid"},
        flips="horizontal",
        source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        licence="non-commercial research only",
        files=(
            "celeba/img_align_celeba.zip",
            "celeba/list_attr_celeba.txt",
            "celeba/identity_CelebA.txt",
            "celeba/list_bbox_celeba.txt",
            "celeba/list_landmarks_align_celeba.txt",
            "celeba/list_eval_partition.txt",
        ),
    ),
    DatasetSpec(
        name="folder",
        reader=ImageFolder(),
        channels=3,
        num_classes=None,
        size=64,
        splits={"train": "train", "validation": "validation"},
        flips="horizontal",
        source="your own images",
        licence="yours to know",
        files=("<class>/**/*.jpg, .png, ...",),
    ),
)
DATASETS: dict[str, DatasetSpec] = {row.name: row for row in _ROWS}


def open_dataset(
    name: str, split: Split, data_dir: Path, size: int | None = None, download: bool = True
) -> ImageDataset:
    """Open a split of a dataset.

    Args:
        name: a key of DATASETS.
        split: "train" or "validation".
        data_dir: the data folder, in the layout that the libraries use; may be read-only if all is
            there.
        size: side of the images in pixels; the dataset's own if None.
        download: whether missing files may be fetched.

    Raises:
        UserError: if the files are missing or damaged and cannot be fetched.
    """
    from data.images import ImageDataset

    spec = DATASETS[name]
    size = size or spec.size
    source = _open_or_fetch(spec, data_dir.expanduser(), spec.splits[split], size, download)
    classes = spec.classes or source.class_names
    if spec.num_classes not in (None, len(classes)):
        raise UserError(
            f"{data_dir} has {len(classes)} classes of {name} instead of {spec.num_classes}; "
            "--dataset folder takes any folder of images"
        )
    num_views = spec.num_views if split == "train" else 1
    return ImageDataset(source, classes, spec.channels, size, num_views)


def fetch_dataset(name: str, data_dir: Path, size: int | None = None) -> None:
    """Fetch what is missing of both splits, so that a later job needs no network.

    Raises:
        UserError: as `open_dataset`.
    """
    for split in DATASETS[name].splits:
        open_dataset(name, split, data_dir, size)


def documentation_table(specs: Iterable[DatasetSpec] = DATASETS.values()) -> str:
    """The table as Markdown, as docs/datasets.md shows it."""
    head = "| --dataset | classes | channels | size | views | splits | source | licence | files |"
    lines = [head, "| --- " * head.count(" |") + "|"]
    for spec in specs:
        source = f"<{spec.source}>" if "://" in spec.source else spec.source
        cells = (
            f"`{spec.name}`",
            spec.num_classes or "sub-folders, or 1",
            spec.channels,
            spec.size,
            spec.num_views,
            " / ".join(spec.splits.values()),
            source,
            spec.licence,
            ", ".join(f"`{file}`" for file in spec.files),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _open_or_fetch(spec: DatasetSpec, root: Path, split: str, size: int, may_fetch: bool) -> Source:
    by_hand = _by_hand(spec, root, size)
    try:
        return spec.reader.open(root, split, size)
    except downloads.LIBRARY_ERRORS as error:
        problem = f"cannot open {spec.name}: {_reason(error)}"
        if not may_fetch:
            raise UserError(f"{problem}; run --download_only first, or {by_hand}") from error
    log.info("%s", problem)
    downloads.fetch(spec, root, split, size, by_hand)
    try:
        return spec.reader.open(root, split, size)
    except downloads.LIBRARY_ERRORS as error:
        raise UserError(f"cannot open {spec.name}: {_reason(error)}; {by_hand}") from error


def _reason(error: Exception) -> str:
    """What a library says, without the advice that torchvision gives to programmers."""
    return one_line(error).replace(" You can use download=True to download it", "")


def _by_hand(spec: DatasetSpec, root: Path, size: int) -> str:
    """Where to get the files by hand, and where to put them."""
    files = spec.files
    if isinstance(spec.reader, MedMNIST):
        files = (spec.reader.file(size),)  # of the four that the table lists
    paths = ", ".join(str(root / file) for file in files)
    return f"by hand: from {spec.source} to {paths}"
