"""Translates the names of weights between this program and others, by tables of patterns."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")
Names = Iterable[tuple[str, str]]
"""Pairs (the other program's name, ours). Each `*` stands for the same text in both."""


def renamed(name: str, names: Names, *, to_ours: bool = True) -> str | None:
    """Translate a name by the first pair that matches it; None without one."""
    for theirs, ours in names:
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        match = re.fullmatch(re.escape(source).replace(r"\*", "(.+?)"), name)
        if match:
            return target.replace("*", "{}").format(*match.groups())
    return None


def all_renamed(
    weights: Mapping[str, Value], names: Names, *, to_ours: bool = True
) -> dict[str, Value]:
    """Translate the names of weights; names that no pair matches stay as they are."""
    return {renamed(name, names, to_ours=to_ours) or name: v for name, v in weights.items()}


def levels_turned(weights: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Number the modules after a prefix from the other end: 0, 1, 2 becomes 2, 1, 0."""
    numbered = re.compile(re.escape(prefix) + r"(\d+)(\..*)")
    found = [(numbered.fullmatch(name), name, value) for name, value in weights.items()]
    last = max((int(match[1]) for match, _, _ in found if match), default=0)
    return {
        f"{prefix}{last - int(match[1])}{match[2]}" if match else name: value
        for match, name, value in found
    }
