"""Pictures of Debian's packages: fetches and unpacks packages, and draws emoji.

For other scripts. Nothing is installed, so root is not needed; `apt-get` and `dpkg-deb` are.
"""

import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from utils.errors import UserError

EMOJI_PACKAGES = ("fonts-noto-color-emoji", "unicode-data")
STRIKE = 109  # the only size of the pictures in Noto Color Emoji
CANVAS = 160  # pixels, larger than any of them
SUBGROUP = "# subgroup: "  # starts a heading of the list of emoji
SKIN_TONES = frozenset(range(0x1F3FB, 0x1F400))


def unpacked(package: str, folder: Path) -> Path:
    """Return the folder of a package's files; fetch and unpack it if it is not there.

    Raises:
        UserError: if it cannot be fetched.
    """
    target = folder / package
    if not (target / "usr").is_dir():
        target.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "-q", "download", package], cwd=target, check=True)
            (archive,) = target.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=target, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = "this needs Debian or Ubuntu and a network; try `apt-get update` first"
            raise UserError(f"cannot fetch the package {package} ({error}); {reason}") from error
        archive.unlink()
    return target


def emoji(packages: Path) -> Iterator[tuple[str, str, Image.Image]]:
    """Draw the emoji of Unicode that have no skin tone.

    Args:
        packages: folder of unpacked packages.

    Yields:
        The subgroup ("food-fruit"), the code points ("1f347") and the picture, RGBA.

    Raises:
        UserError: if the packages cannot be fetched, or Pillow cannot join code points.
    """
    if not features.check("raqm"):
        raise UserError("this Pillow was built without raqm, which joins the parts of an emoji")
    fonts, data = (unpacked(package, packages) for package in EMOJI_PACKAGES)
    font = ImageFont.truetype(next(fonts.rglob("NotoColorEmoji.ttf")), STRIKE)
    lines = next(data.rglob("emoji-test.txt")).read_text(encoding="utf-8").splitlines()
    for subgroup, points in emoji_points(lines):
        text = "".join(map(chr, points))
        picture = Image.new("RGBA", (CANVAS, CANVAS))
        draw = ImageDraw.Draw(picture)
        draw.text((CANVAS // 2,) * 2, text, font=font, anchor="mm", embedded_color=True)
        if (box := picture.getbbox()) and font.getlength(text) <= CANVAS:
            yield subgroup, "_".join(f"{point:x}" for point in points), picture.crop(box)


def on_ground(picture: Image.Image, ground: tuple[int, int, int], margin: float) -> Image.Image:
    """Put a picture in the middle of an opaque square; `margin` is a share of its longer side."""
    side = round(max(picture.size) * (1 + 2 * margin))
    square = Image.new("RGBA", (side, side), (*ground, 255))
    corner = tuple((side - length) // 2 for length in picture.size)
    square.alpha_composite(picture.convert("RGBA"), corner)
    return square.convert("RGB")


def emoji_points(lines: list[str]) -> Iterator[tuple[str, list[int]]]:
    """Yield subgroup and code points of the emoji without skin tone in Unicode's emoji-test.txt."""
    subgroup = ""
    for line in lines:
        if line.startswith(SUBGROUP):
            subgroup = line.removeprefix(SUBGROUP)
        points, _, status = line.partition(";")
        if status.split("#")[0].strip() == "fully-qualified":
            numbers = [int(point, 16) for point in points.split()]
            if not SKIN_TONES.intersection(numbers):
                yield subgroup, numbers


def largest_versions(folder: Path) -> list[Path]:
    """List the PNG and JPEG files of a package, of each picture only the largest file.

    Icons have one name in the folders of many sizes. Wallpapers have sizes as names.
    """
    versions: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".png", ".jpg") and path.is_file() and not path.is_symlink():
            name = path.stem.strip("0123456789x_-")
            versions[name or str(path.parent)].append(path)
    return [max(paths, key=lambda path: path.stat().st_size) for paths in versions.values()]
