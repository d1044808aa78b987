"""Labels in a table beside images, as Hugging Face and Kaggle have them.

The table is called as TABLES say, and is in the folder of the images or in one above it. The column
whose values name the most images is that of the files; folders before the name, and its ending, may
be missing in it. The classes are in the column whose name is in LABELS, or else in the only other
one, or there is a column for each class with a 1 in one of them.
"""

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath

from data.files import FileError, check_regular, reading
from data.tree import Tree, class_of, named
from utils.errors import UserError

log = logging.getLogger(__name__)

TABLES = ("metadata.csv", "metadata.jsonl", "labels.csv", "train_labels.csv", "train.csv")
LABELS = (
    "label", "labels", "class", "class_name", "category", "target", "breed", "species", "diagnosis",
    "dx",
)  # fmt: skip
"""Names of the column of classes, in lower case."""

NO_LABELS = {"text", "caption", "captions", "prompt", "description", "width", "height", "split"}
"""Names of columns that never hold classes, in lower case."""

Row = Mapping[str, str]


def with_labels(tree: Tree, root: Path, *, named_in_full: bool = False) -> Tree:
    """Take the classes of images from a table, where there is one.

    Args:
        tree: the images.
        root: the highest folder in which a table is looked for.
        named_in_full: whether a table in a folder above names the images with their folder. Test
            images often have the same names as others.

    Returns:
        The images that the table names, with their classes; the same tree if there is no table, or
        if it says the same as the sub-folders.

    Raises:
        UserError: if a table cannot be read, or it is not clear which of its columns holds the
            classes. With sub-folders of classes that is said, and they count.
    """
    above = [place for place in tree.folder.parents if place == root or root in place.parents]
    for file in (place / name for place in (tree.folder, *above) for name in TABLES):
        if not file.is_file() or not tree.names:
            continue
        try:
            found = _labelled(tree, file, named_in_full and file.parent != tree.folder)
        except UserError as error:
            if len(tree.classes) == 1:
                raise
            _say(f"{error}; the sub-folders are the classes")
            continue
        if found:
            return found
    return tree


def _labelled(tree: Tree, file: Path, named_in_full: bool) -> Tree | None:
    """Take the classes of images from one table; None if it has none for them."""
    rows = _rows(file)
    place = "" if file.parent == tree.folder else f"{tree.folder.relative_to(file.parent)}/"
    index = _index(tree.names, place, named_in_full)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    counts = {c: sum(_image_of(row.get(c, ""), index) is not None for row in rows) for c in columns}
    files = max(columns, key=lambda column: counts[column], default="")
    if not counts.get(files):
        _say(f"{file} is not used: it names no image in {tree.folder}")
        return None
    classes, labels = _class_of_rows(rows, [c for c in columns if c != files], file)
    if not classes:
        _say(f"{file} is not used: no column of it holds classes ({named(columns)})")
        return None
    found: dict[str, str] = {}
    unknown = []
    for row, label in zip(rows, labels, strict=True):
        image = _image_of(row.get(files, ""), index)
        if image is None:
            unknown.append(row.get(files, ""))
        elif label and found.setdefault(image, label) != label:
            raise FileError(f"{file} gives {image} the classes {found[image]} and {label}")
    pairs = {(class_of(image), label) for image, label in found.items()}
    if len(tree.classes) > 1 and len(pairs) == len(dict(pairs)) == len(set(found.values())):
        _say(f"{file} is not used: it divides the images as the sub-folders do")
        return None
    names = tuple(name for name in tree.names if name in found)
    left_out = tree.left_out.copy()
    left_out[f"in no row of {file.name}", ""] = len(tree.names) - len(names)
    if tree.folder in file.parents:
        left_out["other endings", file.suffix] -= 1
    _say(f"{file}: classes from {named(classes)}, images from {named([files])}")
    if unknown:
        _say(f"{file}: {len(unknown)} rows name no image here, or several: {named(unknown)}")
    return replace(tree, names=names, labels=found, table=file, left_out=left_out)


def _class_of_rows(
    rows: Sequence[Row], others: list[str], file: Path
) -> tuple[list[str], list[str]]:
    """Find the columns of the classes, and the class of each row, empty if it has none.

    Args:
        rows: of the table.
        others: its columns without that of the files.
        file: the table.

    Raises:
        UserError: if several columns could be meant.
    """
    known = [column for column in others if column.strip().lower() in LABELS]
    possible = [column for column in others if column.strip().lower() not in NO_LABELS]
    chosen = known if len(known) == 1 else others if len(others) == 1 else []
    if chosen:
        labels = [row.get(chosen[0], "").strip() for row in rows]
        is_text = not known and 2 * len(set(labels)) > len(labels)  # as good as all are different
        return ([], []) if is_text else (chosen, labels)
    if not possible:
        return [], []
    marks = [[column for column in others if row.get(column) in ("1", "1.0")] for row in rows]
    zeros = all(row.get(c) in ("0", "0.0", "1", "1.0") for row in rows for c in others)
    if zeros and all(len(marked) == 1 for marked in marks):
        return others, [marked[0] for marked in marks]
    raise UserError(
        f"{file} has several columns that could hold the classes: {named(known or possible)}; call "
        "the right one label and the others otherwise, or move the file away"
    )


def _rows(file: Path) -> list[Row]:
    """Read the rows of a table: the text in each column, by its name.

    Raises:
        FileError: if it cannot be read.
    """
    check_regular(file)
    with reading(file), file.open(encoding="utf-8-sig", newline="") as lines:
        if file.suffix == ".jsonl":
            objects = [json.loads(line) for line in lines if line.strip()]
            return [{key: _text(value) for key, value in one.items()} for one in objects]
        head = lines.readline()
        lines.seek(0)
        delimiter = max(",;\t", key=head.count)
        rows = csv.DictReader(lines, delimiter=delimiter, restval="")
        return [{key: text for key, text in row.items() if key is not None} for row in rows]


@cache
def _say(text: str) -> None:
    """Write a line once, for both splits are made from the same files."""
    log.info("%s", text)


def _text(value: object) -> str:
    """Write a value as it would stand in a .csv file."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _index(names: Sequence[str], place: str, in_full: bool) -> dict[str, str | None]:
    """Map what may name an image to it. What names several images is mapped to None.

    Args:
        names: of the images.
        place: folder of the images relative to that of the table, with a slash at its end.
        in_full: whether no folder may be missing.
    """
    index: dict[str, str | None] = {}
    for name in names:
        parts = [*place.split("/")[:-1], *name.split("/")]
        for start in range(1 if in_full else len(parts)):
            for last in (parts[-1], PurePosixPath(name).stem):
                key = "/".join([*parts[start:-1], last])
                index[key] = name if index.get(key, name) == name else None
    return index


def _image_of(text: str, index: Mapping[str, str | None]) -> str | None:
    """Return the image that a row names, None if there is none or if several could be meant."""
    return index.get(text.strip().replace("\\", "/").removeprefix("./").lstrip("/"))
