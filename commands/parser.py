"""Reads the command line and writes --help, both from the rows of commands/options.py."""

import argparse
import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from commands import kinds
from commands.mode import Mode
from commands.options import DRY_RUN, GROUPS, OPTIONS, Many, Option
from utils.version import VERSION

DESCRIPTION = """\
Train a MaskGIT and sample from it: a frozen VQ-GAN turns images into tokens, a bidirectional
transformer learns to fill in hidden tokens, and images are decoded in a few parallel steps."""

EXAMPLES = """\
examples:
  python MaskGIT.py --train --sample --dataset fashionmnist
  python MaskGIT.py --train_vae --train --sample --dataset cifar10
  python MaskGIT.py --train --dataset cifar10 --checkpoint_vae VQGAN_cifar10.pt
  python MaskGIT.py --sample --checkpoint runs/cifar10/MaskGIT_cifar10.pt --cfg_w 2

Both - and _ may stand between the words of an option. Modes can be combined; they run in the
order above.
"""


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line. `line.seed` is the value of --seed, and so on for every option.

    Attributes:
        values: the value of every option, given or default.
        given: names of the options and modes that the user wrote.
        modes: the modes to run, in their order.
    """

    values: argparse.Namespace
    given: frozenset[str]
    modes: tuple[Mode, ...]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values, name)

    def replace(self, **values: Any) -> "CommandLine":
        """Return a copy with some values changed; `given` and the modes stay."""
        changed = argparse.Namespace(**{**vars(self.values), **values})
        return CommandLine(changed, self.given, self.modes)

    def asks_for(self, mode: str) -> bool:
        """Return whether the mode of this name runs."""
        return any(one.name == mode for one in self.modes)


def parse(argv: Sequence[str], modes: Sequence[Mode]) -> CommandLine:
    """Parse a command line; a mistake ends the process with one line on stderr and code 2.

    Args:
        argv: the arguments, without the program's name.
        modes: all modes, in the order in which they run.
    """
    parser = build_parser(modes)
    defaults = vars(parser.parse_args([]))
    # Parse with a mark as every default, to see which options were given.
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(defaults, unset))
    parsed = vars(parser.parse_args(_canonical_spelling(argv, parser), blank))
    given = frozenset(name for name, value in parsed.items() if value is not unset)
    values = {name: parsed[name] if name in given else defaults[name] for name in defaults}
    # Check what argparse cannot check.
    for name in given & OPTIONS.keys():
        _check_length(parser, name, values[name])
    chosen = tuple(mode for mode in modes if values[mode.name])
    if not chosen:
        parser.error("choose what to do: " + ", ".join(f"--{mode.name}" for mode in modes))
    return CommandLine(argparse.Namespace(**values), given, chosen)


def parse_value(name: str, text: str, modes: Sequence[Mode] = ()) -> Any:
    """Read one value of an option as the command line does; mistakes end the process as in `parse`.

    Args:
        name: the option, without the two dashes.
        text: its value as text.
        modes: all modes.
    """
    parser = build_parser(modes)
    parsed = parser.parse_args(_canonical_spelling([f"--{name}={text}"], parser))
    value = getattr(parsed, name)
    _check_length(parser, name, value)
    return value


def _check_length(parser: argparse.ArgumentParser, name: str, value: Any) -> None:
    """End the process as in `parse` if an option has more or fewer numbers than it needs."""
    option = OPTIONS[name]
    if option.length is not None and len(value) != option.length:
        usual = ",".join(map(str, option.default_value))
        parser.error(f"{option.flag} needs {option.length} numbers, as in [{usual}]; got {value}")


def build_parser(modes: Sequence[Mode]) -> argparse.ArgumentParser:
    """Make the parser of all modes and options, in the groups of the help."""
    parser = _Parser(
        prog="MaskGIT.py",
        usage="MaskGIT.py MODE [MODE ...] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"MaskGIT {VERSION}")
    group = parser.add_argument_group("modes (at least one; they run in this order)")
    for mode in modes:
        _add_mode(group, mode)
    _add_option(group, DRY_RUN)
    for options in GROUPS:
        group = parser.add_argument_group(options.title)
        for option in options.options:
            _add_option(group, option)
    return parser


def _add_mode(group: argparse._ArgumentGroup, mode: Mode) -> None:
    """Add the option of a mode: a switch, or one with a value if the mode has a unit."""
    flag = f"--{mode.name}"
    if mode.unit is None:
        _add_switch(group, flag, mode.help)
        return
    number: dict[str, Any] = {"nargs": "?", "const": mode.default} if mode.default else {}
    if mode.takes_several:
        number = {"nargs": "+", "action": _Repeatable}
    kind = {"FILE": kinds.path, "RUN": kinds.path, "PORT": kinds.port}.get(mode.unit, kinds.text)
    group.add_argument(
        flag, metavar=mode.unit, choices=mode.choices, help=mode.help, type=kind, **number
    )


def _add_switch(group: argparse._ArgumentGroup, flag: str, text: str) -> None:
    """Add an option without a value; programs that try out options write one: `--compile=False`."""
    group.add_argument(flag, nargs="?", const=True, default=False, type=kinds.switch, help=text)


def _add_option(group: argparse._ArgumentGroup, option: Option) -> None:
    """Add an option as its row says."""
    if option.kind is None:
        _add_switch(group, option.flag, option.help)
        return
    # The help, and how argparse takes several values.
    text = option.help
    if option.choices is not None and option.default_value is not None:
        text = f"{text}: {', '.join(option.choices)}"
    several: dict[str, Any] = {}
    if option.many is not None:
        ways: dict[Many, dict[str, Any]] = {
            Many.LIST: {"nargs": "+", "action": _FlatList},
            Many.WORDS: {"nargs": "+"},
            Many.REPEATED: {"action": _Repeatable},
            Many.WORDS_REPEATED: {"nargs": "+", "action": _Repeatable},
        }
        several = ways[option.many]
    if option.bare is not None:
        several = {"nargs": "?", "const": option.bare}
    group.add_argument(
        option.flag,
        type=option.kind,
        default=option.default_value,
        metavar=option.unit,
        choices=option.choices,
        help=text,
        **several,
    )


def _canonical_spelling(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Replace `-` and `_` in the options of a command line, so that the parser knows them."""
    known = {_folded(name): name for name in _names(parser)}
    result = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        result.append(known.get(_folded(name), name) + equals + value)
    return result


