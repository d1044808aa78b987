"""Readers of the datasets with one file per image.

Lists and labels are read here, in the usual layouts of these datasets; data/image_file.py reads the
images. So every file gets the same care, and no file outside a dataset's own folder is read.
"""

import importlib.util
import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchvision.datasets
from torchvision.datasets.utils import check_integrity, download_and_extract_archive
from torchvision.models import ResNet50_Weights

from data.images import FileImages, Source
from data.tree import class_of, described, folders_in, is_image, list_folder, walk
from data.user_files import below, check_regular, missing, read_lines, read_table
from utils.errors import FileError, counted, named, reading

log = logging.getLogger(__name__)

CELEBA_SPLITS = {"train": "0", "valid": "1", "test": "2"}
KAGGLE_IMAGENET = "ILSVRC/Data/CLS-LOC"
TINY_IMAGENET = (
    "tiny-imagenet-200",
    "tiny-imagenet-200/tiny-imagenet-200",
    "tiny-imagenet",
    "tinyimagenet",
)
WNID = re.compile(r"n\d{8}")


class Places365:
    """Places365-Standard with images of 256 pixels.

    As torchvision has it, or the "easy" layout: places365_standard/{train,val}/<class>, where the
    scene "/c/church/indoor" is called "church-indoor".
    """

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the lists, or the folders; the scene "/a/airfield" is called "airfield"."""
        places = ("places365_standard", "places365/places365_standard")
        easy = root if root.name == places[0] else _first_with(root, places, "train")
        folder = self._folder(root, split)
        if not folder.is_dir() and easy.is_dir():
            classes = folders_in(easy / "train")  # sorted, as the official list is
            pairs = _sorted_into_classes(easy / split.removesuffix("-standard"), classes)
            names = ["/".join(name.rsplit("-", 1)) for name in classes]
            return _files(root, pairs, [], easy / "train", names)
        return self._listed(root, split)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download the lists and one split."""
        torchvision.datasets.Places365(root, split=split, small=True, download=True)

    def _folder(self, root: Path, split: str) -> Path:
        """Name the folder of a split in torchvision's layout."""
        return root / ("val_256" if split == "val" else "data_256_standard")

    def _listed(self, root: Path, split: str) -> Source:
        """Open a split in torchvision's layout."""
        theirs = torchvision.datasets.Places365
        (categories_file, md5), (list_file, list_md5) = (
            theirs._CATEGORIES_META,
            theirs._FILE_LIST_META[split],
        )
        folder = self._folder(root, split)
        lists = [root / categories_file, root / list_file]
        for file, expected in zip(lists, (md5, list_md5), strict=True):
            check_regular(file)
            if not check_integrity(file, expected):
                raise FileNotFoundError(f"{file} is damaged or not the official list")
        if not folder.is_dir():
            raise missing(folder)
        with reading(lists[0]):
            numbers = {name: int(label) for name, label in read_table(lists[0])}
        with reading(lists[1]):
            rows = [(name.lstrip("/"), int(label)) for name, label in read_table(lists[1])]
        pairs = [(below(folder, name, lists[1]), label) for name, label in rows]
        names = [name[len("/a/") :] for name in sorted(numbers, key=numbers.__getitem__)]
        return _files(root, pairs, lists, lists[1], names)


