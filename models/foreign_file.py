"""A checkpoint of another program, and the weights of a network in it, inside any wrappers.

Programs put a state dict into other containers ({"state_dict": {"model": ...}}), and modules into
other modules (`module.` of DataParallel, `_orig_mod.` of torch.compile, a project's own `vqvae.`).
Both happen in any order and depth, and to parts of a network too (`encoder.module.conv_in`). This
file knows no names of wrappers, except those of averages. A network is where all its weights are.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from utils.errors import UserError, one_line
from utils.plain import NOTHING
from utils.torch_file import OPTIMIZER, read_json

log = logging.getLogger(__name__)

# Words in a wrapper's name that mark averaged weights, which are preferred.
AVERAGED = frozenset({"ema", "swa", "avg", "average", "averaged", "shadow"})
# Modules that torch puts around others. They may also wrap a part of a network.
INSIDE = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


@dataclass(frozen=True)
class ForeignFile:
    """A checkpoint of another program.

    Attributes:
        stored: all that is in the file, as `read_torch_file` returns it.
    """

    stored: Any
    path: Path

    def holds(self, signs: Collection[str]) -> bool:
        """Whether it has a network with all these weights, inside any wrappers."""
        return set(signs) <= unwrapped(self.stored, signs).weights.keys()

    def weights(
        self,
        signs: Collection[str],
        ignored: Mapping[str, str] = NOTHING,
        usual: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """Return the weights of a network; arguments and errors as in `unwrapped` and `taken`."""
        return taken(unwrapped(self.stored, signs, self.path, usual).weights, ignored)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What config.json in the same folder says; empty without one."""
        path = self.path.with_name("config.json")
        return read_json(path) if path.is_file() else {}


def holding(*networks: Collection[str]) -> Callable[[ForeignFile], bool]:
    """Return a function that tells whether a file has all these weights of one of the networks."""
    return lambda file: any(map(file.holds, networks))


class Wrapped(NamedTuple):
    """Weights and their wrappers.

    Attributes:
        wrappers: names of the wrappers, the outermost first.
        weights: tensors by their names without wrappers, also those of networks beside it.
    """

    wrappers: tuple[str, ...]
    weights: dict[str, Tensor]

    @property
    def is_averaged(self) -> bool:
        """Whether the name of a wrapper marks averaged weights."""
        words = re.findall("[A-Z]?[a-z]+|[A-Z]+", " ".join(self.wrappers))
        return not AVERAGED.isdisjoint(map(str.lower, words))

    @property
    def place(self) -> str:
        """The wrappers, for messages."""
        inside = one_line(ValueError(".".join(self.wrappers)), 80)
        return f"`{inside}`" if self.wrappers else "no wrapper"


def unwrapped(
    stored: Any, signs: Collection[str], path: Path | None = None, usual: Collection[str] = ()
) -> Wrapped:
    """Find the weights of a network.

    Args:
        stored: what `read_torch_file` returned.
        signs: names of weights that identify the network.
        path: the file, to log which of several weights are used; None logs nothing.
        usual: names of wrappers whose weights are preferred to all others.

    Returns:
        The weights with the most signs. Ties are decided in this order: weights in the usual
        wrappers, averaged weights, weights around the others. Without weights both are empty.

    Raises:
        UserError: with a path, if different weights are still tied.
    """
    candidates = [
        Wrapped((*outer, *inner), weights)
        for outer, tensors in _state_dicts(stored, ())
        for inner, weights in _networks(tensors, signs)
    ]
    if not candidates:
        return Wrapped((), {})

    def rank(one: Wrapped) -> tuple[int, bool, bool]:
        missing = sum(sign not in one.weights for sign in signs)
        return missing, set(usual).isdisjoint(one.wrappers), not one.is_averaged

    first_rank = min(map(rank, candidates))
    best = [one for one in candidates if rank(one) == first_rank]
    best = [one for one in best if not any(_is_inside(one, other) for other in best)]
    first = best[0]
    if path is None:
        return first
    for other in best[1:]:
        if not _are_equal(first.weights, other.weights):
            raise UserError(
                f"{path} holds several sets of weights, in {first.place} and {other.place}: save "
                "the right one in a file of its own"
            )
    if len(candidates) > 1:
        kind = "averaged ones" if first.is_averaged else "ones"
        log.info(
            "%s holds %d sets of weights: using the %s in %s",
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
    """Yield the tensors of each nested container, with the names of the containers around it."""
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
    """Yield each network in a state dict: names of the modules around it, and its weights."""
    for module in INSIDE:
        # Leave out what lies beside an outer module, like `n_averaged` of AveragedModel.
        inside = {name: v for name, v in tensors.items() if name.startswith(f"{module}.")}
        tensors = inside or tensors
    plain = {
        ".".join(part for part in name.split(".") if part not in INSIDE): tensor
        for name, tensor in tensors.items()
    }
    prefixes: dict[str, None] = {}  # of the names, in order
    for name in plain:
        for sign in signs:
            before = name.removesuffix(sign)
            if before != name and (not before or before.endswith(".")):
                prefixes[before] = None
    for before in prefixes:
        weights = {name[len(before) :]: v for name, v in plain.items() if name.startswith(before)}
        yield tuple(before.split(".")[:-1]), weights


def taken(weights: Mapping[str, Tensor], ignored: Mapping[str, str] = NOTHING) -> dict[str, Tensor]:
    """Return weights in float32, without the entries that have no effect on the network.

    Args:
        weights: tensors by name.
        ignored: beginnings of the names of such entries, with the reason.
    """
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in weights.items()
        if not name.startswith(tuple(ignored))
    }
