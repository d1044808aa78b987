"""Reads labels as people write them: numbers, ranges, class names."""

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from numbers import Integral
from typing import Any

from utils.errors import FieldError, UserError

NO_CLASS = ("none", "no class")
UNTRAINED = "this model was never trained without classes"
MAX_SAMPLES = 10_000_000  # in one call
NUMBER = "[0-9]{1,18}"  # of a class; Python refuses to read thousands of digits
MOST_IN_TURN = 4096  # labels of which `in_turn` finds the repetition
TOO_MANY = f"more than {MAX_SAMPLES} images; take them in parts"


def parse_labels(
    items: Sequence[str], class_names: Sequence[str], has_null: bool = True
) -> list[int]:
    """Turn items such as `3`, `0-9x8` and `ankle boot` into one label per image.

    An item is a class name, in upper or lower case with spaces or underscores; a class number
    (`3`); a range (`0-9`); or `none` for no class. An exact class name wins over every other
    reading. If a class is called "none", write `no class` for no class. If all class names are
    numbers, numbers and ranges mean these names, in any order of the classes. `xN` after an item
    repeats it N times (`0-9x8`). Commas separate items inside one string, unless the whole string
    is a class name.

    Args:
        class_names: the model's class names, in the order of its labels.
        has_null: whether the model was also trained without classes.

    Returns:
        Class numbers; `len(class_names)` stands for no class.

    Raises:
        UserError: naming an item that is not a class, and similar class names.
    """
    names = _Names(class_names)
    labels = []
    for number, item in enumerate(items, start=1):
        whole = item.strip()
        if names.find(whole) is None:
            whole = whole.removeprefix("[").removesuffix("]")
        parts = [whole] if names.find(whole) is not None else whole.split(",")
        if len(parts) > 1 and number < len(items) and not parts[-1].strip():
            parts.pop()  # of "bag, sneaker", which a shell splits
        for part in parts:
            labels += _labels_of(part.strip(), names)
            if len(labels) > MAX_SAMPLES:
                raise UserError(f"`labels` {item}: {TOO_MANY}")
    if not labels:
        raise UserError(
            f"`labels` {' '.join(items)}: names no image; leave it out for all classes in turn"
        )
    if not has_null and len(class_names) in labels:
        raise FieldError("labels", NO_CLASS[0], f"{UNTRAINED}; {_known(class_names)}")
    return labels


def read_labels(labels: Any, class_names: Sequence[str], has_null: bool = True) -> list[int]:
    """Turn labels from Python into one number per image; 3 means the same as the text "3".

    Args:
        labels: one label or several, also as an array or tensor; texts as in `parse_labels`.

    Raises:
        UserError: as `parse_labels`; or naming a label that is neither an integer nor a string.
    """
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(values, set | frozenset | dict):
        reason = "has no order: use a list, with the class of each image"
        raise FieldError("labels", f"of type {type(values).__name__}", reason)
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    items = list(islice(values, MAX_SAMPLES + 1)) if several else [values]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | Integral):
            raise FieldError("labels", item, "needs the number or the name of a class")
    return parse_labels([str(item) for item in items], class_names, has_null)


def labels_in_turn(
    items: Sequence[str] | None,
    class_names: Sequence[str],
    default: Sequence[int],
    count: int | None,
    has_null: bool = True,
) -> list[int]:
    """Return one label per image, taking the labels of the items in turn.

    Args:
        items: as in `parse_labels`; None or empty takes the default.
        default: the labels to take in turn without items.
        count: number of images; None makes one image per label.

    Raises:
        UserError: as in `parse_labels`.
    """
    choices = parse_labels(items, class_names, has_null) if items else default
    count = len(choices) if count is None else count
    return [choices[i % len(choices)] for i in range(count)]


def label_without_class(num_classes: int, null_class: int | None) -> int:
    """Return the label of an image without a class: the null class, else the only class.

    Raises:
        FieldError: if there are several classes and no trained null class.
    """
    if null_class is None and num_classes > 1:
        raise FieldError("labels", NO_CLASS[0], f"{UNTRAINED}; name a class")
    return null_class or 0


def classes_in_turn(num_classes: int, first_image: int) -> list[int]:
    """Return all labels, so that image i has label i even if a series starts in the middle."""
    return [(first_image + i) % num_classes for i in range(num_classes)]


