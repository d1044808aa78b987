"""Datasets in the layouts that people have, their mistakes, and lists that lead elsewhere."""

import csv
import shutil
import sys
import zipfile
from pathlib import Path

import dataset_files as files
import pytest
import torch
from PIL import Image

from data.datasets import DATASETS
from data.open_dataset import open_dataset
from data.spec import Split
from utils.errors import UserError

SPLITS: tuple[Split, Split] = ("train", "validation")


@pytest.fixture(autouse=True)
def _trusting(monkeypatch):
    files.trust_tiny_files(monkeypatch)
    monkeypatch.setitem(sys.modules, "gdown", None)


def shown(name: str, folder: Path) -> list[int]:
    """Numbers of images of the splits; every image has the color of its class."""
    spec, names, sizes = DATASETS[name], files.class_names(name), []
    for split in SPLITS:
        images = open_dataset(name, split, folder, download=False)
        step = max(1, len(images) // 50)
        for index in range(0, len(images), step):
            pixels, label = images[index]
            assert files.is_of_class(pixels, names, spec.channels, names[int(label)])
        sizes.append(len(images))
    return sizes


def open_both(name: str, folder: Path) -> None:
    for split in SPLITS:
        open_dataset(name, split, folder)


def as_kaggle_has_celeba(folder: Path) -> None:
    files.write_celeba(folder)
    home = folder / "celeba"
    for name in ("list_attr_celeba", "list_eval_partition"):
        rows = [line.split() for line in (home / f"{name}.txt").read_text().splitlines()]
        head = ["image_id", *rows[1]] if "attr" in name else ["image_id", "partition"]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *(rows[2:] if "attr" in name else rows)])
    (folder / "img_align_celeba").mkdir()
    (home / "img_align_celeba").rename(folder / "img_align_celeba" / "img_align_celeba")
    shutil.rmtree(home)


def test_celeba_as_kaggle_has_it(tmp_path):
    as_kaggle_has_celeba(tmp_path)
    assert shown("celeba", tmp_path) == [4, 2]


def test_celeba_needs_two_of_its_lists(tmp_path):
    files.write_celeba(tmp_path)
    for name in ("identity_CelebA", "list_bbox_celeba", "list_landmarks_align_celeba"):
        (tmp_path / "celeba" / f"{name}.txt").unlink()
    assert shown("celeba", tmp_path) == [4, 2]


def test_celeba_with_its_archive_by_hand_needs_no_gdown(tmp_path):
    files.write_celeba(tmp_path)
    home = tmp_path / "celeba"
    with zipfile.ZipFile(home / "img_align_celeba.zip", "w") as archive:
        for image in sorted((home / "img_align_celeba").iterdir()):
            archive.write(image, f"img_align_celeba/{image.name}")
    shutil.rmtree(home / "img_align_celeba")
    assert len(open_dataset("celeba", "train", tmp_path)) == 4
    assert shown("celeba", tmp_path) == [4, 2]


def as_kaggle_has_imagenet(folder: Path) -> None:
    files.write_imagenet(folder / "ILSVRC" / "Data" / "CLS-LOC", per_class=1)
    val = folder / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    rows = ["ImageId,PredictionString"]
    for wnid in [path.name for path in val.iterdir()]:
        for image in list((val / wnid).iterdir()):
            rows.append(f"{image.stem},{wnid} 85 1 499 272 {wnid} 1 2 3 4 ")
            image.rename(val / image.name)
        (val / wnid).rmdir()
    (folder / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")


def test_imagenet_as_kaggle_has_it(tmp_path):
    as_kaggle_has_imagenet(tmp_path)
    assert shown("imagenet", tmp_path) == [1000, 1000]
    (tmp_path / "LOC_val_solution.csv").unlink()
    with pytest.raises(UserError, match=r"need LOC_val_solution\.csv"):
        open_dataset("imagenet", "validation", tmp_path)


def test_litter_and_empty_classes_do_not_count_in_imagenet(tmp_path):
    files.write_imagenet(tmp_path, per_class=1)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "n99999999").mkdir()
    (tmp_path / "train" / files.SYNSETS[0] / "._x.JPEG").write_bytes(b"x")
    (tmp_path / "train" / files.SYNSETS[0] / ".ipynb_checkpoints").mkdir()
    assert shown("imagenet", tmp_path) == [1000, 1000]


