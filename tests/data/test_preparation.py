"""--fit, --resize, --background, --flips, --augment: what becomes of pixels and tokens."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.augment import Augmentation
from data.batches import training_batches
from data.image_file import load_image
from data.images import flip_view, to_array
from data.open_dataset import open_dataset
from data.spec import AS_IT_IS, FITS, RESIZE, RESIZES, Preparation
from data.token_cache import cached_tokens

SIZE, RED = 8, (255, 0, 0)


@pytest.fixture
def folder(tmp_path):
    """Twelve noisy images in two classes."""
    generator = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return tmp_path / "images"


def opened(folder, split="train", **settings):
    return open_dataset("folder", split, folder, SIZE, preparation=Preparation(**settings))


@pytest.mark.parametrize("size", [(6, 12), (12, 6), (7, 7), (1, 30)])
def test_padding_keeps_the_whole_image_and_adds_bars(size):
    image = Image.new("RGB", size, (0, 0, 255))
    pixels = to_array(image, SIZE, 3, Preparation("pad", "red"))
    covered = min(size) / max(size)
    assert pixels[..., 0].mean() / 255 == pytest.approx(1 - covered, abs=0.05)
    assert (to_array(image, SIZE, 3, Preparation("crop", "red")) == (0, 0, 255)).all()


@pytest.mark.parametrize("size", [(16, 16), (20, 24), (33, 17), (100, 37), (8, 8), (5, 7), (8, 30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_adm_resizes_as_guided_diffusion_does(size, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    original = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    made = original
    while min(made.size) // SIZE >= 2:
        made = made.resize([side // 2 for side in made.size], Image.BOX)
    factor = SIZE / min(made.size)
    made = np.asarray(made.resize([round(side * factor) for side in made.size], Image.BICUBIC))
    top, left = (made.shape[0] - SIZE) // 2, (made.shape[1] - SIZE) // 2
    expected = made[top:, left:][:SIZE, :SIZE].reshape(SIZE, SIZE, channels)
    np.testing.assert_array_equal(
        to_array(original, SIZE, channels, Preparation(resize="adm")), expected
    )


def test_bicubic_changes_the_filter_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
    expected = np.asarray(image.resize((SIZE, SIZE), Image.BICUBIC))
    np.testing.assert_array_equal(to_array(image, SIZE, 3, Preparation(resize="bicubic")), expected)
    default = np.asarray(image.resize((SIZE, SIZE), Image.BILINEAR))
    np.testing.assert_array_equal(to_array(image, SIZE, 3), default)
    fits = np.asarray(image)[:SIZE, :SIZE]
    for rule in RESIZES:  # nothing is left to do
        np.testing.assert_array_equal(
            to_array(Image.fromarray(fits), SIZE, 3, Preparation(resize=rule)), fits
        )


def test_datasets_take_the_rule(folder):
    shown = [opened(folder, resize=rule)[0][0] for rule in RESIZES]
    assert len({pixels.numpy().tobytes() for pixels in shown}) == len(RESIZES)
    rules = {Preparation(resize=rule, fit=fit).rule for rule in RESIZES for fit in FITS}
    assert len(rules) == len(RESIZES) * len(FITS)
    assert AS_IT_IS.rule == RESIZE


def test_padding_keeps_edges_that_the_crop_cuts():
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, :4] = RED
    image = Image.fromarray(pixels)
    assert to_array(image, SIZE, 3)[..., 0].max() == 0
    assert to_array(image, SIZE, 3, Preparation("pad", "black"))[..., 0].max() > 200


@pytest.mark.parametrize(("color", "rgb"), [("#0a141e", (10, 20, 30)), ("white", (255,) * 3)])
@pytest.mark.parametrize("deep", [False, True])
def test_the_background_is_behind_transparent_parts(tmp_path, color, rgb, deep):
    path = tmp_path / "one.png"
    if deep:
        Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path, transparency=40000)
        Image.fromarray(np.array([[40000, 0]], np.uint16)).save(path, transparency=40000)
        assert load_image(path, color).getpixel((0, 0)) == round(np.dot(rgb, (0.299, 0.587, 0.114)))
        return
    image = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
    image.putpixel((1, 0), (1, 2, 3, 255))
    image.save(path)
    assert [load_image(path, color).getpixel((x, 0)) for x in (0, 1)] == [rgb, (1, 2, 3)]


@pytest.mark.parametrize(("flips", "views"), [(None, 2), ("none", 1), ("horizontal", 2)])
def test_flips_decide_the_number_of_views(folder, flips, views):
    assert opened(folder, flips=flips).num_views == views
    assert opened(folder, flips=flips, augment=3).num_views == 4 * views
    assert opened(folder, "validation", flips=flips, augment=3).num_views == 1


def test_copies_are_a_function_of_seed_image_and_number(folder):
    images, same = opened(folder, augment=3), opened(folder, augment=3)
    other = opened(folder, augment=3, seed=1)
    for index in range(len(images)):
        copies, _ = images.copies(index, range(4))
        assert (copies[0] == images[index][0]).all()
        assert len({copy.numpy().tobytes() for copy in copies}) == 4
        assert (copies[2] == same.copies(index, [2])[0][0]).all()
        assert (copies[2] != other.copies(index, [2])[0][0]).any()
        # Gentle: closer to its own image than images are to each other.
        distance = (copies.float() - copies[0].float()).abs().mean((1, 2, 3))
        assert distance[1:].max() < 60


def test_added_images_do_not_change_the_copies_of_others(folder):
    before = opened(folder, augment=1)
    known = {p: before.copies(i, [1])[0] for i, p in enumerate(before.source.items.paths)}
    for number in range(5):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / "a" / f"0{number}.png")
    after = opened(folder, augment=1)
    for index, path in enumerate(after.source.items.paths):
        assert path not in known or (after.copies(index, [1])[0] == known[path]).all()


def test_a_change_of_nothing_changes_nothing_and_keeps_black_and_white():
    levels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    nothing = Augmentation(side=1, left=0.3, top=0.7, brightness=1, contrast=1, saturation=1)
    assert (nothing.recolored(levels) == levels).all()
    assert nothing.part_of((0, 0, 10, 20)) == (0, 0, 10, 20)
    strong = Augmentation(side=0.5, left=1, top=0, brightness=1.2, contrast=0.8, saturation=1.2)
    assert strong.part_of((0, 0, 10, 20)) == (5, 0, 10, 10)
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert (strong.recolored(ends) == ends).all()


def means(pixels):
    """Encode images (B, C, H, W) as the means of their four quarters: int64 (B, 4)."""
    quarters = pixels.float().mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2))
    return quarters.flatten(1).long()


def test_the_cache_holds_every_copy_under_every_flip(folder, tmp_path):
    images = opened(folder, augment=2)
    found = cached_tokens(
        images, "train", means, 4, {"dataset": "folder"}, tmp_path,
        codebook_size=256, batch_size=4, num_workers=0,
    )  # fmt: skip
    assert found.num_views == 6
    for index in range(len(images)):
        for view in range(6):
            pixels, _ = images.copies(index, [view // 2])
            assert (
                found.tokens[view, index] == means(flip_view(pixels, view % 2))[0].numpy()
            ).all()


def test_training_batches_hold_views_of_their_images(folder):
    images = opened(folder, augment=2)
    views = {
        flip_view(copy, flip).numpy().tobytes()
        for index in range(len(images))
        for copy in images.copies(index, range(3))[0]
        for flip in range(2)
    }
    batches = training_batches(images, 4, 0, 0, torch.device("cpu"))
    seen = [image for epoch in range(30) for batch in batches(epoch, 0) for image in batch]
    bytes_of = [((image + 1) * 127.5).round().to(torch.uint8).numpy().tobytes() for image in seen]
    assert set(bytes_of) <= views
    assert len(set(bytes_of)) > 0.9 * len(views)  # of each copy, under each flip


def test_defaults_leave_the_names_of_caches_as_they_are():
    assert AS_IT_IS.identity() == Preparation(flips="none", seed=7).identity() == {}
    others = [
        {"fit": "pad"},
        {"resize": "adm"},
        {"resize": "bicubic"},
        {"background": "red"},
        {"augment": 2},
        {"augment": 2, "seed": 7},
    ]
    identities = [Preparation(**settings).identity() for settings in others]
    assert all(identities)
    assert len({str(one) for one in identities}) == len(others)
