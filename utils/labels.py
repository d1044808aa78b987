"""The classes that --labels asks for."""

import difflib
import re
from collections.abc import Sequence

from utils.errors import UserError

NO_CLASS = "none"
MAX_SAMPLES = 10_000_000  # images of one sampling; --first_image goes on from there


def parse_labels(items: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """One label per image that the items ask for.

    An item is a class number (`3`), a range (`0-9`), a class name in any case with spaces or
    underscores, or `none` for no class; `xN` behind it repeats it N times (`0-9x8`). Commas
    separate items inside one string, unless the string is a class name as it stands.

    Args:
        items: strings of the command line.
        class_names: of the model, in the order of its labels.

    Returns:
        Class numbers; `len(class_names)` stands for no class.

    Raises:
        UserError: naming an item that is no class, and names close to it.
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
            f"--labels {' '.join(items)}: names no image; leave it out for all classes in turn"
        )
    return labels


def labels_in_turn(
    items: Sequence[str] | None,
    class_names: Sequence[str],
    default: Sequence[int],
    count: int | None,
) -> list[int]:
    """One label for each of the images to generate.

    Args:
        items: as of `parse_labels`; None or empty takes the default.
        class_names: as of `parse_labels`.
        default: labels to take in turn where none are asked for.
        count: images; None takes each label that the items ask for once.

    Raises:
        UserError: as `parse_labels`.
    """
    choices = parse_labels(items, class_names) if items else default
    count = len(choices) if count is None else count
    return [choices[i % len(choices)] for i in range(count)]


def _labels_of(item: str, numbers: dict[str, int], class_names: Sequence[str]) -> list[int]:
    repeated = re.fullmatch(r"(.+?)\s*x(\d+)", item)
    if _folded(item) not in numbers and repeated:
        once, times = _labels_of(repeated[1], numbers, class_names), int(repeated[2])
        if len(once) * times > MAX_SAMPLES:
            raise UserError(f"--labels {item}: more than {MAX_SAMPLES} images; take them in parts")
        return once * times
    if _folded(item) in numbers:
        return [numbers[_folded(item)]]
    bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
    if not bounds:
        close = difflib.get_close_matches(_folded(item), numbers, n=3)
        known = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {known}"
        raise UserError(f"--labels {item}: no class of this model; {hint}")
    first, last = int(bounds[1]), int(bounds[2] or bounds[1])
    if max(first, last) >= len(class_names):
        raise UserError(f"--labels {item}: the model knows the classes 0 to {len(class_names) - 1}")
    if last < first:
        raise UserError(f"--labels {item}: the range is empty; write {last}-{first}")
    return list(range(first, last + 1))


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