@pytest.mark.parametrize("below", ["", "images"])
def test_tiny_imagenet_with_sorted_validation_images(tmp_path, below):
    files.write_tinyimagenet(tmp_path, per_class=1)
    val = tmp_path / "tiny-imagenet-200" / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (val / wnid / below).mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(val / wnid / below / name)
    (val / "images").rmdir()
    (val / "val_annotations.txt").unlink()
    (val / ".DS_Store").write_bytes(b"x")
    assert shown("tinyimagenet", tmp_path) == [200, 200]


def test_litter_does_not_count_in_tiny_imagenet(tmp_path):
    files.write_tinyimagenet(tmp_path, per_class=1)
    images = tmp_path / "tiny-imagenet-200" / "train" / files.SYNSETS[0] / "images"
    (images / ".ipynb_checkpoints").mkdir()
    (images / "Thumbs.db").write_bytes(b"x")
    (images.parents[1] / "__MACOSX").mkdir()
    assert shown("tinyimagenet", tmp_path) == [200, 200]


@pytest.mark.parametrize("place", ["dtd", "."])
def test_dtd_as_its_archive_unpacks(tmp_path, place):
    files.write_dtd(tmp_path / "unpacked")
    (tmp_path / "data" / place).mkdir(parents=True)
    for part in ("images", "labels"):
        (tmp_path / "unpacked" / "dtd" / "dtd" / part).rename(tmp_path / "data" / place / part)
    assert shown("dtd", tmp_path / "data") == [94, 47]


@pytest.mark.parametrize("place", ["places365_standard", "places365/places365_standard"])
def test_places365_in_its_easy_layout(tmp_path, place):
    files.write_places365(tmp_path / "official", per_class=1)
    for split, images in (("train_standard", "data_256_standard"), ("val", "val_256")):
        listed = (tmp_path / "official" / f"places365_{split}.txt").read_text().splitlines()
        for name, label in (line.split() for line in listed):
            scene = files.SCENES[int(label)].replace("/", "-")
            image = tmp_path / "official" / images / name.lstrip("/")
            target = tmp_path / place / split.removesuffix("_standard") / scene / image.name
            target.parent.mkdir(parents=True)
            image.rename(target)
    assert shown("places365", tmp_path) == [365, 365]
    assert shown("places365", tmp_path / place) == [365, 365]
    assert open_dataset("places365", "train", tmp_path).class_names == tuple(files.SCENES)


def as_png(folder: Path) -> None:
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".png"))
        path.unlink()


@pytest.mark.parametrize(
    "place",
    ["img_align_celeba", "img_align_celeba_png", "img_align_celeba_png/img_align_celeba_png"],
)
def test_celeba_as_png(tmp_path, place):
    files.write_celeba(tmp_path)
    home = tmp_path / "celeba"
    as_png(home / "img_align_celeba")
    (home / "img_align_celeba").rename(home / "images")
    (home / place).parent.mkdir(exist_ok=True)
    (home / "images").rename(home / place)
    assert shown("celeba", tmp_path) == [4, 2]


def test_celeba_in_the_folders_of_its_authors(tmp_path):
    files.write_celeba(tmp_path)
    home = (tmp_path / "celeba").rename(tmp_path / "CelebA")
    for folder, name in (
        ("Anno", "list_attr_celeba.txt"),
        ("Eval", "list_eval_partition.txt"),
        ("Img", "img_align_celeba"),
    ):
        (home / folder).mkdir()
        (home / name).rename(home / folder / name)
    assert shown("celeba", tmp_path) == [4, 2]


@pytest.mark.parametrize("inside", ["img_align_celeba/", ""])
def test_an_archive_of_png_faces_with_or_without_a_folder(tmp_path, inside):
    files.write_celeba(tmp_path)
    home = tmp_path / "celeba"
    as_png(home / "img_align_celeba")
    with zipfile.ZipFile(home / "img_align_celeba.zip", "w") as archive:
        for image in sorted((home / "img_align_celeba").iterdir()):
            archive.write(image, f"{inside}{image.name}")
    shutil.rmtree(home / "img_align_celeba")
    assert len(open_dataset("celeba", "train", tmp_path)) == 4
    assert shown("celeba", tmp_path) == [4, 2]


