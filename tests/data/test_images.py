"""Odd image files, resizing, views, and folders of a user's own images."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.folder import held_out
from data.image_file import load_image, problems
from data.images import FileImages, ImageDataset, Source, flip_view, to_array
from data.open_dataset import open_dataset
from data.spec import Split
from utils.errors import FileError, UserError

SPLITS: tuple[Split, Split] = ("train", "validation")


def to_tensor(image, size, channels):
    return torch.from_numpy(to_array(image, size, channels)).permute(2, 0, 1)


def both_splits(folder: Path, size: int = 8) -> dict[str, list[tuple[Any, Any]]]:
    """All items of the two splits of a folder."""
    opened = {split: open_dataset("folder", split, folder, size) for split in SPLITS}
    return {split: [images[i] for i in range(len(images))] for split, images in opened.items()}


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_classes(folder: Path, *names: str, count: int = 4) -> None:
    for level, name in enumerate(names):
        for number in range(count):
            save(folder / name / f"{number}.png", Image.new("RGB", (9, 7), (40 * level, 0, 0)))


def ramp(width: int, height: int) -> np.ndarray:
    return np.linspace(0, 255, width * height).reshape(height, width)


def test_transparency_shows_a_white_page(tmp_path):
    half = save(tmp_path / "half.png", Image.new("RGBA", (4, 4), (0, 100, 200, 128)))
    np.testing.assert_allclose(np.asarray(load_image(half))[0, 0], (127, 177, 227), atol=1)
    image = Image.new("LA", (4, 4), (10, 0))
    image.putpixel((1, 0), (10, 255))
    gray = save(tmp_path / "gray.png", image)
    assert load_image(gray).mode == "L"
    assert [load_image(gray).getpixel((x, 0)) for x in (0, 1)] == [255, 10]


def test_a_transparent_color_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = save(tmp_path / "palette.png", image, transparency=1)
    read = load_image(path)
    assert (read.getpixel((0, 0)), read.getpixel((1, 0))) == ((255, 0, 0), (255, 255, 255))


def test_a_camera_that_was_held_sideways(tmp_path):
    image = Image.new("RGB", (8, 4), "red")
    image.paste("blue", (0, 0, 2, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    path = save(tmp_path / "turned.png", image, exif=exif)
    upright = load_image(path)
    assert upright.size == (4, 8)
    assert upright.getpixel((0, 0)) == (0, 0, 255)


def test_damaged_exif_data_are_passed_over(tmp_path):
    path = save(tmp_path / "odd.jpg", Image.new("RGB", (8, 4), "red"), exif=b"Exif\0\0XXXXXXXX")
    assert load_image(path).size == (8, 4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_every_kind_of_image_gives_both_kinds_of_tensors(tmp_path, mode):
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    image = Image.fromarray(ramp(6, 5).astype(np.uint8))
    path = save(tmp_path / f"image.{suffix}", image.convert(mode))
    for channels in (1, 3):
        pixels = to_tensor(load_image(path), 4, channels)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (channels, 4, 4)


def test_cmyk_colors_are_right(tmp_path):
    path = save(tmp_path / "print.jpg", Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"))
    np.testing.assert_allclose(np.asarray(load_image(path))[8, 8], (200, 30, 60), atol=4)


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "lime", "blue")]
    path = save(tmp_path / "film.gif", frames[0], save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((2, 2)) == (255, 0, 0)


def damaged_files(folder: Path) -> list[Path]:
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    paths = []
    for suffix in ("jpg", "png", "bmp", "webp", "tiff", "gif"):
        path = save(folder / f"truncated.{suffix}", whole)
        assert problems([str(path)]) == [None]
        path.write_bytes(path.read_bytes()[:-400])
        paths.append(path)
    for name, content in (("empty.png", b""), ("text.jpg", b"not found"), ("head.gif", b"GIF89a")):
        paths.append(folder / name)
        paths[-1].write_bytes(content)
    return paths


def test_damaged_files_are_named(tmp_path):
    for path in damaged_files(tmp_path):
        assert problems([str(path)]) != [None]
        with pytest.raises(FileError, match=path.name):
            load_image(path)


def test_junk_after_the_end_of_an_image_does_no_harm(tmp_path):
    path = save(tmp_path / "phone.jpg", Image.new("RGB", (20, 20), "red"))
    path.write_bytes(path.read_bytes() + b"film" * 1000)
    assert load_image(path).size == (20, 20)


@pytest.mark.filterwarnings("ignore:This process")  # a fork of a process with threads
@pytest.mark.parametrize("name", ["text.jpg", "a\nb\u2028c\r.jpg"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_one_line(tmp_path, name, workers):
    path = tmp_path / name
    path.write_bytes(b"not found")
    source = Source(FileImages([str(path)], np.zeros(1, np.int64)), tmp_path, [path], tmp_path)
    images = ImageDataset(source, ("one",), 3, (8, 8), 1)
    with pytest.raises(FileError) as error:
        list(DataLoader(images, num_workers=workers))
    assert str(error.value).startswith(f"cannot read the image {tmp_path}/{ascii(name)[1:-1]}: ")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 64), (64, 96), (33, 57)])
@pytest.mark.parametrize("size", [16, 64, 100])
def test_resizing_agrees_with_torchvision(width, height, size):
    from torchvision.transforms import functional as tv

    generator = np.random.default_rng(width)
    image = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))
    theirs = tv.center_crop(tv.resize(image, size, antialias=True), [size, size])
    ours = to_tensor(image, size, 3).double().numpy()
    difference = np.abs(ours - np.asarray(theirs).transpose(2, 0, 1))
    if width == height:
        assert difference.max() == 0
    smooth = Image.fromarray(ramp(width, height).astype(np.uint8))
    theirs = tv.center_crop(tv.resize(smooth, size, antialias=True), [size, size])
    ours = to_tensor(smooth, size, 1)[0].double().numpy()
    assert np.abs(ours - np.asarray(theirs)).max() <= 255 / min(width, height, size)


def test_the_center_is_kept():
    image = Image.new("L", (40, 20), 0)
    image.paste(200, (10, 0, 30, 20))
    assert (to_tensor(image, 10, 1)[0, :, 1:-1] == 200).all()  # the filter blurs the border


def test_nothing_happens_to_an_image_of_the_right_size():
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(to_tensor(Image.fromarray(levels), 8, 1)[0].numpy(), levels)


def test_views_are_the_four_flips():
    images = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4)
    assert torch.equal(flip_view(images, 0), images)
    assert torch.equal(flip_view(images, 1)[0, 0, 0], torch.tensor([3, 2, 1, 0], dtype=torch.uint8))
    assert torch.equal(flip_view(images, 2)[0, 0, :, 0], torch.tensor([8, 4, 0]).to(torch.uint8))
    assert torch.equal(flip_view(images, 3), images.flip(-1, -2))


def test_a_flat_folder_has_one_class(tmp_path):
    write_classes(tmp_path, ".", count=5)
    splits = both_splits(tmp_path)
    assert {split: len(items) for split, items in splits.items()} == {"train": 4, "validation": 1}
    assert {label for items in splits.values() for _, label in items} == {0}
    assert open_dataset("folder", "train", tmp_path).class_names == ("images",)


def test_the_splits_share_no_image_and_lose_none(tmp_path):
    for number in range(200):
        save(tmp_path / "abc"[number % 3] / f"{number}.png", Image.new("L", (8, 8), number))
    splits = both_splits(tmp_path)
    levels = [int(image[0, 0, 0]) for items in splits.values() for image, _ in items]
    assert sorted(levels) == list(range(200))
    assert 10 <= len(splits["validation"]) <= 30


def test_new_images_move_no_old_ones():
    names = [f"cat/{number}.png" for number in range(300)]
    assert held_out(names[:200]) == held_out(names) & set(names[:200])


@pytest.mark.parametrize("count", range(2, 30))
def test_a_small_class_keeps_images_for_both_sides(count):
    names = [f"cat/{number}.png" for number in range(count)] + ["dog/only.png"]
    chosen = held_out(names)
    assert 1 <= len(chosen) < count
    assert "dog/only.png" not in chosen


def test_one_image_is_not_enough(tmp_path):
    write_classes(tmp_path, "cat", count=1)
    with pytest.raises(UserError, match="two images"):
        open_dataset("folder", "train", tmp_path)


@pytest.mark.parametrize("validation", ["val", "validation", "test"])
def test_given_splits_are_kept(tmp_path, validation):
    write_classes(tmp_path / "train", "cat", "dog", "fox")
    write_classes(tmp_path / validation, "cat", "dog", "fox", count=2)
    shutil.rmtree(tmp_path / validation / "dog")
    splits = both_splits(tmp_path)
    assert len(splits["train"]) == 12
    shown = [(label, int(image[0, 0, 0])) for image, label in splits["validation"]]
    assert shown == [(0, 0)] * 2 + [(2, 80)] * 2
    assert open_dataset("folder", "validation", tmp_path).class_names == ("cat", "dog", "fox")
    write_classes(tmp_path / validation, "emu")
    with pytest.raises(UserError, match="emu"):
        open_dataset("folder", "validation", tmp_path)


def test_odd_files_are_listed_and_left_out(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    write_classes(tmp_path, "cat", "dog")
    damaged = damaged_files(tmp_path / "cat")
    save(tmp_path / "preview.png", Image.new("RGB", (9, 7)))
    save(tmp_path / "cat" / ".hidden.png", Image.new("RGB", (9, 7)))
    save(tmp_path / ".thumbnails" / "cat.png", Image.new("RGB", (9, 7)))
    (tmp_path / "cat" / "notes.txt").write_text("cats")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert sum(map(len, both_splits(tmp_path).values())) == 8
    unread, loose = sorted(record.getMessage() for record in caplog.records)[::-1]
    assert all(f"cat/{path.name}" in unread for path in damaged)
    assert "dog/gone.png (No such file or directory)" in unread
    assert "cat/empty.png (it is empty)" in unread
    assert "preview.png" in loose


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(UserError, match="no readable images"):
        open_dataset("folder", "train", tmp_path)
    for name, said in (
        ("nowhere", "nowhere is not a folder of images$"),
        ("notes.txt", "; unpack"),
    ):
        with pytest.raises(UserError, match=said):
            open_dataset("folder", "train", tmp_path / name)


def test_new_files_are_seen_at_the_next_opening(tmp_path):
    write_classes(tmp_path, "cat", count=10)
    assert sum(map(len, both_splits(tmp_path).values())) == 10
    write_classes(tmp_path, "cat", count=15)
    assert sum(map(len, both_splits(tmp_path).values())) == 15


@pytest.mark.parametrize(
    ("pixels", "size", "kept"),
    [
        ((10, 30), (10, 20), np.s_[:, 5:25]),
        ((10, 30), (10, 30), np.s_[:, :]),
        ((30, 10), (10, 10), np.s_[10:20, :]),
        ((20, 20), (10, 20), np.s_[5:15, :]),
    ],
)
def test_the_largest_part_in_the_center_is_kept(pixels, size, kept):
    levels = np.random.default_rng(0).integers(0, 256, pixels).astype(np.uint8)
    assert np.array_equal(to_tensor(Image.fromarray(levels), size, 1)[0].numpy(), levels[kept])
