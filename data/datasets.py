"""The table of datasets. To add a dataset, add a row.

The command line reads the table even to print its help. So importing this module loads neither
torch, torchvision, numpy nor medmnist; each row only names its reader.
"""

from __future__ import annotations

from typing import Literal

from data.file_names import IDX_FILES, MEDMNIST_DEFAULT, medmnist_files
from data.spec import DatasetSpec, ReaderRef, Split

IMAGENET_TERMS = "non-commercial research and education only; the images belong to their authors"
MEDMNIST_PAGE = "https://zenodo.org/records/10519652"
TRAIN_TEST: dict[Split, str] = {"train": "train", "validation": "test"}
TRAIN_VAL: dict[Split, str] = {"train": "train", "validation": "val"}


def _reader(kind: str, *arguments: str) -> ReaderRef:
    """Name a reader of data/readers.py, whose images are in arrays."""
    return ReaderRef("data.readers", kind, arguments)


def _tree(kind: str) -> ReaderRef:
    """Name a reader of data/tree_readers.py, whose images are files."""
    return ReaderRef("data.tree_readers", kind)


def _names(text: str) -> tuple[str, ...]:
    """Split a text at its semicolons."""
    return tuple(text.split("; "))


def _medmnist(
    kind: str,
    channels: int,
    classes: str,
    flips: Literal["none", "both"] = "none",
    license: str = "CC BY 4.0",
) -> DatasetSpec:
    """Make the row of a MedMNIST dataset; `kind` is its class in the package medmnist."""
    name, names = kind.lower(), _names(classes)
    return DatasetSpec(
        name=name,
        reader=ReaderRef("data.medmnist_files", "MedMNIST", (kind,)),
        channels=channels,
        num_classes=len(names),
        classes=names,
        size=MEDMNIST_DEFAULT,
        splits=TRAIN_VAL,
        flips=flips,
        source=MEDMNIST_PAGE,
        license=license,
        files=medmnist_files(name),
    )


