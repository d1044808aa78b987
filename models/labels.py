"""Reads labels as people write them: numbers, ranges, class names."""

import difflib
import re
from collections.abc import Sequence

from utils.errors import UserError

NO_CLASS = "none"
MAX_SAMPLES = 10_000_000  # in one sampling; larger sets are made in parts


def parse_labels(items: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Turn items such as `3`, `0-9x8` and `ankle boot` into one label per image.

    An item is a class number (`3`), a range (`0-9`), a class name in upper or lower case with
    spaces or underscores, or `none` for no class. `xN` after it repeats it N times (`0-9x8`).
    Commas separate items inside one string, unless the whole string is a class name.

    Args:
        items: the items.
        class_names: the model's class names, in the order of its labels.

    Returns:
        Class numbers; `len(class_names)` stands for no class.

    Raises:
        UserError: naming an item that is not a class, and similar class names.
    """
    numbers = {_folded(name): label for label, name in enumerate(class_names)}
    numbers[NO_CLASS] = len(class_names)
    labels = []
    for item in items:
        whole = item.strip().removeprefix("[").removesuffix("]")
        for part in [whole] if _folded(whole) in numbers else whole.split(","):
            if part.strip():
                labels += _labels_of(part.strip(), numbers, class_names)
    if not labels:
        raise UserError(
            f"`labels` {' '.join(items)}: names no image; leave it out for all classes in turn"
        )
    return labels


def labels_in_turn(
    items: Sequence[str] | None,
    class_names: Sequence[str],
    default: Sequence[int],
    count: int | None,
) -> list[int]:
    """Return one label per image, taking the labels of the items in turn.

    Args:
        items: as in `parse_labels`; None or empty takes the default.
        class_names: as in `parse_labels`.
        default: the labels to take in turn without items.
        count: number of images; None makes one image per label.

    Raises:
        UserError: as in `parse_labels`.
    """
    choices = parse_labels(items, class_names) if items else default
    count = len(choices) if count is None else count
    return [choices[i % len(choices)] for i in range(count)]


def _labels_of(item: str, numbers: dict[str, int], class_names: Sequence[str]) -> list[int]:
    """Return the labels of one item.

    Args:
        item: the item, without commas unless it is a class name.
        numbers: label by folded class name, with that of NO_CLASS.
        class_names: as in `parse_labels`.
    """
    # "<item>xN"; a class name may end in the same way.
    repeated = re.fullmatch(r"(.+?)\s*x(\d+)", item)
    if _folded(item) not in numbers and repeated:
        once, times = _labels_of(repeated[1], numbers, class_names), int(repeated[2])
        if len(once) * times > MAX_SAMPLES:
            raise UserError(f"`labels` {item}: more than {MAX_SAMPLES} images; take them in parts")
        return once * times
    # A class name.
    if _folded(item) in numbers:
        return [numbers[_folded(item)]]
    # A number or a range.
    bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
    if not bounds:
        close = difflib.get_close_matches(_folded(item), numbers, n=3)
        known = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {known}"
        raise UserError(f"`labels` {item}: this model has no such class; {hint}")
    first, last = int(bounds[1]), int(bounds[2] or bounds[1])
    if max(first, last) >= len(class_names):
        raise UserError(f"`labels` {item}: the model has the classes 0 to {len(class_names) - 1}")
    if last < first:
        raise UserError(f"`labels` {item}: the range is empty; write {last}-{first}")
    return list(range(first, last + 1))


def _folded(name: str) -> str:
    """Write a class name in lower case with single spaces, to compare two of them."""
    return " ".join(name.replace("_", " ").lower().split())
