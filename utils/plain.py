"""Converts dataclasses to the plain data of checkpoints and back; reading checks every type."""

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from types import MappingProxyType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
NOTHING: Mapping[str, Any] = MappingProxyType({})  # the default of arguments

# The metadata of a field that is newer than the first files with its dataclass. At its default it
# is not written, so that the fingerprints of these files do not change.
ADDED_LATER = {"added_later": True}


def written_by(write: Callable[[Any], Any], read: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the metadata of a field with its own functions to write and read its plain data.

    `read` raises ValueError for data that it cannot read.
    """
    return {"write": write, "read": read}


def to_plain(values: Any) -> dict[str, Any]:
    """Turn a dataclass into a dictionary of its fields, with lists for tuples."""
    named = {
        field.name: field.metadata.get("write", lambda value: value)(getattr(values, field.name))
        for field in fields(values)
        if not (_may_be_missing(field) and getattr(values, field.name) == field.default)
    }
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in named.items()
    }


def from_plain(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass of this kind from the return value of `to_plain`.

    Raises:
        ValueError: if a field is missing, unknown or of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{type(values).__name__} instead of a {kind.__name__}")
    hints = get_type_hints(kind)
    types = {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    optional = {field.name for field in fields(kind) if _may_be_missing(field)}  # type: ignore[arg-type]
    for name in (types.keys() ^ values.keys()) - (optional - values.keys()):
        raise ValueError(f"{name} is {'missing' if name in types else 'unknown'}")
    tuples = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    for field in fields(kind):  # type: ignore[arg-type]
        if "read" in field.metadata:
            tuples[field.name] = field.metadata["read"](tuples[field.name])
    for name, value in tuples.items():
        if not _is(value, types[name]):
            raise ValueError(f"{name} {value!r} is not of type {types[name]}")
    return kind(**tuples)


def same_value(one: Any, other: Any) -> bool:
    """Whether two values of a setting are equal; a list equals a tuple with the same items."""
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and list(one) == list(other)
    return bool(one == other)


def _may_be_missing(field: Field) -> bool:
    """Whether files may lack a field of a dataclass."""
    return bool(field.metadata.get("added_later"))


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field, such as int, float | None, tuple[int, ...]."""
    origin = get_origin(kind)
    if origin is UnionType:
        return any(_is(value, one) for one in get_args(kind))
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(entry, get_args(kind)[0]) for entry in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is (origin or kind)
