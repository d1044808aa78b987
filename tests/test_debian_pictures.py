"""The scripts that make pictures from Debian's packages, without a network."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.color_pictures import has_contrast, random_box, random_crop
from scripts.debian_pictures import emoji_points, largest_versions, on_ground, unpacked
from scripts.emoji_pictures import class_of
from utils.errors import UserError

LIST = """
# group: Food & Drink
# subgroup: food-fruit
1F347                                                  ; fully-qualified     # x E0.6 grapes
1F336                                                  ; unqualified         # x E0.7 hot pepper
# group: People & Body
# subgroup: person-role
1F44B 1F3FB                                            ; fully-qualified     # x E1.0 light skin
1F469 200D 1F373                                       ; fully-qualified     # x E4.0 woman cook
# group: Component
1F3FB                                                  ; component           # x E1.0 light skin
"""


def test_the_emoji_are_those_without_a_skin_tone():
    found = list(emoji_points(LIST.splitlines()))
    assert found == [("food-fruit", [0x1F347]), ("person-role", [0x1F469, 0x200D, 0x1F373])]


def test_a_class_has_the_subgroups_of_pictures_that_are_alike():
    names = ["cat-face", "face-smiling", "hands", "hand-prop", "person", "person-sport", "flag"]
    assert [*map(class_of, names)] == [None, "faces", "hands", "hands", "people", None, None]


def test_a_transparent_drawing_is_put_on_its_ground():
    drawing = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    drawing.paste((255, 0, 0, 255), (5, 0, 15, 10))
    square = on_ground(drawing, (0, 0, 200), margin=0.1)
    assert square.size == (24, 24)
    assert square.getpixel((0, 0)) == square.getpixel((3, 12)) == (0, 0, 200)
    assert square.getpixel((12, 12)) == (255, 0, 0)


def test_each_picture_counts_once_in_its_largest_version(tmp_path: Path):
    for name in ("22/apple.png", "128/apple.png", "128/pear.png", "lake/640x480.jpg",
                 "lake/1280x1024.jpg", "hill/640x480.jpg"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(int(name.split("/")[0]) if name[0].isdigit() else len(name)))
    (tmp_path / "link.png").symlink_to(tmp_path / "128" / "pear.png")
    found = {str(path.relative_to(tmp_path)) for path in largest_versions(tmp_path)}
    assert found == {"128/apple.png", "128/pear.png", "lake/1280x1024.jpg", "hill/640x480.jpg"}


def test_crops_lie_inside_and_flat_ones_are_told_apart():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(256, size=(150, 200, 3), dtype=np.uint8))
    for _ in range(20):
        assert random_box(noise, 150, rng).size == (150, 150)
        assert random_crop(noise, 64, rng).size == (64, 64)
    assert has_contrast(noise)
    assert not has_contrast(Image.new("RGB", (8, 8), "teal"))


def test_where_packages_cannot_be_fetched_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"cannot fetch the package toys .* Debian or Ubuntu"):
        unpacked("toys", tmp_path / "packages")
