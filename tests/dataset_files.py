"""Tiny datasets in the formats of the real ones, to be read by the real libraries.

Every class has one color (or gray level), so that an image tells which class it is. `write_<name>`
writes `per_class` images of each class to train on and one to validate on, at the size of the real
images, into the layout of the real files. Splits that must not be used are white.

The names of the classes and how a format stores them stand here a second time on purpose: they are
what the readers are tested against.
"""

import gzip
import io
import math
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Color = tuple[int, ...]


def _words(text: str) -> list[str]:
    return text.split()


DIGITS = list("0123456789")
CIFAR10 = _words("airplane automobile bird cat deer dog frog horse ship truck")
CIFAR100 = [f"thing {37 * label % 100:02d}" for label in range(100)]
CLOTHES = [
    *_words("T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag"),
    "Ankle boot",
]
FRUIT = ["apple", "pear", "plum"]
SCENES = [f"{'abc'[label // 122]}-scene/{label:03d}" for label in range(365)]
SYNSETS = [f"n{10_000_000 + 17 * label}" for label in range(1000)]  # in the order of the classes
TEXTURES = _words("""
    banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted
    fibrous flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined
    marbled matted meshed paisley perforated pitted pleated polka-dotted porous potholed scaly
    smeared spiralled sprinkled stained stratified striped studded swirly veined waffled woven
    wrinkled zigzagged""")
CELEBA_ATTRIBUTES = _words("""
    5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
    Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
    Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
    Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie
    Young""")


