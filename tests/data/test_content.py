"""What tells the images of a split from others, wherever they are."""

import gzip
import os
import shutil

import numpy as np
import pytest
from conftest import write_idx
from PIL import Image

import data.content
from data.content import content_of, digest_of, in_order
from data.open_dataset import open_dataset


@pytest.fixture
def folder(tmp_path):
    """Two classes of four images to train on and one to validate on."""
    for split, count in (("train", 4), ("val", 1)):
        for level, name in enumerate(("a2", "a10")):
            for number in range(count):
                path = tmp_path / "x" / split / name / f"{number}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (9, 7), (40 * level, number, 0)).save(path)
    return tmp_path / "x"


def content(folder, dataset="folder"):
    return content_of(open_dataset(dataset, "train", folder, 8, download=False))


def test_a_copy_at_another_place_and_time_is_the_same(folder, tmp_path):
    before = content(folder)
    moved = shutil.copytree(folder, tmp_path / "y" / "z", copy_function=shutil.copyfile)
    os.utime(moved / "train" / "a2" / "0.bmp", (0, 0))
    assert content(moved) == before
    (tmp_path / "link").symlink_to(folder)
    assert content(tmp_path / "link") == before


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda f: (f / "a2" / "0.bmp").unlink(), {"images", "labels", "source"}),
        (lambda f: (f / "a2").rename(f / "zebra"), {"class_names", "labels", "source"}),
        (lambda f: (f / "a2" / "0.bmp").rename(f / "a2" / "9.bmp"), {"source"}),
        # A pixel of an image of equal size.
        (lambda f: Image.new("RGB", (9, 7), (0, 9, 0)).save(f / "a2" / "0.bmp"), {"source"}),
        (lambda f: (f / "a2" / "0.bmp").rename(f / "a10" / "9.bmp"), {"labels", "source"}),
    ],
)
def test_what_changes_is_told_apart(folder, change, differs):
    before = content(folder)
    change(folder / "train")
    if not (folder / "train" / "a2").is_dir():
        (folder / "val" / "a2").rename(folder / "val" / "zebra")
    after = content(folder)
    found = {name for name in before if before[name] != after[name]}
    assert found == differs


def test_packed_images_are_compared_by_their_pixels(tmp_path):
    """Packed or not, under whatever names; IDX files of equal number are of equal size."""
    images = np.arange(12 * 784, dtype=np.uint64).reshape(12, 28, 28).astype(np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    contents = {}
    for name in ("gz", "plain", "pixel", "label"):
        changed, other = images.copy(), labels.copy()
        changed[11, 27, 27] += name == "pixel"
        other[11] += name == "label"
        raw = tmp_path / name / "MNIST" / "raw"
        for prefix in ("train", "t10k"):
            write_idx(raw, changed, other, prefix)
        if name == "plain":
            for file in list(raw.iterdir()):
                file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
                file.unlink()
        contents[name] = content(tmp_path / name, "mnist")
    assert contents["gz"] == contents["plain"]
    assert contents["gz"]["source"] != contents["pixel"]["source"]
    assert contents["gz"]["labels"] == contents["pixel"]["labels"]
    assert contents["gz"]["labels"] != contents["label"]["labels"]
    assert contents["gz"]["source"] == contents["label"]["source"]


@pytest.mark.parametrize(("most_bytes", "most_files"), [(1 << 28, 4), (900, 10_000)])
def test_of_large_sets_names_sizes_and_an_even_share_are_compared(
    folder, monkeypatch, most_bytes, most_files
):
    read = []
    reading = data.content.Path.read_bytes
    monkeypatch.setattr(data.content, "MOST_BYTES", most_bytes)
    monkeypatch.setattr(data.content, "MOST_FILES", most_files)
    monkeypatch.setattr(data.content.Path, "read_bytes", lambda p: read.append(p) or reading(p))
    before = content(folder)
    files = [path for path in read if path.suffix == ".bmp"]
    assert 2 <= len(files) <= 4
    assert len({path.parent for path in files}) == 2
    with (folder / "train" / "a2" / "0.bmp").open("ab") as file:
        file.write(b"longer")
    assert content(folder)["source"] != before["source"]


def test_an_array_is_digested_whole_with_its_shape_and_type():
    array = np.arange(10_000, dtype=np.int32).reshape(5000, 2)
    digests = {digest_of(array), digest_of(array.T), digest_of(array.astype(np.int64))}
    array[4999, 1] = 0
    assert len(digests | {digest_of(array)}) == 4
    assert digest_of(array.T) == digest_of(array.T.copy())


def test_a_file_that_is_gone_is_named(folder):
    images = open_dataset("folder", "train", folder, 8, download=False)
    (folder / "train" / "a2" / "0.bmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"No such file.*a2/0\.bmp"):
        content_of(images)


def test_classes_are_numbered_in_the_order_that_one_asks_for(folder):
    images = open_dataset("folder", "train", folder, 8, download=False)
    orders = (["a2", "a10"], ["a10", "a2"])
    for order in orders:
        ordered = in_order(images, order)
        assert ordered.class_names == tuple(order)
        for index in range(len(images)):
            (pixels, label), (same, number) = images[index], ordered[index]
            assert pixels.equal(same)
            assert images.class_names[label] == order[number]
    labels = {content_of(in_order(images, order))["labels"] for order in orders}
    assert len(labels) == 2


def test_other_names_and_tables_of_names_leave_the_order(folder, data_dir):
    images = open_dataset("folder", "train", folder, 8, download=False)
    assert in_order(images, ["a2", "b"]) is images
    digits = open_dataset("mnist", "train", data_dir, 8, download=False)
    assert in_order(digits, list("9876543210")) is digits
