"""Labels in a table beside images, as Hugging Face and Kaggle have them.

The table has a name as TABLE says, and is in the folder of the images or in one above it. The
column of files is the one whose values name the most images; their folders and endings may be
missing or differ. The classes are in the column with a name of LABELS, or else in the only other
column, or there is a column for each class with a 1 in one of them.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, takewhile
from pathlib import Path

from data.tree import SUFFIXES, Tree, class_of, list_folder
from data.user_files import check_regular
from utils.errors import FileError, UserError, named, reading
from utils.progress import log_once

TABLE = re.compile(r"(?!test|val)(.*metadata|.*labels|train)\.(csv|tsv|jsonl)", re.IGNORECASE)
LABELS = (
    "label", "labels", "class", "class_name", "category", "target", "breed", "species", "diagnosis",
    "dx",
)  # fmt: skip
"""Names of the column of classes, in lower case."""

NO_LABELS = {"text", "caption", "captions", "prompt", "description", "width", "height", "split"}
"""Names of columns that never hold classes, in lower case."""

UNNAMED = re.compile(r"\s*(Unnamed: \d+)?")  # the column of row numbers that pandas writes
MISSING = {"", "nan", "null", "n/a", "<na>"}
"""Values that stand for no class, in lower case."""

ABSOLUTE = re.compile("/|[A-Za-z]:/|~/|[.][.]/")
"""How paths begin that say where the images were on another machine."""

Row = Mapping[str, str]


def with_labels(tree: Tree, root: Path, *, named_in_full: bool = False) -> Tree:
    """Take the classes of images from a table, if there is one.

    Args:
        tree: the images.
        root: the highest folder to search for a table.
        named_in_full: whether a table in a folder above must name the images with their folder,
            because test images often have the same names as others.

    Returns:
        The images that the table names, with their classes; the same tree without a table, or if
        the table gives the same classes as the sub-folders.

    Raises:
        UserError: if a table cannot be read, or if its column of classes is not clear. If there are
            sub-folders of classes, this is only logged, and they are used.
    """
    above = [place for place in tree.folder.parents if place == root or root in place.parents]
    for file in (file for place in (tree.folder, *above) for file in _tables(place)):
        if not tree.names:
            break
        try:
            found = _labeled(tree, file, named_in_full and file.parent != tree.folder)
        except UserError as error:
            if len(tree.classes) == 1:
                raise
            log_once(f"{error}; the sub-folders are the classes")
            continue
        if found:
            return found
    return tree


def _labeled(tree: Tree, file: Path, named_in_full: bool) -> Tree | None:
    """Take the classes of images from one table; None if it has no classes for them."""
    rows = _rows(file)
    place = "" if file.parent == tree.folder else f"{tree.folder.relative_to(file.parent)}/"
    index = _index(tree.names, place, named_in_full)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    images = {c: _images_of([row.get(c, "") for row in rows], index) for c in columns}
    files = max(columns, key=lambda c: len(rows) - images[c].count(None), default="")
    if not any(images.get(files, ())):
        log_once(f"{file} is not used: it names no image in {tree.folder}")
        return None
    if files.lower().endswith(SUFFIXES):
        raise FileError(f"{file} has no line with the names of its columns; put one before {files}")
    others = [column for column in columns if images[column] != images[files]]
    classes, labels = _class_of_rows(rows, others, file)
    found: dict[str, str] = {}
    unknown = []
    for row, image, label in zip(rows, images[files], labels, strict=False):
        if image is None:
            unknown.append(row.get(files, ""))
        elif label and found.setdefault(image, label) != label:
            raise FileError(
                f"{file} gives {image} the classes {found[image]} and {label}; keep one of the rows"
            )
    if not found:
        log_once(f"{file} is not used: none of its columns holds classes ({named(columns)})")
        return None
    pairs = {(class_of(image), label) for image, label in found.items()}
    if len(tree.classes) > 1 and len(pairs) == len(dict(pairs)) == len(set(found.values())):
        log_once(f"{file} is not used: it divides the images as the sub-folders do")
        return None
    names = tuple(name for name in tree.names if name in found)
    left_out = tree.left_out.copy()
    left_out[f"in no row of {file.name}", ""] = len(tree.names) - len(names)
    if tree.folder in file.parents:
        left_out["other endings", file.suffix.lower()] -= 1
    log_once(f"{file}: classes from {named(classes)}, images from {named([files])}")
    if unknown:
        log_once(
            f"{file}: rows that name no image here, or several ({len(unknown)}): {named(unknown)}"
        )
    return replace(tree, names=names, labels=found, table=file, left_out=left_out)


def _class_of_rows(
    rows: Sequence[Row], others: list[str], file: Path
) -> tuple[list[str], list[str]]:
    """Find the columns of the classes, and the class of each row; empty if a row has none.

    Args:
        rows: rows of the table.
        others: its columns except the column of files.
        file: the table, for messages.

    Raises:
        UserError: if several columns are possible.
    """
    possible = [
        column
        for column in others
        if column.strip().lower() not in NO_LABELS and not UNNAMED.fullmatch(column)
    ]
    known = [column for column in possible if column.strip().lower() in LABELS]
    chosen = known if len(known) == 1 else possible if len(possible) == 1 else []
    if chosen:
        labels = [_label(row.get(chosen[0], "")) for row in rows]
        is_text = not known and 2 * len(set(labels)) > len(labels)  # almost all are different
        return ([], []) if is_text else (chosen, labels)
    if not possible:
        return [], []
    cells = [{column: row.get(column, "").strip().lower() for column in possible} for row in rows]
    marks = [[c for c, cell in row.items() if cell in ("1", "1.0", "true")] for row in cells]
    zeros = sum(cell in ("0", "0.0", "false") for row in cells for cell in row.values())
    if zeros == len(rows) * (len(possible) - 1) and all(len(marked) == 1 for marked in marks):
        return possible, [marked[0] for marked in marks]
    raise UserError(
        f"{file} has several columns that could hold the classes: {named(known or possible)}; call "
        "the right one label and the others otherwise, or move the file away"
    )


def _tables(folder: Path) -> list[Path]:
    """List the tables of a folder: those of metadata first, and short names before long ones."""
    kinds = ("metadata", "labels", "train")
    names = [e.name for e in list_folder(folder) if TABLE.fullmatch(e.name) and e.is_file()]
    names.sort(key=lambda name: ([kind not in name.lower() for kind in kinds], len(name), name))
    return [folder / name for name in names]


def _rows(file: Path) -> list[Row]:
    """Read the rows of a table: the text in each column, by its name.

    Raises:
        FileError: if it cannot be read.
    """
    check_regular(file)
    with reading(file):
        data = file.read_bytes()
        try:
            text = data.decode(json.detect_encoding(data))  # Excel writes UTF-16 too
        except UnicodeDecodeError as error:
            raise ValueError(f"it is not UTF-8 ({error}); save it as UTF-8") from error
        if file.suffix.lower() == ".jsonl":
            objects = [json.loads(line) for line in text.split("\n") if line.strip()]
            if not all(isinstance(one, dict) for one in objects):
                raise ValueError("each line of it must be a JSON object")
            plain = dict | list
            return [
                {name: _text(value) for name, value in one.items() if not isinstance(value, plain)}
                for one in objects
            ]
        text = re.sub(r"\Asep=.\r?\n", "", text)  # a line for Excel
        delimiter = max(",;\t|", key=text.partition("\n")[0].count)
        lines = io.StringIO(text, newline="")
        rows = csv.DictReader(lines, delimiter=delimiter, restval="", skipinitialspace=True)
        return [{key: text for key, text in row.items() if key is not None} for row in rows]


def _text(value: object) -> str:
    """Write a value as in a .csv file."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _label(text: str) -> str:
    """Return the class that a value names; empty for a missing value."""
    text = re.sub(r"^([+-]?[0-9]+)[.]0*$", r"\1", text.strip())  # pandas makes floats of numbers
    return "" if text.lower() in MISSING else text


