"""Loads weights from a file into modules and optimizers, and checks everything in the file."""

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from utils.errors import one_line

Module = TypeVar("Module", bound=nn.Module)

ENTRY_BYTES = 64  # of an entry in a container, in `check_extent`
MOST_LEVELS = 100  # of containers in containers; the code that uses them may be recursive


def build_with_weights(build: Callable[[], Module], weights: Mapping[str, Tensor]) -> Module:
    """Build a module on the CPU, in evaluation mode, from a state dict.

    The module is built without memory and takes over the given tensors. So a configuration that
    needs more than the file holds is refused before any memory is allocated.

    Raises:
        ValueError: in one line, if the module cannot be built or the weights are not its own.
    """
    try:
        with torch.device("meta"):
            module = build()
        check_weights(module.state_dict(), weights)
        module.load_state_dict(weights, assign=True)
    except Exception as error:
        # A damaged configuration can fail in any way.
        raise ValueError(one_line(error)) from error
    return module.eval()


def with_linear_weights_in(dtype: torch.dtype, module: Module) -> Module:
    """Copy a module; in the copy the weights and biases of linear layers have this dtype.

    All other parameters and buffers of the copy are those of the module.
    """
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    own = {id(weight) for layer in linear for weight in layer.parameters()}
    tensors = chain(module.parameters(), module.buffers())
    copied = copy.deepcopy(module, {id(t): t for t in tensors if id(t) not in own})
    for layer in copied.modules():
        if isinstance(layer, nn.Linear):
            layer.to(dtype)
    return copied


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a module.

    Raises:
        ValueError: as `check_weights`; the module is then unchanged.
    """
    check_weights(module.state_dict(), weights)
    module.load_state_dict(weights)


def load_moments(
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    moments: Iterable[str] = ("exp_avg", "exp_avg_sq"),
    counts: Iterable[str] = ("step",),
) -> None:
    """Load the moments and step counts of a saved state; the optimizer keeps its settings.

    Args:
        optimizer: an optimizer of the same weights as the saved one.
        state: the saved state dict.
        moments: names of the tensors that it keeps for each weight, in the weight's shape; AdamW's.
        counts: names of the numbers that it keeps for each weight; AdamW's.

    Raises:
        ValueError: if the moments do not fit the optimizer's weights.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    found = state["state"]  # by the number of the weight; empty before the first step
    if found and set(found) != set(range(len(weights))):
        raise ValueError(f"moments of {len(found)} weights instead of {len(weights)}")
    for number, entries in found.items():
        like = dict.fromkeys(moments, weights[number]) | dict.fromkeys(counts, torch.zeros(()))
        check_weights(like, entries)
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": found, "param_groups": settings})


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check that the found tensors are finite and have the names, shapes and dtypes expected.

    Raises:
        ValueError: naming the first tensor that is wrong.
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"{type(found).__name__} instead of weights")
    for name, tensor in expected.items():
        value = found.get(name)
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is missing")
        if value.shape != tensor.shape or value.dtype != tensor.dtype:
            raise ValueError(f"{name} is {_kind(value)} instead of {_kind(tensor)}")
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    for name in found:
        if name not in expected:
            raise ValueError(f"{name} is not part of it")


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


def _kind(tensor: Tensor) -> str:
    """Name the dtype and the shape of a tensor, for a message."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(parameter.numel() for parameter in module.parameters())


def check_extent(value: Any, most_bytes: int) -> None:
    """Refuse containers that hold themselves, are too deep, or are too large in a full walk.

    A list that holds a list twice, which holds a list twice, and so on, is small in memory. But a
    walk through it visits each entry once per path to it.

    Args:
        value: the contents of a file.
        most_bytes: largest size of all entries and of their paths, counted at each visit.

    Raises:
        ValueError: naming the problem.
    """
    waiting = [(value, 1, 0)]  # with the level, and the length of the path
    while waiting:
        value, level, path = waiting.pop()
        most_bytes -= ENTRY_BYTES + path
        if isinstance(value, Tensor):
            most_bytes -= value.numel() * value.element_size()
        elif isinstance(value, str | bytes):
            most_bytes -= len(value)
        elif isinstance(value, Mapping | list | tuple | set):
            if level > MOST_LEVELS:
                raise ValueError(
                    f"its containers hold themselves, or are nested over {MOST_LEVELS} levels deep"
                )
            most_bytes -= ENTRY_BYTES * len(value)
            if most_bytes >= 0:
                waiting += [(entry, level + 1, path + size) for entry, size in _entries(value)]
        if most_bytes < 0:
            raise ValueError("its containers repeat what they hold too often")


def _entries(container: Any) -> Iterable[tuple[Any, int]]:
    """Return what a container holds, each with the length of its key as a text."""
    if isinstance(container, Mapping):
        # A tuple counts as one value. Its length is that of its parts, which are plain.
        return [(entry, len(str(key))) for key, entry in container.items()]
    return [(entry, len(str(len(container)))) for entry in container]
