"""Translates between settings, the names in the program, and options, the names for the user.

In the folders below commands/ a message names a setting in backticks: `cache_dir`, or
`TransformerConfig.dropout` where several configs have a field of that name. `with_flags` replaces
these names by flags. `configure` fills a config from a command line.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, TypeVar

from commands.modes import MODES
from commands.option import Fill
from commands.options import OPTIONS
from commands.parser import CommandLine
from utils.plain import to_plain

Config = TypeVar("Config")


def with_flags(text: str) -> str:
    """Replace every setting or mode in backticks by its flag; keep other words in backticks."""
    known = flags_of_settings() | {mode.name: mode.flag for mode in MODES}
    return re.sub(r"`([\w.]+)`", lambda found: known.get(found[1], found[0]), text)


@cache
def flags_of_settings() -> dict[str, str]:
    """Return the flag of every name of a setting.

    A setting has several names: the option's name, the field alone, `Config.field`, and for
    networks `tokenizer.field` or `transformer.field`. A name that several options share is left
    out.
    """
    named: defaultdict[str, set[str]] = defaultdict(set)
    for option in OPTIONS.values():
        named[option.name].add(option.flag)
        for fill in option.fills:
            named[fill.field].add(option.flag)
            named[f"{fill.config.__name__}.{fill.field}"].add(option.flag)
            if kind_of(fill.config):
                named[f"{kind_of(fill.config)}.{fill.field}"].add(option.flag)
    return {name: next(iter(flags)) for name, flags in named.items() if len(flags) == 1}


@cache
def options_of(config: Any) -> dict[str, str]:
    """Return, for each field of a config dataclass that an option fills, the option's name."""
    filled = {fill.field: name for name, fill in _fills(config)}
    return {field.name: filled[field.name] for field in fields(config) if field.name in filled}


def _fills(config: Any) -> list[tuple[str, Fill]]:
    """List the options that fill a config, each as (name, Fill).

    An option for a field of a network fills this field in every family of the same kind.
    """
    own, kind = {field.name for field in fields(config)}, kind_of(config)
    return [
        (option.name, fill)
        for option in OPTIONS.values()
        for fill in option.fills
        if fill.config is config or (kind and kind == kind_of(fill.config) and fill.field in own)
    ]


def kind_of(config: Any) -> str | None:
    """Return the kind of network of a config, "tokenizer" or "transformer"; None for others."""
    return getattr(config, "kind", None)


def configure(config: type[Config], line: CommandLine, **known: Any) -> Config:
    """Build a config from a command line.

    Args:
        config: a config dataclass.
        line: the command line.
        **known: fields whose values do not come from the command line.

    Returns:
        The config, not validated.
    """
    return config(**{**_as_fields(config, vars(line.values)), **known})


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a config with the values of the options that fill it; other options are ignored."""
    fields_of: dict[str, Any] = _as_fields(type(config), values)
    return replace(config, **fields_of)  # type: ignore[type-var]


def _as_fields(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn values by option into values by field of a config."""
    found = {}
    for name, fill in _fills(config):
        if name in values:
            value = values[name]
            found[fill.field] = fill.convert(tuple(value) if isinstance(value, list) else value)
    return found


def option_values(config: Any) -> dict[str, Any]:
    """Return the values of the options that would fill a config like this one, as parsed."""
    plain = {**vars(config), **to_plain(config)}  # which leaves some defaults out
    return {
        # A switch may mean the opposite of its field.
        name: fill.convert(value) if isinstance(value, bool) else value
        for name, fill in _fills(type(config))
        for value in [plain[fill.field]]
    }


def given_fields(kind: str, line: CommandLine) -> dict[str, Any]:
    """Return the fields of a network that the user set on the command line, with their values."""
    return {
        fill.field: fill.convert(getattr(line, name))
        for name, fill in fills_of_kind(kind)
        if name in line.given
    }


def fills_of_kind(kind: str) -> list[tuple[str, Fill]]:
    """List the options for networks of a kind, of all families, each as (name, Fill)."""
    return [
        (option.name, fill)
        for option in OPTIONS.values()
        for fill in option.fills
        if kind_of(fill.config) == kind
    ]
