"""What the page knows of the command line: descriptions of settings, and a writer of commands.

commands/ fills these in from its table of options, so that defaults, ranges and help texts are
written only there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.edit_region import Box
from models.sampling import SamplingConfig

# Keywords of the texts in a PNG: the command that makes it, and the fingerprint of the model.
COMMAND, MODEL = "MaskGIT command", "MaskGIT model"
MOST_CHARACTERS = 1 << 16  # of the command


def texts_of(command: str, fingerprint: str) -> dict[str, str]:
    """Return what a PNG says about how it was made; nothing where that is too long."""
    return {COMMAND: command, MODEL: fingerprint} if len(command) <= MOST_CHARACTERS else {}


@dataclass(frozen=True)
class Field:
    """A setting, as a form shows it.

    Attributes:
        default: the value that the form begins with; None for an empty field.
        kind: "number", "numbers", "choice" or "switch".
        choices: the values of a choice.
        low: smallest number, None for no bound.
        high: largest number, None for no bound.
        above: what a number must exceed, None for no bound.
        is_whole: whether a number must be whole.
        length: how many numbers there are; None for any number of them.
    """

    name: str
    title: str
    help: str
    default: Any
    kind: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    is_whole: bool = False
    length: int | None = None


@dataclass(frozen=True)
class EditedPart:
    """Which image is edited, and which part of it is regenerated.

    Attributes:
        image: the image as the command line names it.
        boxes: parts of the image.
        margins: pixels to be made at a side ("left", "right", "top", "bottom").
        grow: tokens by which the region grows on every side.
        put_back: whether the pixels outside the region get their original values back.
    """

    image: str
    boxes: Sequence[Box]
    margins: Mapping[str, int]
    grow: int
    put_back: bool


@dataclass(frozen=True)
class Recipe:
    """What images are made from.

    Attributes:
        labels: classes in turn, as the command line writes them; none for all.
        block_size: images that are computed at once.
        usual: the settings that the command line takes where none are given.
        edited: what is edited; None for images that are all new.
        start: the file of the tokens that they continue from; None for no such file.
    """

    model: Path
    labels: Sequence[str]
    count: int
    seed: int
    first_image: int
    block_size: int
    sampling: SamplingConfig
    usual: SamplingConfig
    edited: EditedPart | None = None
    start: str | None = None


@dataclass(frozen=True)
class ReadCommand:
    """The command in a picture, as read.

    Attributes:
        model: its file, perhaps without its folder.
        labels: classes in turn, as the command line writes them; None for all.
        sampling: the settings that it names.
        other: its other options that differ from those of this page.
    """

    model: Path
    labels: Sequence[str] | None
    count: int
    seed: int
    first_image: int
    sampling: Mapping[str, Any]
    other: str


@dataclass(frozen=True)
class CommandForm:
    """The command line, as far as the page needs it.

    Attributes:
        series: by the page's own names: "seed", "first_image", "count".
        editing: by the page's own names: "grow", "keep_decoded".
        labels: the classes that the form begins with, as the user wrote them; None for all.
        block_size: images that are computed at once, at most.
        read: turns values by name into settings of sampling; those that are missing are as in the
            given settings, but options of the command line win. Raises UserError for a wrong one.
        values: turns settings of sampling into values by name.
        begins_with: the same, but options of the command line win.
        write: writes the command that makes images again, in lines that a shell joins.
        text: writes it for a PNG.
        read_command: reads it from there; raises UserError if it is anything else.
        with_flags: rewrites a message so that it names settings by their flags.
    """

    sampling: tuple[Field, ...]
    series: Mapping[str, Field]
    editing: Mapping[str, Field]
    labels: Sequence[str] | None
    block_size: int
    read: Callable[[Mapping[str, Any], SamplingConfig], SamplingConfig]
    values: Callable[[SamplingConfig], dict[str, Any]]
    begins_with: Callable[[SamplingConfig], dict[str, Any]]
    write: Callable[[Recipe], list[str]]
    text: Callable[[Recipe], str]
    read_command: Callable[[str], ReadCommand]
    with_flags: Callable[[str], str]
