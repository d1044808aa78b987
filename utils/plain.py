"""Dataclasses as the plain data of checkpoints, and back without taking a type on trust."""

from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(values: Any) -> dict[str, Any]:
    """The fields of a dataclass, tuples as lists."""
    named = {field.name: getattr(values, field.name) for field in fields(values)}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in named.items()
    }


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `to_plain`, for a dataclass of this kind.

    Raises:
        ValueError: if a field is missing, unknown or of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{type(values).__name__} instead of a {kind.__name__}")
    types = get_type_hints(kind)
    for name in types.keys() ^ values.keys():
        raise ValueError(f"{name} is {'missing' if name in types else 'unknown'}")
    tuples = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    for name, value in tuples.items():
        if not _is(value, types[name]):
            raise ValueError(f"{name} {value!r} is not of type {types[name]}")
    return kind(**tuples)


def _is(value: Any, kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is UnionType:
        return any(_is(value, one) for one in get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(entry, get_args(kind)[0]) for entry in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (origin or kind)