class Dtd:
    """Describable Textures, partition 1 of the official ten.

    The archive's folder dtd, with images/ and labels/, may be in dtd/ (torchvision's layout), or in
    the data folder, or be the data folder.
    """

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the split's list."""
        home = _first_with(root, ("dtd/dtd", "dtd", "."), f"labels/{split}1.txt")
        chosen = home / "labels" / f"{split}1.txt"
        names = [line.strip() for line in read_lines(chosen)]
        paths = [below(home / "images", name, chosen) for name in names]
        classes = sorted({class_of(name) for name in names})
        labels = {name: label for label, name in enumerate(classes)}
        pairs = [(p, labels[class_of(name)]) for p, name in zip(paths, names, strict=True)]
        return _files(root, pairs, [chosen], chosen, classes)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download all splits."""
        torchvision.datasets.DTD(root, download=True)


class CelebA:
    """Aligned and cropped faces; the class is the attribute Male.

    The lists are the official .txt files or Kaggle's .csv files, in celeba/ or in the data folder,
    together or in Anno/ and Eval/. The images are JPEG or PNG.
    """

    def open(self, root: Path, split: str, size: int) -> Source:
        """Read the lists of attributes and of splits: class 0 is female, 1 is male."""
        home, attributes_file, partition_file = self._lists(root)
        genders = self._genders(attributes_file)
        rows = read_table(partition_file)
        with reading(partition_file):
            partition = {name: number for name, number in rows if number in "012"}
            if partition.keys() != genders.keys():
                odd = min(partition.keys() ^ genders.keys())
                raise ValueError(f"{odd} is in only one of this file and {attributes_file.name}")
        folder = self._folder(home)
        chosen = [name for name, number in partition.items() if number == CELEBA_SPLITS[split]]
        paths = [below(folder, name, partition_file) for name in chosen]
        if paths and not Path(paths[0]).is_file() and Path(paths[0]).with_suffix(".png").is_file():
            paths = [f"{path.removesuffix('.jpg')}.png" for path in paths]
        pairs = [(path, genders[name]) for path, name in zip(paths, chosen, strict=True)]
        official = attributes_file.suffix == ".txt"
        lists = [attributes_file, partition_file]
        lists = sorted({*home.glob("*.txt"), *lists}) if official else lists
        return _files(root, pairs, lists, attributes_file)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Unpack the official archive if it is there; else download all, with the package gdown."""
        home = root / "celeba"
        archive = home / "img_align_celeba.zip"
        if archive.is_file() and (home / "list_attr_celeba.txt").is_file():
            with reading(archive), zipfile.ZipFile(archive) as packed:
                # Some archives have the images without a folder.
                packed.extractall(home if "/" in packed.namelist()[0] else home / archive.stem)
        elif importlib.util.find_spec("gdown") is None:
            raise FileNotFoundError("the download needs the package gdown: pip install gdown")
        else:
            torchvision.datasets.CelebA(root, download=True)

    def _lists(self, root: Path) -> tuple[Path, Path, Path]:
        """Find the dataset's folder, and in it the lists of attributes and of splits."""
        for home in (root / "celeba", root / "CelebA", root):
            for suffix in (".txt", ".csv"):
                for attributes, splits in (("", ""), ("Anno", "Eval")):
                    file = home / attributes / f"list_attr_celeba{suffix}"
                    if file.is_file():
                        return home, file, home / splits / f"list_eval_partition{suffix}"
        raise missing(root / "celeba" / "list_attr_celeba.txt")

    def _genders(self, file: Path) -> dict[str, int]:
        """Read the class of every image."""
        rows = read_table(file)
        with reading(file):
            if file.suffix == ".csv":
                head, *rows = rows
            else:  # the number of images; a header without a name for the first column
                (count,), head, *rows = rows
                head = ["image", *head]
                if int(count) != len(rows):
                    raise ValueError(f"it lists {len(rows)} images of {count}")
            if "Male" not in head:
                raise ValueError("it has no column Male")
            column = head.index("Male")
            values = {"-1": 0, "0": 0, "1": 1}
            return {row[0]: values[row[column]] for row in rows}

    def _folder(self, home: Path) -> Path:
        """Find the folder of images; Kaggle has it inside another folder of the same name."""
        names = ("img_align_celeba", "img_align_celeba_png")
        for folder in (place / name for name in names for place in (home, home / "Img")):
            if folder.is_dir():
                return folder / folder.name if (folder / folder.name).is_dir() else folder
        raise missing(home / names[0])


