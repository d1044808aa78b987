"""What a row of the dataset table says, and what a reader of files must offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Split = Literal["train", "validation"]
RESIZE = "shorter side, antialiased bilinear, centre crop"
"""How every image gets its size (data/images.py), for whom it may concern."""
VIEWS = {"none": 1, "horizontal": 2, "both": 4}


class Items(Protocol):
    """Images with their labels; indexing gives (PIL image, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Source:
    """An opened split of a dataset.

    Attributes:
        items: the images with their labels.
        root: folder of the files.
        files: every file that the images and labels come from; they make the fingerprint.
        class_names: names in the order of the labels, or empty where the table holds them.
    """

    items: Items
    root: Path
    files: Sequence[str | Path]
    class_names: tuple[str, ...] = ()


class Reader(Protocol):
    """Opens and fetches the files of one dataset.

    Both methods take the folder of all datasets, the library's name of the split and the side of
    the images that are wanted. Whatever the library raises about missing or damaged files is passed
    on (data/download.py has the list).
    """

    def open(self, root: Path, split: str, size: int) -> Source:
        """Open files that are there; writes nothing and needs no network."""

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download what is missing below `root`, check it and unpack it."""


@dataclass(frozen=True)
class DatasetSpec:
    """One row of the dataset table.

    Attributes:
        name: what --dataset calls it.
        reader: opens and fetches the files.
        channels: 1 grey, 3 colour.
        num_classes: None where the files decide.
        size: default side of the images in pixels.
        splits: the library's names of the splits we train and validate on; disjoint, labelled.
        source: public page of the dataset.
        licence: what the user must know before using the images.
        files: where the files that one may fetch by hand belong, relative to the data folder.
        flips: "none", "horizontal" or "both" (horizontal and vertical): flips under which an image
            of the dataset remains one; training sees every image under all of them.
        classes: class names in the order of the labels; empty where they are read with the images.
    """

    name: str
    reader: Reader = field(repr=False)
    channels: int
    num_classes: int | None
    size: int
    splits: Mapping[Split, str]
    source: str
    licence: str
    files: tuple[str, ...]
    flips: Literal["none", "horizontal", "both"] = "none"
    classes: tuple[str, ...] = ()

    @property
    def num_views(self) -> int:
        """Flips of one training image: 1, 2 or 4."""
        return VIEWS[self.flips]
