"""What the page knows of the command line: descriptions of settings, and a writer of commands.

commands/page.py fills these in from the table of options, so that defaults, ranges and help texts
are written only there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.edit_region import Box
from models.generator import ImageSeries
from models.sampling import SamplingConfig

if TYPE_CHECKING:
    from page.catalog import Catalog

Field = Mapping[str, Any]
"""A setting as a form shows it, for the browser: plain data by name.

name, title and help are texts; default is what the form begins with, null for an empty field. kind
is "switch", "choice" with its choices, "numbers" with their length (null for any), or "number" with
is_whole (whether it must be whole) and its bounds, each null for none: low, high, and above, which
it must exceed.
"""


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
        usual: the settings that the command line takes where none are given.
        edited: what is edited; None for images that are all new.
        start: the file of the tokens that they continue from; None for no such file.
    """

    model: Path
    series: ImageSeries
    labels: Sequence[str]
    usual: SamplingConfig
    edited: EditedPart | None = None
    start: str | None = None


@dataclass(frozen=True)
class CommandForm:
    """The command line, as far as the page needs it.

    Attributes:
        series: in the page's own names "count", "seed" and "first_image".
        editing: in the page's own names "grow" and "keep_decoded".
        labels: the classes that the form begins with, as the user wrote them; None for all.
        block_size: images that are computed at once, at most.
        read: turns values by name into settings of sampling; those that are missing are as in the
            given settings, but options of the command line win. Raises UserError for a wrong one.
        values: turns settings of sampling into values by name.
        begins_with: the same, but options of the command line win.
        ignored: names the settings that others leave without effect.
        write: writes the command that makes images again, in lines that a shell joins.
        texts: says for a PNG how it was made; takes the fingerprint of the model, too.
        refill: takes a file of any kind, the id of the model that the tab shows, and the models;
            returns what the form must hold to make this picture again, None if it does not say how.
            Raises UserError if the page cannot do that.
        with_flags: rewrites a message so that it names settings by their flags.
    """

    sampling: Sequence[Field]
    series: Sequence[Field]
    editing: Sequence[Field]
    labels: Sequence[str] | None
    block_size: int
    read: Callable[[Mapping[str, Any], SamplingConfig], SamplingConfig]
    values: Callable[[SamplingConfig], dict[str, Any]]
    begins_with: Callable[[SamplingConfig], dict[str, Any]]
    ignored: Callable[[SamplingConfig], list[str]]
    write: Callable[[Recipe], list[str]]
    texts: Callable[[Recipe, str], dict[str, str]]
    refill: Callable[[bytes, str, "Catalog"], dict[str, Any] | None]
    with_flags: Callable[[str], str]
