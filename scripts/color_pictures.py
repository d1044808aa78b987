"""Make the pictures that the bundled color tokenizer was trained on, from Debian's packages.

    python scripts/color_pictures.py FOLDER
    python MaskGIT.py --train_vae --dataset folder --data_dir FOLDER/pictures ...

FOLDER/packages gets the packages (0.7 GB), FOLDER/pictures/train crops of 64 pixels at many
scales, and FOLDER/pictures/val larger pictures of two packages that are not trained on. Some
minutes. FOLDER/pictures/licenses has what each package says about its pictures.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands.flags import with_flags
from scripts.debian_pictures import EMOJI_PACKAGES, emoji, largest_versions, on_ground, unpacked
from utils.errors import UserError, errors_on_one_line
from utils.progress import progress_bar

DRAWINGS = ("openclipart-png", "oxygen-icon-theme", "faenza-icon-theme", "mate-icon-theme")
PHOTOS = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
)
HELD_OUT_DRAWINGS, HELD_OUT_PHOTOS = "tuxpaint-stamps-default", "mate-backgrounds"
SIZE = 64  # pixels of a training picture
JUDGED_SIZE = 128  # pixels of a held-out picture
CROPS_OF_PHOTO, CROPS_OF_HELD_OUT = 300, 12
LEAST_CONTRAST = 12  # standard deviation of a channel, of 255; many crops of sky are flatter
SMALLEST_DRAWING, LARGEST_DRAWING = 48, 2048  # pixels of the shorter and of the longer side
SMALLEST_PHOTO = 384  # pixels of the shorter side
WHITE = (255, 255, 255)

Rng = np.random.Generator


def main() -> None:
    """Fetch the packages and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    packages, pictures = folder / "packages", folder / "pictures"
    if pictures.exists():
        raise UserError(f"{pictures} exists: delete it to make the pictures again")
    rng = np.random.default_rng(0)
    train, held_out = pictures / "train", pictures / "val"
    write(train / "drawings", training_drawings(packages, rng))
    write(train / "photos", photos(PHOTOS, packages, lambda image: crops(image, rng)))
    write(held_out / "drawings", held_out_drawings(packages))
    write(held_out / "photos", photos([HELD_OUT_PHOTOS], packages, lambda i: judged_crops(i, rng)))
    for package in (*EMOJI_PACKAGES, *DRAWINGS, *PHOTOS, HELD_OUT_DRAWINGS, HELD_OUT_PHOTOS):
        license_file = packages / package / "usr" / "share" / "doc" / package / "copyright"
        target = pictures / "licenses" / package
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(license_file, target)


def write(folder: Path, images: Iterator[Image.Image]) -> None:
    """Write images with their number as their name."""
    folder.mkdir(parents=True)
    with progress_bar(f"writing {folder}", 0, unit="image") as bar:
        for number, image in enumerate(images):
            image.save(folder / f"{number:06}.png", compress_level=1)
            bar.update(1)


def training_drawings(packages: Path, rng: Rng) -> Iterator[Image.Image]:
    """Yield emoji, clip art and icons: each whole, and enlarged in part."""
    for picture in drawings(packages):
        yield resized(on_ground(picture, random_ground(rng), rng.uniform(0, 0.2)), SIZE)
        whole = on_ground(picture, random_ground(rng), 0.05)
        side = round(whole.width * rng.uniform(0.4, 0.8))
        yield resized(random_box(whole, side, rng), SIZE)


def drawings(packages: Path) -> Iterator[Image.Image]:
    """Yield the drawings to train on, RGBA."""
    yield from (picture for _, _, picture in emoji(packages))
    for package in DRAWINGS:
        for path in largest_versions(unpacked(package, packages)):
            with suppress(Image.DecompressionBombError), Image.open(path) as image:
                if min(image.size) >= SMALLEST_DRAWING and max(image.size) <= LARGEST_DRAWING:
                    yield image.convert("RGBA")


def held_out_drawings(packages: Path) -> Iterator[Image.Image]:
    """Yield the drawings to judge by, whole and on white."""
    for path in largest_versions(unpacked(HELD_OUT_DRAWINGS, packages)):
        with Image.open(path) as image:
            yield resized(on_ground(image.convert("RGBA"), WHITE, 0.05), JUDGED_SIZE)


def photos(
    names: list[str] | tuple[str, ...],
    packages: Path,
    cut: Callable[[Image.Image], Iterator[Image.Image]],
) -> Iterator[Image.Image]:
    """Yield the results of `cut` for each photo of these packages."""
    for name in names:
        for path in largest_versions(unpacked(name, packages)):
            with Image.open(path) as image:
                if min(image.size) >= SMALLEST_PHOTO:
                    yield from filter(has_contrast, cut(image.convert("RGB")))


def crops(photo: Image.Image, rng: Rng) -> Iterator[Image.Image]:
    """Yield crops for training; their sides are log-uniform up to the whole photo."""
    for _ in range(CROPS_OF_PHOTO):
        yield random_crop(photo, SIZE, rng)


def judged_crops(photo: Image.Image, rng: Rng) -> Iterator[Image.Image]:
    """Yield the largest square in the center, and random crops."""
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    yield resized(photo.crop((left, top, left + side, top + side)), JUDGED_SIZE)
    for _ in range(CROPS_OF_HELD_OUT - 1):
        yield random_crop(photo, JUDGED_SIZE, rng)


def random_crop(photo: Image.Image, size: int, rng: Rng) -> Image.Image:
    """Cut a square whose side is log-uniform."""
    side = np.exp(rng.uniform(np.log(1.5 * size), np.log(min(photo.size))))
    return resized(random_box(photo, round(side), rng), size)


def has_contrast(image: Image.Image) -> bool:
    """Whether an image is not nearly of one color."""
    return bool(np.asarray(image).std((0, 1)).max() >= LEAST_CONTRAST)


def random_box(image: Image.Image, side: int, rng: Rng) -> Image.Image:
    """Cut a square of this side anywhere."""
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def random_ground(rng: Rng) -> tuple[int, int, int]:
    """Choose white, or for half of the drawings any color, so that white ones are seen too."""
    return WHITE if rng.random() < 0.5 else tuple(map(int, rng.integers(256, size=3)))  # type: ignore[return-value]


def resized(image: Image.Image, size: int) -> Image.Image:
    """Resize a square as the program does."""
    return image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3)


if __name__ == "__main__":
    with errors_on_one_line("color_pictures.py", with_flags):
        main()
