"""What readers of other programs' files share: names, shapes and joined layers of weights."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from utils.errors import FieldError

Value = TypeVar("Value")
Names = Iterable[tuple[str, str]]
"""Pairs (the other program's name, ours). Each `*` stands for the same text in both."""

FLAX_NAMES = (("*.scale", "*.weight"), ("*.kernel", "*.weight"))  # of the kinds of weights
PARTS = ("query", "key", "value")  # of a layer `qkv`


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
    """Translate the names of weights; names that no pair matches stay as they are.

    Raises:
        ValueError: if two weights get one name.
    """
    result = {renamed(name, names, to_ours=to_ours) or name: v for name, v in weights.items()}
    if len(result) < len(weights):
        raise ValueError("two of its entries are for the same weight")
    return result


def levels_turned(weights: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Number the modules after a prefix from the other end: 0, 1, 2 becomes 2, 1, 0."""
    numbered = re.compile(re.escape(prefix) + r"(\d+)(\..*)")
    found = [(numbered.fullmatch(name), name, value) for name, value in weights.items()]
    last = max((int(match[1]) for match, _, _ in found if match), default=0)
    return {
        f"{prefix}{last - int(match[1])}{match[2]}" if match else name: value
        for match, name, value in found
    }


def averaged(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Replace weights by their averages where these have names without dots after a prefix.

    Lightning's LitEma writes such entries: `model_ema.encoderconv_inweight` and, beside them,
    `model_ema.decay` and `model_ema.num_updates`.

    Raises:
        ValueError: if an average is of no weight.
    """
    raw = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    names = {name.replace(".", ""): name for name in raw} | {"decay": "", "num_updates": ""}
    averages = {}
    for name in weights.keys() - raw.keys():
        short = name.removeprefix(prefix)
        if short not in names:
            raise ValueError(f"{name} is the average of no weight")
        averages[names[short]] = weights[name]
    averages.pop("", None)
    return {**raw, **averages}


def shape_of(weights: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a weight, to derive a config from it.

    Args:
        weights: tensors by name.
        name: the weight.
        axes: the number of its axes; each must have a length of at least 1.

    Raises:
        ValueError: if the weight is missing or has another shape.
    """
    if name not in weights:
        raise ValueError(f"{name} is missing")
    shape = tuple(weights[name].shape)
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"{name} has the shape {shape} where {axes} lengths from 1 up are needed")
    return shape


def count_modules(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Count the different numbers that follow a prefix in the names of weights."""
    return len({k[len(prefix) :].split(".")[0] for k in weights if k.startswith(prefix)})


def heads_of(width: int, given: int | None, published: Mapping[int, int]) -> int:
    """Return the number of attention heads, which weights do not show.

    Args:
        width: that of the transformer.
        given: what the user said; None takes the number of the published transformer of this width.
        published: numbers of heads by width.

    Raises:
        FieldError: if neither is known.
    """
    heads = given or published.get(width)
    if heads is None:
        raise FieldError("transformer.heads", heads, f"give the right number for width {width}")
    return heads


def with_joined_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the layers `query`, `key` and `value` of each attention to `qkv`.

    Raises:
        ValueError: if one of the three is missing.
    """
    joined = dict(weights)
    for name in [name for name in weights if ".attention.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in PARTS]
        if not weights.keys() >= set(parts):
            raise ValueError(f"{name} has no key or value beside it")
        joined[name.replace(".query.", ".qkv.")] = torch.cat([joined.pop(part) for part in parts])
    return joined


def with_split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `with_joined_qkv`."""
    split = {}
    for name, value in weights.items():
        parts = PARTS if ".attention.qkv." in name else ("qkv",)
        for part, own in zip(parts, value.chunk(len(parts)), strict=True):
            split[name.replace(".qkv.", f".{part}.")] = own
    return split