def trust_tiny_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept checksums and sample counts that are not those of the real datasets."""
    import torchvision

    from data import medmnist_files

    monkeypatch.setattr(torchvision.datasets.utils, "check_md5", lambda *_, **__: True)
    monkeypatch.setattr(medmnist_files, "is_official", lambda *_: True)


def class_names(name: str) -> list[str]:
    """Names of the classes of a dataset in the order of its labels."""
    if name.endswith("mnist") and name not in ("mnist", "fashionmnist"):
        import medmnist

        label = medmnist.INFO[name]["label"]
        names = [label[str(index)] for index in range(len(label))]
        return [*names, "no finding"] if name == "chestmnist" else names
    if name == "imagenet":
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return {
        "mnist": DIGITS,
        "fashionmnist": CLOTHES,
        "cifar10": CIFAR10,
        "cifar100": CIFAR100,
        "svhn": DIGITS,
        "places365": SCENES,
        "dtd": TEXTURES,
        "tinyimagenet": [f"creature {label}" for label in range(200)],
        "celeba": ["female", "male"],
        "folder": FRUIT,
    }[name]


def palette(num_classes: int, channels: int) -> list[Color]:
    """Colors that differ by at least 16 levels in a channel, none of them near white."""
    if channels == 1:
        return [(8 + 224 * label // max(1, num_classes - 1),) for label in range(num_classes)]
    base = math.ceil(round(num_classes ** (1 / 3), 6))
    levels = [10 + 220 * step // max(1, base - 1) for step in range(base)]
    return [
        (levels[label % base], levels[label // base % base], levels[label // base**2])
        for label in range(num_classes)
    ]


def is_of_class(pixels: Any, names: Sequence[str], channels: int, name: str) -> bool:
    """Whether an image uint8 (C, H, W) has, of all colors, that of the class `name`."""
    mean = np.asarray(pixels).reshape(channels, -1).mean(axis=1)
    distances = np.abs(np.array(palette(len(names), channels)) - mean).max(axis=1)
    return distances.min() < 8 and names[int(distances.argmin())] == name


def write_mnist(folder: Path, per_class: int = 2) -> None:
    _write_idx(folder / "MNIST" / "raw", per_class)


def write_fashionmnist(folder: Path, per_class: int = 2) -> None:
    _write_idx(folder / "FashionMNIST" / "raw", per_class)


def write_cifar10(folder: Path, per_class: int = 2) -> None:
    target = _make(folder / "cifar-10-batches-py")
    _dump(target / "batches.meta", {"num_cases_per_batch": 10000, "label_names": CIFAR10})
    images, labels = _arrays(10, 3, 32, per_class)
    for part in range(5):
        chosen = slice(part, None, 5)
        _dump_cifar(target / f"data_batch_{part + 1}", images[chosen], labels=labels[chosen])
    images, labels = _arrays(10, 3, 32, 1)
    _dump_cifar(target / "test_batch", images, labels=labels)


def write_cifar100(folder: Path, per_class: int = 2) -> None:
    target = _make(folder / "cifar-100-python")
    coarse_names = [f"group {label}" for label in range(20)]
    _dump(target / "meta", {"fine_label_names": CIFAR100, "coarse_label_names": coarse_names})
    for split, count in (("train", per_class), ("test", 1)):
        images, labels = _arrays(100, 3, 32, count)
        _dump_cifar(target / split, images, coarse_labels=labels // 5, fine_labels=labels)


def write_svhn(folder: Path, per_class: int = 2) -> None:
    from scipy.io import savemat

    for split, count in (("train", per_class), ("test", 1)):
        images, labels = _arrays(10, 3, 32, count)
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)  # the digit 0 is class 10
        target = _make(folder) / f"{split}_32x32.mat"
        savemat(target, {"X": images.transpose(1, 2, 3, 0), "y": stored[:, None]})


def write_places365(folder: Path, per_class: int = 2) -> None:
    _make(folder)
    paths = [f"/{name[0]}/{name}" for name in SCENES]  # below their initials
    categories = [f"{path} {label}" for label, path in enumerate(paths)]
    (folder / "categories_places365.txt").write_text("\n".join(categories) + "\n")
    encoded = [_jpeg(color, 256, 256) for color in palette(365, 3)]
    train: list[str] = []
    val: list[str] = []
    for label in _shuffled(range(365)):
        for number in range(per_class):
            name = f"{paths[label]}/{number + 1:08d}.jpg"
            _put(folder / f"data_256_standard{name}", encoded[label])
            train.append(f"{name} {label}\n")
        name = f"Places365_val_{len(val) + 1:08d}.jpg"
        _put(folder / "val_256" / name, encoded[label])
        val.append(f"{name} {label}\n")
    (folder / "places365_train_standard.txt").write_text("".join(train))
    (folder / "places365_val.txt").write_text("".join(val))


def write_dtd(folder: Path, per_class: int = 2) -> None:
    home = folder / "dtd" / "dtd"
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for texture, color in zip(TEXTURES, palette(47, 3), strict=True):
        splits = ["train"] * per_class + ["val", "test"]
        for number, split in enumerate(splits):
            name = f"{texture}/{texture}_{number + 1:04d}.jpg"
            shown = (255, 255, 255) if split == "test" else color
            _put(home / "images" / name, _jpeg(shown, 320, 300))
            lists[split].append(name + "\n")
    for split, names in lists.items():
        _put(home / "labels" / f"{split}1.txt", "".join(names).encode())
        _put(home / "labels" / f"{split}2.txt", "".join(lists["test"]).encode())


def write_tinyimagenet(folder: Path, per_class: int = 2) -> None:
    home = folder / "tiny-imagenet-200"
    wnids = SYNSETS[:200]
    _put(home / "wnids.txt", "\n".join(_shuffled(wnids)).encode())
    words = [f"{wnid}\tcreature {label}, beast" for label, wnid in enumerate(wnids)]
    _put(home / "words.txt", "\n".join([*words, "n99999999\tentity"]).encode())
    annotations = []
    for number, label in enumerate(_shuffled(range(200))):
        wnid, image = wnids[label], _jpeg(palette(200, 3)[label], 64, 64)
        for copy in range(per_class):
            _put(home / "train" / wnid / "images" / f"{wnid}_{copy}.JPEG", image)
        _put(home / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t63\t63\n".encode())
        _put(home / "val" / "images" / f"val_{number}.JPEG", image)
        annotations.append(f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    _put(home / "val" / "val_annotations.txt", "".join(annotations).encode())
    _put(home / "test" / "images" / "test_0.JPEG", _jpeg((255, 255, 255), 64, 64))


def write_imagenet(folder: Path, per_class: int = 2) -> None:
    for label, wnid, image in _imagenet_images():
        for number in range(per_class):
            _put(folder / "train" / wnid / f"{wnid}_{number}.JPEG", image)
        name = f"ILSVRC2012_val_{_validation_number(label):08d}.JPEG"
        _put(folder / "val" / wnid / name, image)


def write_imagenet_archives(folder: Path, per_class: int = 1) -> None:
    """The three files that image-net.org hands out."""
    from scipy.io import savemat

    _make(folder)
    identifiers = list(_shuffled(range(1, 1001)))  # the devkit's ids are not in the order of wnids
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    rows = [(identifiers[i], wnid, f"{wnid}, thing", "", 0) for i, wnid in enumerate(SYNSETS)]
    rows.append((1001, "n00001740", "entity", "", 7))
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, [(field, object) for field in fields])})
    truth = [0] * 1000
    images = list(_imagenet_images())
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
        for _, wnid, image in images:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number in range(per_class):
                    _add(tar, f"{wnid}_{number}.JPEG", image)
            _add(train, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as val:
        for label, _, image in images:
            number = _validation_number(label)
            truth[number - 1] = identifiers[label]
            _add(val, f"ILSVRC2012_val_{number:08d}.JPEG", image)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as devkit:
        data = "ILSVRC2012_devkit_t12/data"
        _add(devkit, f"{data}/meta.mat", meta.getvalue())
        lines = "".join(f"{identifier}\n" for identifier in truth)
        _add(devkit, f"{data}/ILSVRC2012_validation_ground_truth.txt", lines.encode())


def write_celeba(folder: Path, per_class: int = 2) -> None:
    home = folder / "celeba"
    faces = [(male, 0) for male in _shuffled([0, 1] * per_class)] + [(1, 1), (0, 1), (0, 2), (1, 2)]
    lists: dict[str, list[str]] = {
        "list_attr_celeba.txt": [str(len(faces)), " ".join(CELEBA_ATTRIBUTES) + " "],
        "list_bbox_celeba.txt": [str(len(faces)), "image_id x_1 y_1 width height"],
        "list_landmarks_align_celeba.txt": [
            str(len(faces)),
            "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y "
            "rightmouth_x rightmouth_y",
        ],
        "identity_CelebA.txt": [],
        "list_eval_partition.txt": [],
    }
    for number, (male, partition) in enumerate(faces, start=1):
        name = f"{number:06d}.jpg"
        color = (255, 255, 255) if partition == 2 else palette(2, 3)[male]
        _put(home / "img_align_celeba" / name, _jpeg(color, 178, 218))
        values = [1 if (number + place) % 2 else -1 for place in range(40)]
        values[CELEBA_ATTRIBUTES.index("Male")] = 1 if male else -1
        attributes = " ".join(f"{value:2d}" for value in values)
        lists["list_attr_celeba.txt"].append(f"{name} {attributes}")
        lists["list_bbox_celeba.txt"].append(f"{name}    95  71 226 313")
        lists["list_landmarks_align_celeba.txt"].append(f"{name}{'  69' * 10}")
        lists["identity_CelebA.txt"].append(f"{name} {number}")
        lists["list_eval_partition.txt"].append(f"{name} {partition}")
    for name, lines in lists.items():
        _put(home / name, ("\n".join(lines) + "\n").encode())


def write_folder(folder: Path, per_class: int = 2) -> None:
    """Sub-folders of some depth, in several file formats; one image is held out."""
    formats = ("png", "jpg", "webp", "bmp", "tiff")
    for fruit, color in zip(FRUIT, palette(3, 3), strict=True):
        for number in range(per_class + 1):
            place = _make(folder / fruit / f"crate {number % 2}")
            _solid(color, 90, 70).save(place / f"{number}.{formats[number % len(formats)]}")


def write_medmnist(name: str, folder: Path, per_class: int = 2, size: int = 28) -> None:
    """One .npz file; the test split, which nobody may use, is white."""
    channels = 3 if name in ("bloodmnist", "dermamnist", "retinamnist") else 1
    names = class_names(name)
    arrays: dict[str, Any] = {}
    for split, count in (("train", per_class), ("val", 1), ("test", 1)):
        images, labels = _arrays(len(names), channels, size, count)
        if name == "chestmnist":
            labels = np.eye(15, dtype=np.uint8)[labels, :14]  # the last class has no finding
        images = np.full_like(images, 255) if split == "test" else images
        arrays[f"{split}_images"] = images if channels == 3 else images[..., 0]
        arrays[f"{split}_labels"] = labels.astype(np.uint8).reshape(len(images), -1)
    np.savez(_make(folder) / f"{name}{'' if size == 28 else f'_{size}'}.npz", **arrays)


def _medmnist_writer(name: str) -> Callable[..., None]:
    def write(folder: Path, per_class: int = 2) -> None:
        write_medmnist(name, folder, per_class)

    return write


write_bloodmnist = _medmnist_writer("bloodmnist")
write_chestmnist = _medmnist_writer("chestmnist")
write_dermamnist = _medmnist_writer("dermamnist")
write_octmnist = _medmnist_writer("octmnist")
write_pneumoniamnist = _medmnist_writer("pneumoniamnist")
write_retinamnist = _medmnist_writer("retinamnist")
write_tissuemnist = _medmnist_writer("tissuemnist")

WRITERS: dict[str, Callable[..., None]] = {
    "mnist": write_mnist,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "places365": write_places365,
    "dtd": write_dtd,
    "fashionmnist": write_fashionmnist,
    "chestmnist": write_chestmnist,
    "bloodmnist": write_bloodmnist,
    "dermamnist": write_dermamnist,
    "octmnist": write_octmnist,
    "tissuemnist": write_tissuemnist,
    "pneumoniamnist": write_pneumoniamnist,
    "retinamnist": write_retinamnist,
    "svhn": write_svhn,
    "tinyimagenet": write_tinyimagenet,
    "imagenet": write_imagenet,
    "celeba": write_celeba,
    "folder": write_folder,
}


def copy_read_only(source: Path, target: Path) -> Path:
    """A copy of a folder that refuses to be written to (unless by root, whom nothing stops)."""
    shutil.copytree(source, target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return target


def _arrays(
    num_classes: int, channels: int, size: int, per_class: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, size, size, C) and labels int64 (N,), in no particular order."""
    labels = np.array(_shuffled(list(range(num_classes)) * per_class))
    colors = np.array(palette(num_classes, channels), np.uint8)[labels]  # (N, C)
    return colors[:, None, None].repeat(size, axis=1).repeat(size, axis=2), labels


