"""Draw emoji of Debian's font as a folder of nine classes.

    python scripts/emoji_pictures.py FOLDER
    python MaskGIT.py --train --sample --dataset folder --data_dir FOLDER --size 32

A class joins subgroups of Unicode whose pictures are alike, 944 pictures on white; the other
emoji are left out. With --halves a picture is in FOLDER/train or in FOLDER/val, in turn: a
classifier that is trained on the first half can be tested on the second.
"""

import argparse
import sys
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands.flags import with_flags
from scripts.debian_pictures import emoji, on_ground
from utils.errors import errors_on_one_line

WHITE = (255, 255, 255)
MARGIN = 0.05  # of the longer side of a picture
CLASSES = {  # shell patterns of subgroups
    "faces": ("face-*",),
    "hearts": ("heart",),
    "hands": ("hand-*", "hands"),
    "people": ("person", "person-gesture", "person-role", "person-fantasy"),
    "animals": ("animal-*",),
    "fruit": ("food-fruit", "food-vegetable"),
    "clocks": ("time",),
    "signs": ("*-sign", "arrow", "religion", "zodiac", "av-symbol", "keycap", "alphanum"),
    "flags": ("country-flag", "subdivision-flag"),
}


def main() -> None:
    """Write the pictures, FOLDER/class/code_points.png; those that exist are drawn again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--halves", action="store_true", help="half for training, half for tests")
    parser.add_argument("--packages", type=Path, help="folder of the packages [FOLDER.packages]")
    options = parser.parse_args()
    packages = options.packages or options.folder.with_name(f"{options.folder.name}.packages")
    number = 0
    pictures = (
        (name, points, picture)
        for subgroup, points, picture in emoji(packages)
        if (name := class_of(subgroup))
    )
    for number, (name, points, picture) in enumerate(pictures, start=1):
        half = ("val", "train")[number % 2] if options.halves else ""
        target = options.folder / half / name
        target.mkdir(parents=True, exist_ok=True)
        on_ground(picture, WHITE, MARGIN).save(target / f"{points}.png")
    sys.stdout.write(f"{options.folder}: {number} emoji\n")


def class_of(subgroup: str) -> str | None:
    """Return the class of a subgroup of Unicode; None if it is left out."""
    for name, patterns in CLASSES.items():
        if any(fnmatchcase(subgroup, pattern) for pattern in patterns):
            return name
    return None


if __name__ == "__main__":
    with errors_on_one_line("emoji_pictures.py", with_flags):
        main()
