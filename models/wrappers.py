"""Finds the weights of a network in files of other programs, whatever they are wrapped in.

Programs put a state dict into other containers ({"state_dict": {"model": ...}}), and modules into
other modules (`module.` of DataParallel, `_orig_mod.` of torch.compile, `vqvae.` of somebody). Both
happen in any order and depth, and to parts of a network too (`encoder.module.conv_in`). No names of
wrappers are known here, except those of averages: a network is where all its weights lie together.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from utils.errors import UserError, one_line

log = logging.getLogger(__name__)

# A word of a wrapper's name that says that its weights are averages, which are the better ones.
AVERAGED = frozenset({"ema", "swa", "average", "averaged", "shadow"})
OPTIMIZER = re.compile("optim|opt$")  # how containers begin that are no weights, but named alike
# Modules that torch puts around others. They may also wrap a part of a network.
INSIDE = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class Wrapped(NamedTuple):
    """Weights, and what they were wrapped in.

    Attributes:
        wrappers: names of the wrappers, from the outermost in.
        weights: tensors by their names without wrappers, with those of other networks beside them.
    """

    wrappers: tuple[str, ...]
    weights: dict[str, Tensor]

    @property
    def is_averaged(self) -> bool:
        """Whether a wrapper says that these weights are averages."""
        words = re.findall("[A-Z]?[a-z]+|[A-Z]+", " ".join(self.wrappers))
        return not AVERAGED.isdisjoint(map(str.lower, words))

    @property
    def place(self) -> str:
        """The wrappers, for messages."""
        inside = one_line(ValueError(".".join(self.wrappers)), 80)
        return f"`{inside}`" if self.wrappers else "no wrapper"


NOTHING = Wrapped((), {})


def unwrapped(
    stored: Any, signs: Collection[str], path: Path | None = None, usual: Collection[str] = ()
) -> Wrapped:
    """Find the weights of a network.

    Args:
        stored: what `read_torch_file` returned.
        signs: names of weights by which the network is recognized.
        path: the file, to say which of several weights are taken; None says nothing.
        usual: names of wrappers whose weights are taken before all others.

    Returns:
        The weights with the most signs; of several those in the usual wrappers, then those that are
        averaged, then those around the others. NOTHING if there are none.

    Raises:
        UserError: with a path, if several are left that differ, and nothing says which is meant.
    """
    candidates = [
        Wrapped((*outer, *inner), weights)
        for outer, tensors in _state_dicts(stored, ())
        for inner, weights in _networks(tensors, signs)
    ]
    if not candidates:
        return NOTHING

    def missing(candidate: Wrapped) -> int:
        return sum(sign not in candidate.weights for sign in signs)

    fewest = min(map(missing, candidates))
    best = [one for one in candidates if missing(one) == fewest]
    best = [one for one in best if not set(usual).isdisjoint(one.wrappers)] or best
    best = [one for one in best if one.is_averaged] or best
    best = [one for one in best if not any(_is_inside(one, other) for other in best)]
    first = best[0]
    if path is None:
        return first
    for other in best[1:]:
        if not _are_equal(first.weights, other.weights):
            raise UserError(
                f"{path} holds several sets of weights, in {first.place} and {other.place}: save "
                "the one that is meant in a file of its own"
            )
    if len(candidates) > 1:
        kind = "averaged ones" if first.is_averaged else "ones"
        log.info(
            "%s holds %d sets of weights: the %s in %s are taken",
            path,
            len(candidates),
            kind,
            first.place,
        )
    return first


def _is_inside(one: Wrapped, other: Wrapped) -> bool:
    """Whether the wrappers of the other set are the outer ones of this set."""
    around = len(other.wrappers)
    return len(one.wrappers) > around and one.wrappers[:around] == other.wrappers


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights are the same."""
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def _state_dicts(
    stored: Any, outer: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the tensors of each container in containers, with the names of those around it."""
    if isinstance(stored, list | tuple):
        stored = {str(index): value for index, value in enumerate(stored)}
    if not isinstance(stored, Mapping):
        return
    named = {name: value for name, value in stored.items() if isinstance(name, str)}
    yield outer, {name: value for name, value in named.items() if isinstance(value, Tensor)}
    for name, value in named.items():
        if not OPTIMIZER.match(name.lower()):
            yield from _state_dicts(value, (*outer, name))


def _networks(
    tensors: Mapping[str, Tensor], signs: Collection[str]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield each network in a state dict: the modules around it, and its weights."""
    for module in INSIDE:
        # What is beside a module that is around all is not in it, as `n_averaged` of AveragedModel.
        inside = {name: v for name, v in tensors.items() if name.startswith(f"{module}.")}
        tensors = inside or tensors
    plain = {
        ".".join(part for part in name.split(".") if part not in INSIDE): tensor
        for name, tensor in tensors.items()
    }
    prefixes: dict[str, None] = {}  # what stands before the names, in their order
    for name in plain:
        for sign in signs:
            before = name.removesuffix(sign)
            if before != name and (not before or before.endswith(".")):
                prefixes[before] = None
    for before in prefixes:
        weights = {name[len(before) :]: v for name, v in plain.items() if name.startswith(before)}
        yield tuple(before.split(".")[:-1]), weights