def _shuffled(values: Sequence[Any]) -> list[Any]:
    return [values[i] for i in np.random.default_rng(0).permutation(len(values))]


def _write_idx(folder: Path, per_class: int) -> None:
    for split, count in (("train", per_class), ("t10k", 1)):
        images, labels = _arrays(10, 1, 28, count)
        head = struct.pack(">4i", 0x803, len(images), 28, 28)
        _put_gz(folder / f"{split}-images-idx3-ubyte.gz", head + images.tobytes())
        head = struct.pack(">2i", 0x801, len(labels))
        _put_gz(folder / f"{split}-labels-idx1-ubyte.gz", head + labels.astype(np.uint8).tobytes())


def _dump_cifar(path: Path, images: np.ndarray, **labels: np.ndarray) -> None:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # (N, 3072), all red first
    names = [f"{number}.png" for number in range(len(images))]
    lists = {key: values.tolist() for key, values in labels.items()}
    _dump(path, {"batch_label": path.name, "data": rows, "filenames": names, **lists})


def _dump(path: Path, value: Any) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


def _imagenet_images() -> Iterator[tuple[int, str, bytes]]:
    for label, (wnid, color) in enumerate(zip(SYNSETS, palette(1000, 3), strict=True)):
        yield label, wnid, _jpeg(color, 500, 375) if label % 100 == 0 else _jpeg(color, 75, 100)


def _validation_number(label: int) -> int:
    """Which validation image shows a class; the official ones are not in the order of classes."""
    return 1 + 7 * label % 1000


def _solid(color: Color, width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (color[0], color[1], color[2]))


def _jpeg(color: Color, width: int, height: int) -> bytes:
    file = io.BytesIO()
    _solid(color, width, height).save(file, "JPEG", quality=95)
    return file.getvalue()


def _put(path: Path, content: bytes) -> None:
    _make(path.parent)
    path.write_bytes(content)


def _put_gz(path: Path, content: bytes) -> None:
    _put(path, gzip.compress(content))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