def in_turn(labels: list[int]) -> list[int]:
    """Return the few labels that give these when they are taken in turn."""
    few = range(1, min(len(labels), MOST_IN_TURN))
    period = next((n for n in few if labels[n:] == labels[:-n]), len(labels))
    return labels[:period]


def written_labels(labels: list[int], class_names: Sequence[str], first_image: int) -> list[str]:
    """Write the labels of images for `labels_in_turn`; nothing for all classes in turn."""
    few, everything = in_turn(labels), classes_in_turn(len(class_names), first_image)
    return [] if few == everything else [label_text(label, class_names) for label in few]


def label_text(label: int, class_names: Sequence[str]) -> str:
    """Write a label for `parse_labels`: its name, or its number where a shell needs that."""
    if label == len(class_names):
        taken = set(map(_folded, class_names))
        return next((name for name in NO_CLASS if name not in taken), NO_CLASS[-1])
    name = class_names[label]
    if name and name == name.strip() and not name.startswith("-"):
        return name
    # The number may be the name of another class; with a space in front, "-1" is not an option.
    return f" {name}" if str(label) in class_names else str(label)


class _Names:
    """The classes of a model.

    Attributes:
        exact: label by name.
        folded: labels by folded name; several names can fold to the same text.
        numbers: label by the number in its name if all names are numbers, else by position.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.exact = {name: label for label, name in enumerate(names)}
        self.folded: dict[str, list[int]] = {}
        for label, name in enumerate(names):
            self.folded.setdefault(_folded(name), []).append(label)
        for name in NO_CLASS:
            self.folded.setdefault(name, [len(names)])
        are_numbers = all(re.fullmatch(NUMBER, name) for name in names)
        self.numbers = {int(n) if are_numbers else label: label for label, n in enumerate(names)}

    def find(self, item: str) -> int | None:
        """Return the label of a name, or None.

        Raises:
            UserError: if several names differ from it only in case or spaces.
        """
        if item in self.exact:
            return self.exact[item]
        found = self.folded.get(_folded(item), [])
        if len(found) > 1:
            alike = " and ".join(repr(self.names[label]) for label in found)
            raise UserError(f"`labels` {item}: there are {alike}; write one of them exactly")
        return found[0] if found else None


def _labels_of(item: str, names: _Names) -> list[int]:
    """Return the labels of one item; only a class name may contain commas."""
    found = names.find(item)
    if found is not None:
        return [found]
    if not item:  # it comes from an unset variable
        raise UserError("`labels` has an empty part: leave it out, or write none for no class")
    # "<item>xN".
    repeated = re.fullmatch(rf"(.+?)\s*x({NUMBER})", item)
    if repeated:
        once, times = _labels_of(repeated[1], names), int(repeated[2])
        if len(once) * times > MAX_SAMPLES:
            raise UserError(f"`labels` {item}: {TOO_MANY}")
        return once * times
    # A number or a range.
    bounds = re.fullmatch(f"({NUMBER})(?:-({NUMBER}))?", item)
    if not bounds:
        close = difflib.get_close_matches(_folded(item), names.folded, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else _known(names.names)
        raise UserError(f"`labels` {item}: this model has no such class; {hint}")
    return _numbered(item, int(bounds[1]), int(bounds[2] or bounds[1]), names.numbers)


def _numbered(item: str, first: int, last: int, numbers: dict[int, int]) -> list[int]:
    """Return the labels of a range of class numbers, whose ends must be classes."""
    if not {first, last} <= numbers.keys():
        low, high = min(numbers, default=0), max(numbers, default=0)
        gaps = " (not all of them)" if len(numbers) < high - low + 1 else ""
        known = f"the classes {low} to {high}{gaps}" if low < high else f"only the class {low}"
        raise UserError(f"`labels` {item}: the model has {known}")
    if last < first:
        raise UserError(f"`labels` {item}: the range is empty; write {last}-{first}")
    return [numbers[number] for number in sorted(numbers) if first <= number <= last]


def _known(names: Sequence[str]) -> str:
    """List the first classes, for a message."""
    return "there are " + ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _folded(name: str) -> str:
    """Write a class name in lower case with single spaces, to compare two of them."""
    return " ".join(name.replace("_", " ").lower().split())
