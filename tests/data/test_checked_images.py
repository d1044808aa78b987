"""Image files are decoded once; a later start decodes what is new, changed or was not readable."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_CODES, TINY_VQGAN
from PIL import Image

from data import checked_images
from data.deep_pixels import Range, Ranges
from data.open_dataset import open_dataset
from MaskGIT import main


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    names: list[str] = []
    real = checked_images.problems

    def problems(paths):
        names.extend(Path(path).name for path in paths)
        return real(paths)

    monkeypatch.setattr(checked_images, "problems", problems)
    return names


@pytest.fixture
def images(tmp_path):
    """Two classes of five images, and one that is damaged."""
    for number in range(10):
        path = tmp_path / "set" / ["cat", "dog"][number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (number, 0, 0)).save(path)
    (tmp_path / "set" / "dog" / "bad.png").write_bytes(b"x")
    return tmp_path / "set"


def start(images: Path, notes: Path | None) -> int:
    """Open both splits as a new process does; gives the number of images."""
    checked_images._examined.cache_clear()
    splits = [open_dataset("folder", s, images, 8, notes=notes) for s in ("train", "validation")]
    return sum(map(len, splits))


def touch(images):
    os.utime(images / "cat" / "0.png", ns=(0, 1))


def grow(images):
    path = images / "cat" / "0.png"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=times)


def add(images):
    (images / "dog" / "new.png").write_bytes((images / "dog" / "1.png").read_bytes())


@pytest.mark.parametrize(
    ("change", "expected"),
    [(lambda _: None, set()), (touch, {"0.png"}), (grow, {"0.png"}), (add, {"new.png"})],
)
def test_a_second_start_decodes_what_is_new_or_changed(tmp_path, images, decoded, change, expected):
    assert start(images, tmp_path / "tokens") == 10
    assert len(decoded) == 11
    decoded.clear()
    change(images)
    assert start(images, tmp_path / "tokens") == 10 + (change is add)
    assert set(decoded) == {"bad.png", *expected}


def test_images_of_another_folder_of_equal_names_are_decoded(tmp_path, images, decoded):
    start(images, tmp_path / "tokens")
    decoded.clear()
    images.rename(tmp_path / "other")
    start(tmp_path / "other", tmp_path / "tokens")
    assert len(decoded) == 11


def test_another_limit_of_pixels_is_obeyed(tmp_path, images, monkeypatch):
    assert start(images, tmp_path / "tokens") == 10
    with Image.open(images / "cat" / "0.png") as image:
        image.resize((30, 30)).save(images / "cat" / "0.png")
    assert start(images, tmp_path / "tokens") == 10
    for module in ("image_file", "checked_images"):
        monkeypatch.setattr(f"data.{module}.MOST_PIXELS", 800)
    assert start(images, tmp_path / "tokens") == 9


def test_damaged_notes_cost_another_look_and_nothing_else(tmp_path, images, decoded):
    notes = tmp_path / "tokens" / "checked_images"
    start(images, notes.parent)
    good = notes.read_bytes()
    for damaged, again in ((good[:-3], 2), (b"", 11), (bytes(len(good)), 11), (good[1:], 11)):
        notes.write_bytes(damaged)
        for expected in (again, 1):  # at the next start, and at the one after it
            decoded.clear()
            assert start(images, notes.parent) == 10
            assert len(decoded) == expected


def test_the_common_range_of_deep_images_is_noted_with_them(tmp_path, images, decoded):
    for name, level in (("cat/deep.png", 900), ("dog/deep.png", 3000)):
        Image.fromarray(np.full((8, 8), level, np.uint16)).save(images / name)
    notes = tmp_path / "tokens" / "checked_deep_images"
    assert start(images, notes.parent) == 12
    good = notes.read_bytes()
    for changed, again in ((good, 1), (good[:-9], 2), (good[:40] + b"xy" + good[42:], 2)):
        notes.write_bytes(changed)
        decoded.clear()
        assert start(images, notes.parent) == 12
        assert len(decoded) == again
        for split in ("train", "validation"):
            ranges = open_dataset("folder", split, images, 8).source.items.ranges
            assert ranges == Ranges(Range(False, 900, 3000))


def test_a_stopped_check_goes_on_where_it_was(tmp_path, images, decoded, monkeypatch):
    monkeypatch.setattr(checked_images, "SPAN", 3)
    real = checked_images.problems

    def stop_late(paths):
        if len(decoded) >= 6:
            raise KeyboardInterrupt
        return real(paths)

    with monkeypatch.context() as patch:
        patch.setattr(checked_images, "problems", stop_late)
        with pytest.raises(KeyboardInterrupt):
            start(images, tmp_path / "tokens")
    before = set(decoded)
    decoded.clear()
    assert start(images, tmp_path / "tokens") == 10
    assert set(decoded) - {"bad.png"} == {f"{number}.png" for number in range(10)} - before


def test_notes_that_cannot_be_written_are_done_without(tmp_path, images, decoded, caplog):
    caplog.set_level("INFO")
    (tmp_path / "tokens").write_text("in the way")
    for _ in range(2):
        decoded.clear()
        assert start(images, tmp_path / "tokens") == 10
        assert len(decoded) == 11
    assert caplog.text.count("the next start checks the images again") == 1
    assert start(images, None) == 10


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_in_place_of_the_notes_is_not_read(tmp_path, images, decoded, make):
    (tmp_path / "tokens").mkdir()
    make(tmp_path / "tokens" / checked_images.NOTES)
    for _ in range(2):
        decoded.clear()
        assert start(images, tmp_path / "tokens") == 10
        assert len(decoded) == 11


def test_the_command_line_keeps_the_notes_with_the_token_cache(tmp_path, images, decoded):
    command = (
        f"--train_vae --dry_run --dataset folder --data_dir {images} --output_dir {tmp_path} "
        f"--size 16 --no_wandb {TINY_VQGAN} {TINY_CODES}"
    )
    main(command.split())
    assert len(decoded) == 11
    checked_images._examined.cache_clear()
    decoded.clear()
    main(command.split())
    assert decoded == ["bad.png"]
    assert (tmp_path / "tokens" / checked_images.NOTES).is_file()
