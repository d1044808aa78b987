"""Folders of images as people have them: splits, wrappers, litter, links, names, counts."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.folder import is_among
from data.generated import open_generated
from data.open_dataset import open_dataset
from data.tree import natural_key, walk
from utils.errors import FileError, UserError


def put(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpe": "JPEG", ".jfif": "JPEG"}.get(path.suffix.lower())
    Image.new("RGB", (9, 7), (level, 0, 0)).save(path, kind)
    return path


def put_classes(folder: Path, names: str, count: int = 4) -> None:
    for level, name in enumerate(names.split()):
        for number in range(count):
            put(folder / name / f"{number}.png", 20 * level)


def sizes(folder: Path) -> tuple[tuple[str, ...], int, int]:
    """Class names and numbers of images of the two splits."""
    train, validation = (
        open_dataset("folder", split, folder, 8) for split in ("train", "validation")
    )
    return train.class_names, len(train), len(validation)


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "Training"])
@pytest.mark.parametrize("validation", ["val", "Valid", "VALIDATION", "Test", "Testing"])
def test_splits_are_known_in_any_case(tmp_path, train, validation):
    put_classes(tmp_path / train, "glioma notumor")
    put_classes(tmp_path / validation, "glioma notumor", count=2)
    assert sizes(tmp_path) == (("glioma", "notumor"), 8, 4)


@pytest.mark.parametrize("wrapper", ["flowers", "archive/flowers", "archive/__MACOSX/../flowers"])
def test_wrappers_are_gone_through(tmp_path, wrapper):
    put_classes(tmp_path / wrapper, "daisy rose")
    (tmp_path / "readme.txt").write_text("flowers")
    (tmp_path / "__MACOSX" / "flowers").mkdir(parents=True)
    classes, train, validation = sizes(tmp_path)
    assert (classes, train + validation) == (("daisy", "rose"), 8)


def test_a_wrapper_around_splits(tmp_path):
    put_classes(tmp_path / "Data" / "Train", "cat dog")
    put_classes(tmp_path / "Data" / "Test", "cat dog", count=2)
    assert sizes(tmp_path) == (("cat", "dog"), 8, 4)


def test_test_images_without_classes_are_not_used(tmp_path, caplog):
    caplog.set_level("INFO")
    put_classes(tmp_path / "train", "cat dog", count=9)
    put_classes(tmp_path / "test", ".", count=5)
    classes, train, validation = sizes(tmp_path)
    assert (classes, train + validation) == (("cat", "dog"), 18)
    assert "not used are the folders test" in caplog.text


def test_a_split_of_the_same_name_in_another_case_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("train", "val", "Val"):
        put_classes(tmp_path / name, "cat dog")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this disk takes both names for one")
    assert sizes(tmp_path) == (("cat", "dog"), 8, 8)
    assert re.search("not used are the folders [Vv]al$", caplog.text, re.M)


@pytest.mark.parametrize(
    ("classes", "place", "counts"),
    [
        ("", "runs", True),
        ("", "", True),
        ("", "cat/runs", True),
        ("", ".runs", False),
        ("", "../runs", False),
        ("", "..", False),
        ("wrapper", "runs", True),  # the wrapper would be a class beside it
        ("train", "runs", False),
        ("train", "train/runs", True),
        ("train alone", "runs", True),
    ],
)
def test_a_folder_inside_that_will_hold_images_is_noticed(tmp_path, classes, place, counts):
    home = tmp_path / "home"
    put_classes(home / classes.split()[0] if classes else home, "cat dog")
    if classes == "train":
        put_classes(home / "val", "cat dog")
    assert is_among(home / place, home) == counts
    link = tmp_path / "link"
    link.symlink_to(home)
    assert is_among(link / place, home) == counts


def test_a_link_to_elsewhere_is_among_the_images(tmp_path):
    put_classes(tmp_path / "home", "cat dog")
    (tmp_path / "home/runs").symlink_to(tmp_path / "elsewhere")
    assert is_among(tmp_path / "home/runs", tmp_path / "home")


def test_train_may_be_a_class(tmp_path):
    put_classes(tmp_path, "bus plane train")
    assert sizes(tmp_path)[0] == ("bus", "plane", "train")


def test_one_class_is_no_wrapper(tmp_path):
    put_classes(tmp_path, "cat")
    assert sizes(tmp_path)[0] == ("cat",)


def test_classes_are_in_natural_order(tmp_path):
    put_classes(tmp_path, " ".join(map(str, range(12))), count=2)
    assert sizes(tmp_path)[0] == tuple(map(str, range(12)))
    names = ["a10", "a2", "a", "B", "a02", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "B", "a", "a02", "a2", "a10"]


def test_names_with_ends_of_lines_are_escaped(tmp_path, caplog):
    caplog.set_level("INFO")
    put_classes(tmp_path, "cat dog")
    put(tmp_path / "a\nb" / "0.png")
    (tmp_path / "cat" / "c\nd.png").write_bytes(b"x")
    sizes(tmp_path)
    assert not any("\n" in message for message in caplog.messages)
    assert r"3 classes, a\nb, cat, dog" in caplog.text
    assert r"left out, as not readable: cat/c\nd.png (damaged, or" in caplog.text


def test_a_line_tells_the_classes_and_what_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    put_classes(tmp_path, " ".join(f"c{number}" for number in range(12)), count=2)
    for name in ("c0/notes.txt", "c1/a.raw", "c2/b.RAW", "c3/noending", "c4/.hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("c0/.ipynb_checkpoints/0.png", "__MACOSX/c0/0.png", "c5/._0.png"):
        put(tmp_path / name)
    put(tmp_path / "preview.png")
    (tmp_path / "c6" / "damaged.jpg").write_bytes(b"x")
    (tmp_path / "c7" / "again.png").symlink_to(tmp_path / "c7" / "0.png")
    os.mkfifo(tmp_path / "c8" / "pipe.png")
    assert len(sizes(tmp_path)[0]) == 12
    lines = [r.getMessage() for r in caplog.records if "12 classes" in r.getMessage()]
    assert lines == [
        f"{tmp_path}: 12 classes, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more; left out: "
        "4 hidden or litter, 4 other endings (.raw 2, .txt 1, none 1), 1 in no class folder, "
        "1 linked twice, 1 not files, 1 not readable"
    ]


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "avif", "jp2", "pbm", "webp", "TIF"])
def test_every_usual_ending_is_an_image(tmp_path, suffix):
    put_classes(tmp_path, "cat")
    image = put(tmp_path / "dog" / f"0.{suffix}")
    image.with_stem("1").write_bytes(image.read_bytes())
    assert sizes(tmp_path)[0] == ("cat", "dog")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing stops root")
def test_what_may_not_be_read_is_an_error(tmp_path):
    put_classes(tmp_path, "cat dog")
    for path in (tmp_path / "dog", tmp_path / "dog" / "0.png"):
        mode = path.stat().st_mode
        path.chmod(0)
        with pytest.raises(UserError, match=f"cannot read the .* {path}: Permission denied"):
            sizes(tmp_path)
        path.chmod(mode)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    put_classes(tmp_path, "cat dog")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for look in (walk, lambda folder: open_generated(folder, 8, 3), sizes):
        with pytest.raises(UserError, match=r"cannot read the folder .*dog: Permission denied"):
            look(tmp_path)


def test_links_count_once_and_cycles_end(tmp_path):
    put_classes(tmp_path / "set", "cat dog", count=2)
    put_classes(tmp_path / "elsewhere", "fox emu", count=3)
    (tmp_path / "set" / "a cat").symlink_to("cat")  # comes before "cat"
    (tmp_path / "set" / "cat" / "up").symlink_to("..")
    (tmp_path / "set" / "fox").symlink_to(tmp_path / "elsewhere" / "fox")
    (tmp_path / "set" / "red fox").symlink_to(tmp_path / "elsewhere" / "fox")
    (tmp_path / "elsewhere" / "fox" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "dog" / "loop").symlink_to("loop")
    (tmp_path / "set" / "dog" / "2.png").symlink_to(tmp_path / "elsewhere" / "emu" / "0.png")
    (tmp_path / "set" / "dog" / "3.png").symlink_to(tmp_path / "elsewhere" / "emu" / "0.png")
    tree = walk(tmp_path / "set")
    assert len(tree.names) == len({os.path.realpath(tree.path(name)) for name in tree.names})
    assert {"cat/0.png", "cat/1.png", "dog/0.png", "dog/2.png", "fox/0.png"} <= set(tree.names)
    assert not any(name.startswith(("a cat", "red fox")) for name in tree.names)
    assert tree.left_out["linked twice", ""] >= 4


def test_links_into_a_hidden_store_are_followed(tmp_path):
    """As git-annex and DVC keep large files."""
    put(tmp_path / ".store" / "1f" / "0.png")
    for name in ("cat/0.png", "dog/0.png"):
        (tmp_path / name).parent.mkdir()
    (tmp_path / "cat" / "0.png").symlink_to(tmp_path / ".store" / "1f" / "0.png")
    assert walk(tmp_path).names == ("cat/0.png",)


def test_names_that_are_not_utf8(tmp_path):
    put_classes(tmp_path, "cat dog")
    (tmp_path / "cat" / "0.png").rename(tmp_path / "cat" / os.fsdecode(b"\xe9.png"))
    images = open_dataset("folder", "train", tmp_path, 8)
    assert len(images.fingerprint) == 64
    assert sum(sizes(tmp_path)[1:]) == 8
    (tmp_path / "dog").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(UserError, match=r"'caf\\udce9' .* not UTF-8 .*; rename it"):
        open_dataset("folder", "train", tmp_path, 8)


def test_generated_images_come_by_the_same_walk(tmp_path):
    put_classes(tmp_path, "cat dog", count=3)
    put(tmp_path / "cat" / "a.jfif")
    put(tmp_path / "cat" / ".ipynb_checkpoints" / "0.png")
    (tmp_path / "again").symlink_to("cat")
    (tmp_path / "dog" / "note.txt").write_text("dogs")
    assert len(open_generated(tmp_path, 8, 3)) == 7


def test_the_first_generated_image_of_another_size_is_named(tmp_path, caplog):
    """As the grid beside the images of --sample, which would count as one of them."""
    caplog.set_level("INFO")
    for name in ("grid.png", "images/0.png", "images/1.png"):
        put(tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "images/0.png")
    list(open_generated(tmp_path, 8, 3).blocks(2))
    assert caplog.text.count("resized") == 1
    assert "grid.png has 7 x 9 pixels: images of another size are resized to 8 x 8" in caplog.text


def test_generated_images_that_are_damaged_are_named(tmp_path):
    put(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    with pytest.raises(FileError, match=r"1\.png"):
        list(open_generated(tmp_path, 8, 3).blocks(8))


def test_the_images_of_an_npy_file_are_read(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", images)
    found = open_generated(tmp_path / "a.npy", 8, 3)
    read, labels = zip(*found.blocks(2), strict=True)
    assert np.array_equal(np.concatenate(read), images)
    assert np.concatenate(labels).tolist() == [-1] * 5
    np.save(tmp_path / "gray.npy", images[..., 0])
    ((read_gray, _),) = open_generated(tmp_path / "gray.npy", 8, 1).blocks(8)
    assert np.array_equal(read_gray[..., 0], images[..., 0])