def _names(parser: argparse.ArgumentParser) -> Collection[str]:
    """List all options that the parser knows, with their dashes."""
    return [name for action in parser._actions for name in action.option_strings]


def _folded(name: str) -> str:
    """Replace the dashes inside an option's name by underscores, to compare two spellings."""
    return "--" + name[2:].replace("-", "_") if name.startswith("--") else name


class _FlatList(argparse.Action):
    """Collects `1 2 2`, `1,2,2` and `[1,2,2]` into one list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [item for part in values for item in part])


class _Repeatable(argparse.Action):
    """Collects the values of an option that the user may write several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        earlier = getattr(namespace, self.dest)
        new = values if self.nargs else [values]
        setattr(namespace, self.dest, [*earlier, *new] if type(earlier) is list else new)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Adds the default to the help of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the help of an option; argparse calls this."""
        text = action.help or ""
        is_switch = action.nargs == 0 or action.const is True
        has_none = is_switch or action.default in (None, argparse.SUPPRESS)
        return text if has_none else f"{text} [%(default)s]"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """Write what follows an option; nothing after a switch. argparse calls this."""
        return "" if action.const is True else super()._format_args(action, default_metavar)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Write an option with what follows it; argparse calls this."""
        return super()._format_action_invocation(action).rstrip()


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, with a guess at the option that was meant."""

    def error(self, message: str) -> NoReturn:
        """End the process with a message; argparse calls this."""
        known = _names(self)
        if message.startswith("unrecognized arguments: --"):
            wrong = message.split()[2].partition("=")[0]
            close = difflib.get_close_matches(_folded(wrong), known, n=2)
            if close:
                message = f"unknown option {wrong}; did you mean {' or '.join(close)}?"
        self.exit(2, f"{self.prog}: error: {message} (--help lists every option)\n")
