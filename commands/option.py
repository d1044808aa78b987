"""What the table in commands/options.py says about an option.

This file does not import torch, so that --help and error messages appear at once.
"""

import argparse
import difflib
import enum
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from commands import kinds
from utils.errors import UserError, value_text


class Resume(enum.Enum):
    """What happens to an option when a run is resumed; docs/options.md shows the values."""

    FORGET = ""  # the run does not keep it
    STAGE = "fixed"  # no other value, for the stage whose configs it fills
    RUN = "fixed, all stages"  # no other value, for any stage
    GROW = "may grow"  # no smaller value
    FREE = "may change"  # any value


class Many(enum.Enum):
    """How several values of an option are written."""

    LIST = "one list, written as `1 2`, `1,2` or `[1,2]`"
    WORDS = "several words"
    REPEATED = "several words, and the option may be repeated"


@dataclass(frozen=True)
class Fill:
    """A field of a config that an option fills. `convert` turns the option's value into its own."""

    config: type
    field: str
    convert: Callable[[Any], Any] = lambda value: value


OF_FIELD = object()
"""As `Option.default`: take the default of the field that the option fills."""


@dataclass(frozen=True)
class Option:
    """One row of the table.

    Attributes:
        spelling: the option as help shows it, without the two dashes.
        kind: turns a text into a value (commands/kinds.py); None for a switch.
        unit: name of a value in --help, in one word; empty for a switch.
        modes: names of the modes in which it has an effect.
        default: the value without the option; see `default_value`.
        compared: whether the modes in COMPARING compare it with the networks that they open.
        choices: the values that it accepts; None accepts any.
        many: how several values are written; None if it takes one value.
        length: how many values a list must have; None for any number.
        bare: the value if the option is written without one; None if it needs one.
    """

    spelling: str
    help: str
    kind: Callable[[str], Any] | None = None
    unit: str = ""
    modes: frozenset[str] = frozenset()
    fills: tuple[Fill, ...] = ()
    default: Any = OF_FIELD
    compared: bool = False
    resume: Resume = Resume.FORGET
    choices: Collection[str] | None = field(default=None, hash=False)  # may be a table's keys
    many: Many | None = None
    length: int | None = None
    bare: str | None = None

    @property
    def name(self) -> str:
        """The spelling with underscores, as in `CommandLine.values`."""
        return self.spelling.replace("-", "_")

    @property
    def flag(self) -> str:
        """The option as the user writes it."""
        return f"--{self.spelling}"

    @property
    def usage(self) -> str:
        """The option with the name of its value, in brackets if the value may be left out."""
        unit = f"[{self.unit}]" if self.bare is not None else self.unit
        return f"{self.flag} {unit}".rstrip()

    @property
    def default_value(self) -> Any:
        """The value without the option; tuples of a config become lists, as the parser makes."""
        if self.default is not OF_FIELD:
            return self.default
        if not self.fills:
            return False if self.kind is None else None
        value = getattr(self.fills[0].config, self.fills[0].field)
        return list(value) if isinstance(value, tuple) else value

    @property
    def default_text(self) -> str:
        """The default as on the command line; empty for no value, and for a switch."""
        value = self.default_value
        if value is None or value is False:
            return ""
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    @property
    def is_path(self) -> bool:
        """Whether the value is the path of a file or folder."""
        return self.kind in (kinds.path, kinds.checkpoint)

    def read(self, words: Sequence[str]) -> Any:
        """Read the value from the words after the option: a single one, unless it has `many`.

        Raises:
            UserError: naming the option and what it needs, if it does not accept them.
        """
        kind: Callable[[str], Any] = self.kind or kinds.switch
        try:
            is_list = self.many is Many.LIST and words
            values = kind(" ".join(words)) if is_list else [kind(word) for word in words]
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise UserError(f"{self.flag}: {error}") from error
        for value in values:
            if self.choices is not None and value not in self.choices:
                close = difflib.get_close_matches(value[:40].lower(), self.choices, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                known = f"(choose from {', '.join(self.choices)}){hint}"
                raise UserError(f"{self.flag}: invalid choice: {value[:40]!r} {known}")
        if self.length not in (None, len(values)):
            usual = ",".join(map(str, self.default_value))
            need = f"{self.flag} needs {self.length} numbers, as in [{usual}]"
            raise UserError(f"{need}; got {values}")
        return values if self.many is not None else values[0]

    def read_plain(self, value: Any) -> Any:
        """Read the value from plain data, as that of a JSON file; errors as in `read`."""
        if value is None and self.default_value is None:
            return None
        words = value if self.many is not None and isinstance(value, list) else [value]
        found = self.read([str(word) for word in words])
        if found != value or isinstance(found, bool) != isinstance(value, bool):  # true is not 1
            raise UserError(f"{self.flag} {value_text(value)[:80]} is not a value of this option")
        return found


@dataclass(frozen=True)
class Group:
    """Options under one title in help and in docs/options.md.

    Attributes:
        home: the mode whose help shows these options, and to which the help of a training refers,
            because it uses them only for sample grids and scores. None shows them in every help.
    """

    title: str
    options: tuple[Option, ...] = field(repr=False)
    home: str | None = None