class TinyImageNet:
    """The folder tiny-imagenet-200 of Stanford's course CS231n.

    The classes are in the order of their WordNet ids (wnids). The validation images are in a list,
    or sorted into a folder per class, as many people do. With sorted images the lists of wnids and
    words may be missing; the names of the classes are then their wnids.
    """

    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    md5 = "90528d7ca1a48142e341f4ef8d21d0de"

    def open(self, root: Path, split: str, size: int) -> Source:
        """List the images of a split; the test images have no labels and are not used."""
        folder = self._folder(root)
        ids, words_file = folder / "wnids.txt", folder / "words.txt"
        annotations = folder / "val" / "val_annotations.txt"
        wnids, names = self._classes(ids, words_file)
        if split == "train" or set(folders_in(folder / "val")) & set(wnids):
            pairs = _sorted_into_classes(folder / split, wnids)
            list_file = folder / split
        else:
            images, list_file = folder / "val" / "images", annotations
            rows = read_lines(annotations)
            with reading(annotations):
                labels = {wnid: label for label, wnid in enumerate(wnids)}
                listed = [line.split("\t")[:2] for line in rows]
                pairs = [(below(images, name, list_file), labels[wnid]) for name, wnid in listed]
        lists = [file for file in (ids, words_file, annotations) if file.is_file()]
        return _files(folder, pairs, lists, list_file, names)

    def _folder(self, root: Path) -> Path:
        """Find the folder of the dataset, with the lists or at least the images."""
        home = _first_with(root, (*TINY_IMAGENET, "."), "wnids.txt")
        return home if (home / "wnids.txt").is_file() else _first_with(root, TINY_IMAGENET, "train")

    def _classes(self, ids: Path, words_file: Path) -> tuple[list[str], list[str]]:
        """Read the wnids, sorted, and the names of the classes."""
        train = ids.parent / "train"
        if not ids.is_file() and not words_file.is_file() and train.is_dir():
            wnids = [name for name in folders_in(train) if WNID.fullmatch(name)]
            if wnids:
                return wnids, wnids
        wnids = sorted(line.strip() for line in read_lines(ids))
        rows = read_lines(words_file)
        with reading(words_file):
            words = dict(line.split("\t")[:2] for line in rows)
            return wnids, [words[wnid].split(",")[0] for wnid in wnids]

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download all splits."""
        download_and_extract_archive(self.url, root, md5=self.md5)


class ImageNet:
    """ILSVRC2012: train/<wnid> and val/<wnid> in the data folder or in imagenet/ below it.

    Or Kaggle's layout: both in ILSVRC/Data/CLS-LOC, the images of val in one folder, their classes
    in LOC_val_solution.csv. The folders have no names but numbers of WordNet.
    """

    classes = tuple(ResNet50_Weights.DEFAULT.meta["categories"])

    def open(self, root: Path, split: str, size: int) -> Source:
        """List the images of a split; the classes are in the order of torchvision's weights."""
        folder, wnids = self._folder(root, split)
        # Of a part of the dataset only the numbers are known; open_dataset refuses it.
        names = self.classes if len(wnids) == len(self.classes) else wnids
        solution = self._solution(folder, root)
        if split == "val" and not _wnids(folder / "val"):
            pairs = self._listed(folder / "val", solution, wnids)
            return _files(folder, pairs, [solution], solution, names)
        pairs = _sorted_into_classes(folder / split, wnids)
        return _files(folder, pairs, [], folder / split, names)

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Unpack the official archives. They cannot be downloaded: nobody may distribute them."""
        archives = (f"ILSVRC2012_img_{split}.tar", "ILSVRC2012_devkit_t12.tar.gz")
        for folder in (root, root / "imagenet"):
            if all((folder / archive).is_file() for archive in archives):
                torchvision.datasets.ImageNet(folder, split=split)
                return
        raise FileNotFoundError(f"{' and '.join(archives)} are not in {root}")

    def _folder(self, root: Path, split: str) -> tuple[Path, list[str]]:
        """Find the folder of the splits and its classes.

        If the other split is there, its classes must be equal.
        """
        other = "val" if split == "train" else "train"
        for home in (root, root / "imagenet"):
            for folder in (home, home / KAGGLE_IMAGENET):
                wnids, others = _wnids(folder / split), _wnids(folder / other)
                if wnids and others in ([], wnids):
                    return folder, wnids
                if split == "val" and others and self._solution(folder, root).is_file():
                    return folder, others
        found = [folder for home in (root, root / "imagenet") if (folder := home / split).is_dir()]
        has = [f"; {folder} has {named(folders_in(folder)) or 'no folders'}" for folder in found]
        by_name = "; `dataset` folder reads folders of any names" if found else ""
        raise FileNotFoundError(
            f"no folders {split}/n01440764 ..., the same as in {other}, in {root}, "
            f"{root / 'imagenet'} or {KAGGLE_IMAGENET} below them; images of val that are in no "
            f"such folders need LOC_val_solution.csv{''.join(has)}{by_name}"
        )

    def _solution(self, folder: Path, root: Path) -> Path:
        """Name the list of the classes of val, in the folder or in one above it."""
        above = [f for f in (folder, *folder.parents) if f == root or root in f.parents]
        places = [place / "LOC_val_solution.csv" for place in above]
        return next((place for place in places if place.is_file()), places[0])

    def _listed(self, folder: Path, solution: Path, wnids: list[str]) -> list[tuple[str, int]]:
        """Pair the validation images with the classes that the list gives them."""
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        with reading(solution):
            _, *rows = read_table(solution)
            return [
                (below(folder, f"{name}.JPEG", solution), labels[prediction.split()[0]])
                for name, prediction in rows
            ]


def _first_with(root: Path, places: Sequence[str], mark: str) -> Path:
    """Return the first of these folders below `root` that has the file or folder `mark`.

    Returns:
        The first of all if none has it.
    """
    folders = [root / place for place in places]
    return next((folder for folder in folders if (folder / mark).exists()), folders[0])


def _sorted_into_classes(folder: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Pair the images in folders of classes with their labels.

    Args:
        folder: has a sub-folder for each class.
        classes: names of the sub-folders that are wanted, in the order of the labels.

    Raises:
        FileError: if a class has no images.
    """
    if not folder.is_dir():
        raise missing(folder)
    tree, labels = walk(folder), {name: label for label, name in enumerate(classes)}
    pairs = [
        (tree.path(name), labels[class_of(name)]) for name in tree.names if class_of(name) in labels
    ]
    empty = set(classes) - set(tree.classes)
    if empty:
        raise FileError(f"{folder} has no images of the classes {named(sorted(empty))}")
    tree.left_out["in no class", ""] += len(tree.names) - len(pairs)
    shown = f"{counted(len(labels), 'class')}, {named(classes)}{described(tree.left_out)}"
    log.info("%s: %s", folder, shown)
    return pairs


def _files(
    root: Path,
    pairs: list[tuple[str, int]],
    lists: list[Path],
    labels_from: Path,
    names: Sequence[str] = (),
) -> Source:
    """Make a source of image files from pairs of path and label.

    Args:
        root: folder of the dataset.
        pairs: one per image.
        lists: files of the names and labels.
        labels_from: the file or folder of the labels.
        names: names of the classes; empty if the table has them.
    """
    if not pairs:
        raise FileError(f"{labels_from} names no images")
    paths, labels = zip(*pairs, strict=True)
    images = FileImages(paths, np.array(labels, np.int64))
    return Source(images, root, [*lists, *images.paths], labels_from, tuple(names))


def _wnids(folder: Path) -> list[str]:
    """List the sub-folders that are named by WordNet ids and have images."""
    if not folder.is_dir():
        return []
    return [
        name
        for name in folders_in(folder)
        if WNID.fullmatch(name)
        and any(is_image(entry.name) for entry in list_folder(folder / name))
    ]