def test_what_is_there_instead_is_said(tmp_path):
    files.write_celeba(tmp_path)
    home = tmp_path / "celeba"
    (home / "img_align_celeba").rename(home / "faces")
    (home / "img_align_celeba_png.7z.001").write_bytes(b"7z")
    said = r"img_align_celeba is missing \(.*celeba has faces, .*, img_align_celeba_png\.7z\.001"
    with pytest.raises(UserError, match=said):
        open_dataset("celeba", "train", tmp_path, download=False)


def test_imagenet_by_names_is_told_the_way(tmp_path):
    for split in ("train", "val"):
        for name in ("goldfish", "great white shark", "tench"):
            (tmp_path / split / name).mkdir(parents=True)
    said = "no folders train/n01440764.*train has goldfish, great white shark, tench; .*folder"
    with pytest.raises(UserError, match=said):
        open_dataset("imagenet", "train", tmp_path, download=False)


@pytest.mark.parametrize(
    "place", ["tiny-imagenet-200", "tiny-imagenet-200/tiny-imagenet-200", "tiny-imagenet", "."]
)
def test_tiny_imagenet_elsewhere(tmp_path, place):
    files.write_tinyimagenet(tmp_path / "unpacked", per_class=1)
    (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "unpacked" / "tiny-imagenet-200").rename(tmp_path / "data" / place)
    assert shown("tinyimagenet", tmp_path / "data") == [200, 200]


