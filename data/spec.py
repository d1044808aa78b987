"""A row of the table of datasets, and the interface of the readers of dataset files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from data.images import Source

Split = Literal["train", "validation"]
RESIZE = "shorter side, antialiased bilinear, centre crop"
"""How an image gets its size by default (data/images.py); token caches and statistics depend on
it."""

RESIZES = {
    "default": RESIZE,
    "adm": "halved by boxes, antialiased bicubic, centre crop, as in guided-diffusion",
    "bicubic": "shorter side, antialiased bicubic, centre crop",
}
"""Ways to give an image its size."""

VIEWS = {"none": 1, "horizontal": 2, "both": 4}
"""Ways to show one training image, for each kind of `DatasetSpec.flips`."""

FITS = ("crop", "pad")


LOOK = ("fit", "background", "resize")  # fields of a Preparation that a checkpoint keeps


@dataclass(frozen=True)
class Preparation:
    """How the images of a dataset are shown to the networks.

    Attributes:
        fit: how an image gets the wanted shape: "crop" takes the largest part in its center, "pad"
            takes all of it and adds bars.
        background: color behind transparent parts, and of the bars: a name, or #rrggbb.
        resize: a key of RESIZES.
        flips: a key of VIEWS; None for the flips of the dataset.
        augment: number of changed copies of every training image (data/augment.py).
        seed: seed of these changes.
    """

    fit: str = FITS[0]
    background: str = "white"
    resize: str = "default"
    flips: str | None = None
    augment: int = 0
    seed: int = 0

    @property
    def look(self) -> dict[str, str]:
        """What an image looks like, without copies and flips: fields that are not defaults."""
        return self._changed(*LOOK)

    def identity(self) -> dict[str, Any]:
        """Return what tokens depend on, without defaults, and without the number of flips."""
        return self.look | (self._changed("augment", "seed") if self.augment else {})

    @property
    def rule(self) -> str:
        """How an image gets its size, in words; statistics depend on it."""
        if self.fit == "pad":
            return f"{RESIZES[self.resize]}, bars of {self.background} in place of the crop"
        behind = f", on {self.background}" if "background" in self.look else ""
        return RESIZES[self.resize] + behind

    def _changed(self, *names: str) -> dict[str, Any]:
        """Return the fields of these names that are not defaults."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != getattr(AS_IT_IS, name)}


AS_IT_IS = Preparation()


class Reader(Protocol):
    """Opens and fetches the files of one dataset.

    Both methods take the folder of all datasets, the library's name of the split and the wanted
    longer side of the images in pixels.
    """

    def open(self, root: Path, split: str, size: int) -> Source:
        """Open existing files, without writing anything and without a network.

        Raises:
            FileNotFoundError: if files are missing that `fetch` could download.
            UserError: if a file cannot be used.
        """

    def fetch(self, root: Path, split: str, size: int) -> None:
        """Download the missing files to `root`, check and unpack them."""


@dataclass(frozen=True)
class ReaderRef:
    """Names a reader, so that the table of datasets can be read without importing it.

    Attributes:
        module: for example "data.readers".
        takes_notes: whether the class has a field `notes`, a folder for notes of the work that it
            need not repeat.
    """

    module: str
    kind: str
    arguments: tuple[str, ...] = ()
    takes_notes: bool = False

    def load(self, notes: Path | None = None) -> Reader:
        """Import the module, which is slow, and make the reader."""
        more = {"notes": notes} if self.takes_notes else {}
        reader: Reader = getattr(import_module(self.module), self.kind)(*self.arguments, **more)
        return reader


@dataclass(frozen=True)
class DatasetSpec:
    """One row of the dataset table.

    Attributes:
        num_classes: number of classes; None if the files decide.
        size: default side of the images in pixels.
        splits: the library's names of the splits to train and to validate on. They have no image in
            common, and their images have labels.
        source: public page of the dataset.
        license: what the user must know before using the images.
        files: the files that a user may download, by their paths in the data folder.
        flips: "none", "horizontal" or "both" (horizontal and vertical): the flips that leave a
            typical image of the dataset. Training uses every image under all of them.
        classes: class names in the order of the labels; empty if the reader finds them.
    """

    name: str
    reader: ReaderRef = field(repr=False)
    channels: int
    num_classes: int | None
    size: int
    splits: Mapping[Split, str]
    source: str
    license: str
    files: tuple[str, ...]
    flips: Literal["none", "horizontal", "both"] = "none"
    classes: tuple[str, ...] = ()