_ROWS = (
    DatasetSpec(
        name="mnist",
        reader=_reader("Idx", "MNIST"),
        channels=1,
        num_classes=10,
        classes=tuple("0123456789"),
        size=32,
        splits=TRAIN_TEST,
        source="http://yann.lecun.com/exdb/mnist/",
        license="CC BY-SA 3.0",
        files=tuple(f"MNIST/raw/{name}.gz" for name in IDX_FILES),
    ),
    DatasetSpec(
        name="cifar10",
        reader=_reader("Torchvision", "CIFAR10", "cifar-10-batches-py/*"),
        channels=3,
        num_classes=10,
        classes=_names("airplane; automobile; bird; cat; deer; dog; frog; horse; ship; truck"),
        size=32,
        splits=TRAIN_TEST,
        flips="horizontal",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="none stated; cite Krizhevsky 2009",
        files=("cifar-10-python.tar.gz",),
    ),
    DatasetSpec(
        name="cifar100",
        reader=_reader("Torchvision", "CIFAR100", "cifar-100-python/*"),
        channels=3,
        num_classes=100,
        size=32,
        splits=TRAIN_TEST,
        flips="horizontal",
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="none stated; cite Krizhevsky 2009",
        files=("cifar-100-python.tar.gz",),
    ),
    DatasetSpec(
        name="places365",
        reader=_tree("Places365"),
        channels=3,
        num_classes=365,
        size=128,
        splits={"train": "train-standard", "validation": "val"},
        flips="horizontal",
        source="http://places2.csail.mit.edu/download.html",
        license="non-commercial research and education only",
        files=(
            "filelist_places365-standard.tar",
            "train_256_places365standard.tar",
            "val_256.tar",
        ),
    ),
    DatasetSpec(
        name="dtd",
        reader=_tree("Dtd"),
        channels=3,
        num_classes=47,
        size=128,
        splits=TRAIN_VAL,
        flips="horizontal",
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        license="research only",
        files=("dtd/dtd-r1.0.1.tar.gz",),
    ),
    DatasetSpec(
        name="fashionmnist",
        reader=_reader("Idx", "FashionMNIST"),
        channels=1,
        num_classes=10,
        classes=_names(
            "T-shirt/top; Trouser; Pullover; Dress; Coat; Sandal; Shirt; Sneaker; Bag; Ankle boot"
        ),
        size=32,
        splits=TRAIN_TEST,
        source="https://github.com/zalandoresearch/fashion-mnist",
        license="MIT",
        files=tuple(f"FashionMNIST/raw/{name}.gz" for name in IDX_FILES),
    ),
    _medmnist(
        "ChestMNIST",
        1,
        "atelectasis; cardiomegaly; effusion; infiltration; mass; nodule; pneumonia; pneumothorax; "
        "consolidation; edema; emphysema; fibrosis; pleural; hernia; no finding",
    ),
    _medmnist(
        "BloodMNIST",
        3,
        "basophil; eosinophil; erythroblast; "
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes); lymphocyte; "
        "monocyte; neutrophil; platelet",
        flips="both",
    ),
    _medmnist(
        "DermaMNIST",
        3,
        "actinic keratoses and intraepithelial carcinoma; basal cell carcinoma; "
        "benign keratosis-like lesions; dermatofibroma; melanoma; melanocytic nevi; "
        "vascular lesions",
        flips="both",
        license="CC BY-NC 4.0",
    ),
    _medmnist(
        "OCTMNIST", 1, "choroidal neovascularization; diabetic macular edema; drusen; normal"
    ),
    _medmnist(
        "TissueMNIST",
        1,
        "Collecting Duct, Connecting Tubule; Distal Convoluted Tubule; "
        "Glomerular endothelial cells; Interstitial endothelial cells; Leukocytes; Podocytes; "
        "Proximal Tubule Segments; Thick Ascending Limb",
    ),
    _medmnist("PneumoniaMNIST", 1, "normal; pneumonia"),
    _medmnist("RetinaMNIST", 3, "0; 1; 2; 3; 4", flips="both"),  # grades of diabetic retinopathy
    DatasetSpec(
        name="svhn",
        reader=_reader("Torchvision", "SVHN", "{split}_32x32.mat"),
        channels=3,
        num_classes=10,
        classes=tuple("0123456789"),
        size=32,
        splits=TRAIN_TEST,
        source="http://ufldl.stanford.edu/housenumbers/",
        license="non-commercial use only",
        files=("train_32x32.mat", "test_32x32.mat"),
    ),
    DatasetSpec(
        name="tinyimagenet",
        reader=_tree("TinyImageNet"),
        channels=3,
        num_classes=200,
        size=64,
        splits=TRAIN_VAL,
        flips="horizontal",
        source="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        license=IMAGENET_TERMS,
        files=("tiny-imagenet-200.zip",),
    ),
    DatasetSpec(
        name="imagenet",
        reader=_tree("ImageNet"),
        channels=3,
        num_classes=1000,
        size=128,
        splits=TRAIN_VAL,
        flips="horizontal",
        source="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        license=IMAGENET_TERMS,
        files=(
            "ILSVRC2012_img_train.tar",
            "ILSVRC2012_img_val.tar",
            "ILSVRC2012_devkit_t12.tar.gz",
        ),
    ),
    DatasetSpec(
        name="celeba",
        reader=_tree("CelebA"),
        channels=3,
        num_classes=2,
        classes=("female", "male"),
        size=128,
        splits={"train": "train", "validation": "valid"},
        flips="horizontal",
        source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        license="non-commercial research only",
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
        reader=ReaderRef("data.folder", "ImageFolder", takes_notes=True),
        channels=3,
        num_classes=None,
        size=64,
        splits={"train": "train", "validation": "validation"},
        flips="horizontal",
        source="your own images",
        license="yours to know",
        files=("<class>/**/*.jpg, .png, ...",),
    ),
)
OWN_IMAGES = "folder"  # name of the row for a user's own images
DATASETS: dict[str, DatasetSpec] = {row.name: row for row in _ROWS}
