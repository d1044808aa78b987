"""Reads the command line, as the rows of commands/modes.py and commands/options.py say."""

import argparse
import difflib
import re
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from commands.help import help_text
from commands.modes import MODES, Mode
from commands.option import Many, Option
from commands.options import OPTIONS
from utils.errors import UserError
from utils.version import VERSION

FORMER = {
    "--feature_net": "--features",
    "--inception_weights": "--feature_weights",
    "--save_every_minutes": "the state is saved at least every 10 minutes",
}
"""Options of version 0.1.0 that this version still takes: their flag now, or what there is now."""


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line. `line.seed` is the value of --seed, and so on for every option.

    Attributes:
        values: the value of every option, given or default.
        given: names of the options and modes that the user wrote.
        former: those of FORMER that the user wrote.
        began: when the program was started, by `time.monotonic`.
    """

    values: argparse.Namespace
    given: frozenset[str]
    modes: tuple[Mode, ...]
    former: tuple[str, ...] = ()
    began: float = field(default_factory=time.monotonic)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values, name)

    @property
    def given_values(self) -> dict[str, Any]:
        """The values of the options and modes that the user wrote, by name."""
        return {name: getattr(self, name) for name in self.given}

    def replace(self, **values: Any) -> "CommandLine":
        """Return a copy with some values changed; `given` and the modes stay."""
        return replace(self, values=argparse.Namespace(**{**vars(self.values), **values}))

    def fill(self, values: Mapping[str, Any]) -> "CommandLine":
        """Return a copy with these values for the options that the user did not give."""
        return self.replace(**{name: values[name] for name in values.keys() - self.given})

    def asks_for(self, mode: str) -> bool:
        """Return whether the mode of this name runs."""
        return any(one.name == mode for one in self.modes)


def parse(argv: Sequence[object]) -> CommandLine:
    """Parse a command line.

    Args:
        argv: its words; a notebook may also give one text, and paths and numbers as they are.

    Raises:
        UserError: naming a mistake in it.
        SystemExit: if it asks for help or for the version, which is printed.
    """
    parser = build_parser()
    try:
        words = shlex.split(argv) if isinstance(argv, str) else list(map(str, argv))
    except ValueError as error:
        raise UserError(f"{argv}: {error}") from error
    argv = _canonical_spelling(words, parser)
    written = {argument.partition("=")[0] for argument in argv}
    if not {"-h", "--help"}.isdisjoint(argv):
        _answer(help_text([mode for mode in MODES if mode.flag in written]))
    if "--version" in argv:
        _answer(f"MaskGIT {VERSION}\n")
    found = vars(parser.parse_args(argv))
    found.pop("former", None)
    rows = {row.name: row for row in (*MODES, *OPTIONS.values())}
    given = {
        name: rows[name].read(words if isinstance(words, list) else [words])
        for name, words in found.items()
    }
    values = {name: row.default_value for name, row in rows.items()} | given
    chosen = tuple(mode for mode in MODES if values[mode.name])
    if not chosen:
        flags = ", ".join(mode.flag for mode in MODES)
        parser.error(f"choose what to do: {flags}")
    former = tuple(name for name in FORMER if name in written)
    return CommandLine(argparse.Namespace(**values), frozenset(given), chosen, former)


def _answer(text: str) -> NoReturn:
    """Print a text and end the process; raises an OSError if it cannot be written."""
    sys.stdout.write(text)
    sys.stdout.flush()
    raise SystemExit(0)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all modes and options; commands/help.py writes the help.

    What it returns holds only the options that were given, each with its words.
    """
    parser = _Parser(
        prog="MaskGIT.py",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    # Also -1,0,3,2 and -inf are values.
    parser._negative_number_matcher = re.compile(r"-(?:[\d.]|(?:inf|nan)$)")
    parser.add_argument("-h", "--help", "--version", action="store_true")
    for option in (*MODES, *OPTIONS.values()):
        _add(parser, option)
    for name in FORMER.keys() - set(_names(parser)):  # without effect
        parser.add_argument(name, dest="former")
    return parser


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    """Add an option or a mode."""
    names = (option.flag, *(former for former, now in FORMER.items() if now == option.flag))
    how: dict[str, Any] = {}
    if option.many is not None:
        how = {"nargs": "+", "action": "extend" if option.many is Many.REPEATED else "store"}
    elif option.kind is None:  # a value is accepted for programs: `--compile=False`
        how = {"nargs": "?", "const": "true"}
    elif option.bare is not None:
        how = {"nargs": "?", "const": option.bare}
    parser.add_argument(*names, **how)


def _canonical_spelling(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Spell the options of a command line as the parser does, whether written with `-` or `_`."""
    known = {_folded(name): name for name in _names(parser)}
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        result.append(known.get(_folded(name), name) + equals + value)
    return result


def _names(parser: argparse.ArgumentParser) -> Collection[str]:
    """List all options of the parser, with their dashes."""
    return [name for action in parser._actions for name in action.option_strings]


def _folded(name: str) -> str:
    """Replace the dashes inside an option's name by underscores, to compare two spellings."""
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, with a guess at the option that was meant."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError; argparse calls this."""
        if message.startswith("unrecognized arguments: "):
            wrong = message.split()[2].partition("=")[0]
            meant = _folded("--" + wrong.lstrip("-"))
            known = [name for name in _names(self) if name not in FORMER]
            close = [meant] if meant in known else []  # `train`
            if not close and wrong.startswith("-") and meant != "--":
                close = difflib.get_close_matches(meant, known, n=2)
            if close:
                message = f"unknown option {wrong}; did you mean {' or '.join(close)}?"
        elif found := re.fullmatch(r"argument (--[\w-]+).*: expected .*one argument", message):
            for row in (*MODES, *OPTIONS.values()):
                if row.flag == found[1]:
                    values = ", ".join(row.choices or ()) or row.help
                    message = f"{row.flag} needs a value, {row.unit}: {values}"
        raise UserError(f"{message} (--help shows the modes and options)")