def _index(names: Sequence[str], place: str, in_full: bool) -> dict[str, str | None]:
    """Map every text that may name an image to the image; texts that name several to None.

    Args:
        names: names of the images.
        place: folder of the images relative to the folder of the table, with a slash at its end.
        in_full: whether the text must have all folders.
    """
    index: dict[str, str | None] = {}
    for name in names:
        parts = [*place.split("/")[:-1], *name.split("/")]
        for start in range(1 if in_full else len(parts)):
            for last in (parts[-1], parts[-1].rpartition(".")[0]):
                key = "/".join([*parts[start:-1], last])
                index[key] = name if index.get(key, name) == name else None
    return index


def _images_of(texts: Sequence[str], index: Mapping[str, str | None]) -> list[str | None]:
    """Return the images that a column names; None for none, and if several are possible.

    A name may have the ending of another format. If the paths are from another machine, their
    common folders may be missing here.
    """
    paths = [text.strip().replace("\\", "/").removeprefix("./") for text in texts]
    folders = {path.rpartition("/")[0] for path in paths if ABSOLUTE.match(path)}
    parts_of_all = zip(*(folder.split("/") for folder in folders), strict=False)
    missing = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, parts_of_all))

    def image(path: str) -> str | None:
        tails = [path]
        if missing and ABSOLUTE.match(path):
            parts = path.split("/")
            tails = ["/".join(parts[start:]) for start in range(missing + 1)]
        stems = (tail.rpartition(".")[0] for tail in tails if tail.lower().endswith(SUFFIXES))
        return next(filter(None, map(index.get, chain(tails, stems))), None)

    return list(map(image, paths))