def test_tiny_imagenet_as_plain_folders_of_classes(tmp_path):
    files.write_tinyimagenet(tmp_path, per_class=1)
    home = tmp_path / "tiny-imagenet-200"
    for line in (home / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (home / "val" / wnid).mkdir()
        (home / "val" / "images" / name).rename(home / "val" / wnid / name)
    for wnid in files.SYNSETS[:200]:
        for image in sorted((home / "train" / wnid / "images").iterdir()):
            image.rename(home / "train" / wnid / image.name)
    for path in (*home.glob("*.txt"), *home.glob("*/*.txt")):
        path.unlink()
    assert shown("tinyimagenet", tmp_path) == [200, 200]
    assert open_dataset("tinyimagenet", "train", tmp_path).class_names == tuple(files.SYNSETS[:200])


def test_the_extra_images_of_svhn_are_not_used(tmp_path):
    files.write_svhn(tmp_path)
    shutil.copy(tmp_path / "train_32x32.mat", tmp_path / "extra_32x32.mat")
    assert shown("svhn", tmp_path) == [20, 10]
    (tmp_path / "train_32x32.mat").unlink()
    with pytest.raises(UserError, match=r"train_32x32\.mat is missing \(.* has extra_32x32\.mat"):
        open_dataset("svhn", "train", tmp_path, download=False)


def break_list(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


LISTS = {
    "tinyimagenet": ("tiny-imagenet-200/val/val_annotations.txt", "val_0.JPEG"),
    "dtd": ("dtd/dtd/labels/train1.txt", "banded/banded_0001.jpg"),
    "celeba": ("celeba/list_eval_partition.txt", "000001.jpg"),
    "places365": ("places365_val.txt", "Places365_val_00000001.jpg"),
}  # the list, and a name in it


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("elsewhere", ["../../../../secret.jpg", "/secret.jpg", "a/../../b.jpg"])
def test_lists_lead_to_nothing_outside_the_dataset(tmp_path, name, elsewhere):
    files.WRITERS[name](tmp_path, per_class=1)
    place, image = LISTS[name]
    break_list(tmp_path / place, image, elsewhere)
    if name == "celeba":
        break_list(tmp_path / "celeba" / "list_attr_celeba.txt", image, elsewhere)
    if name == "places365":
        elsewhere = elsewhere.lstrip("/")  # theirs begin with it
        if ".." not in elsewhere:
            pytest.skip("a name below the folder")
    with pytest.raises(UserError, match=f"names '{elsewhere}', which is not a file below"):
        open_both(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("celeba", ("list_attr_celeba.txt", " Male ", " Mail "), "it has no column Male"),
        ("celeba", ("list_attr_celeba.txt", "8\n", "9\n"), "it lists 8 images of 9"),
        ("celeba", ("list_eval_partition.txt", "000001.jpg 0\n", ""), "000001.jpg is in only one"),
        ("celeba", ("list_eval_partition.txt", "000001.jpg 0", "000001.jpg"), "partition.txt: "),
        ("tinyimagenet", ("words.txt", "n10000017\t", "n1\t"), "words.txt: .*'n10000017'"),
        ("tinyimagenet", ("val_annotations.txt", "\tn10000017", "\tn1"), "annotations.txt: .*'n1'"),
        ("places365", ("places365_val.txt", " 7\n", " 700\n"), "label 700, .* 0 to 364"),
        ("places365", ("places365_val.txt", " 7\n", " -1\n"), "label -1, .* 0 to 364"),
        ("places365", ("places365_val.txt", " 7\n", " seven\n"), "places365_val.txt: .*seven"),
    ],
)
def test_a_damaged_list_is_named_and_nothing_is_fetched(tmp_path, caplog, name, damage, said):
    caplog.set_level("INFO")
    files.WRITERS[name](tmp_path, per_class=2)
    place, old, new = damage
    (found,) = tmp_path.rglob(place)
    break_list(found, old, new)
    with pytest.raises(UserError, match=said) as error:
        open_both(name, tmp_path)
    assert str(found) in str(error.value)
    assert "fetching" not in caplog.text


def test_lists_that_are_no_text_are_named(tmp_path):
    files.write_dtd(tmp_path, per_class=1)
    chosen = tmp_path / "dtd" / "dtd" / "labels" / "train1.txt"
    for content, said in ((b"\xff\xfe\0\1", "utf-8"), (b"<html>\xff", "a web page")):
        chosen.write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read {chosen}: .*{said}"):
            open_dataset("dtd", "train", tmp_path, download=False)


@pytest.mark.parametrize(
    ("name", "remove", "said"),
    [
        ("celeba", "celeba/img_align_celeba", "img_align_celeba is missing"),
        ("celeba", "celeba/list_attr_celeba.txt", "list_attr_celeba.txt is missing"),
        ("celeba", "celeba/list_eval_partition.txt", "list_eval_partition.txt is missing"),
        ("tinyimagenet", "tiny-imagenet-200/words.txt", "words.txt is missing"),
        ("dtd", "dtd/dtd/labels/train1.txt", "train1.txt is missing"),
        ("places365", "categories_places365.txt", "categories_places365.txt is missing"),
        ("places365", "data_256_standard", "data_256_standard is missing"),
        ("svhn", "train_32x32.mat", "train_32x32.mat is missing"),
        ("cifar10", "cifar-10-batches-py", "cifar-10-batches-py is missing"),
        ("bloodmnist", "bloodmnist.npz", "bloodmnist.npz is missing"),
        ("mnist", "MNIST", "does not hold the four IDX files"),
        ("imagenet", "train", "no folders train/n01440764"),
    ],
)
def test_the_first_cause_stands_in_the_last_line(tmp_path, monkeypatch, name, remove, said):
    import urllib.error
    import urllib.request

    def refuse(*_, **__):
        raise urllib.error.URLError("connection refused")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    files.WRITERS[name](tmp_path, per_class=1)
    place = tmp_path / remove
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(UserError, match=said) as error:
        open_dataset(name, "train", tmp_path)
    for advice in ("download=True", "devkit is not present", "Traceback"):
        assert advice not in str(error.value)
    assert str(error.value).startswith(f"cannot open {name}: ")


def test_a_missing_image_is_found_before_anything_is_read(tmp_path):
    files.write_celeba(tmp_path)
    (tmp_path / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    images = open_dataset("celeba", "train", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"000002\.jpg"):
        _ = images.fingerprint


def test_images_of_other_programs_lists_are_the_same_as_before(tmp_path):
    """The readers keep the order of the official lists, on which token caches depend."""
    files.write_places365(tmp_path, per_class=1)
    images = open_dataset("places365", "validation", tmp_path)
    lines = (tmp_path / "places365_val.txt").read_text().splitlines()
    assert [Path(path).name for path in images.source.items.paths] == [
        line.split()[0] for line in lines
    ]
    assert torch.as_tensor(images.source.items.labels).tolist() == [
        int(line.split()[1]) for line in lines
    ]
