"""Finds the weights of a network in files of other programs, whatever they are wrapped in.

Programs put a state dict into other dictionaries ({"state_dict": {"model": ...}}), and modules into
other modules (`module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of Lightning).
Both happen in any order and depth, and to parts of a network too (`encoder.module.conv_in`).
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

log = logging.getLogger(__name__)

AVERAGED = ("ema", "params_ema")  # wrappers of averaged weights, which are the better ones
WRAPPERS = frozenset(
    {*AVERAGED, "state_dict", "model_state_dict", "model", "net", "params", "module", "_orig_mod"}
)
INSIDE = ("module", "_orig_mod")  # may also wrap a part of a network


class Wrapped(NamedTuple):
    """Weights, and what they were wrapped in.

    Attributes:
        wrappers: names of the wrappers, from the outermost in.
        weights: tensors by their names without wrappers, with those of other networks beside them.
    """

    wrappers: tuple[str, ...]
    weights: dict[str, Tensor]


NOTHING = Wrapped((), {})


def unwrapped(
    stored: Any, signs: Collection[str], path: Path | None = None, more: Collection[str] = ()
) -> Wrapped:
    """Find the weights of a network.

    Args:
        stored: what `read_torch_file` returned.
        signs: names of weights by which the network is recognised.
        path: the file, to log which of several weights are taken; None logs nothing.
        more: names of further wrappers, of this network alone.

    Returns:
        The weights with the most signs; of several those that are averaged, then those with the
        fewest wrappers. NOTHING if there are none.
    """
    known = WRAPPERS.union(more)
    candidates = [
        Wrapped((*outer, *inner), weights)
        for outer, tensors in _state_dicts(stored, (), known)
        for inner, weights in _networks(tensors, signs, known)
    ]
    if not candidates:
        return NOTHING

    def rank(candidate: Wrapped) -> tuple[int, bool, int]:
        missing = sum(sign not in candidate.weights for sign in signs)
        is_averaged = not set(AVERAGED).isdisjoint(candidate.wrappers)
        return missing, not is_averaged, len(candidate.wrappers)

    best = min(candidates, key=rank)
    if path is not None and len(candidates) > 1:
        where = ".".join(best.wrappers) or "the outermost"
        log.info("%s holds %d sets of weights: %s are taken", path, len(candidates), where)
    return best


def _state_dicts(
    stored: Any, outer: tuple[str, ...], known: frozenset[str]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the tensors of each dictionary inside known wrappers, with the names of these."""
    if not isinstance(stored, Mapping):
        return
    texts = {name: value for name, value in stored.items() if isinstance(name, str)}
    yield outer, {name: value for name, value in texts.items() if isinstance(value, Tensor)}
    for name, value in texts.items():
        if name in known:
            yield from _state_dicts(value, (*outer, name), known)


def _networks(
    tensors: Mapping[str, Tensor], signs: Collection[str], known: frozenset[str]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield each network in a state dict: the modules around it, and its weights."""
    plain = {}
    inner: dict[str, tuple[str, ...]] = {}  # by what stands before the names
    for name, tensor in tensors.items():
        name = ".".join(part for part in name.split(".") if part not in INSIDE)
        plain[name] = tensor
        for sign in signs:
            before = name.removesuffix(sign)
            if before == name:
                continue
            *modules, last = before.split(".")
            if not last and known.issuperset(modules):
                inner[before] = tuple(modules)
    for before, around in inner.items():
        weights = {name[len(before) :]: v for name, v in plain.items() if name.startswith(before)}
        yield around, weights
