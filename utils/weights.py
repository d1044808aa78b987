"""Weights of a file into modules and optimisers, where nothing in the file is taken on trust."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from utils.errors import one_line

Module = TypeVar("Module", bound=nn.Module)


def build_with_weights(build: Callable[[], Module], weights: Mapping[str, Tensor]) -> Module:
    """Build a module on the CPU, in evaluation mode, that holds these weights.

    It is built without memory and takes the tensors as they are, so that a configuration that asks
    for more than the file holds is refused before anything is allocated.

    Raises:
        ValueError: in one line, if the module cannot be built or the weights are not its own.
    """
    try:
        with torch.device("meta"):
            module = build()
        check_weights(module.state_dict(), weights)
        module.load_state_dict(weights, assign=True)
    except Exception as error:
        # What a damaged configuration leads to can fail in any way.
        raise ValueError(one_line(error)) from error
    return module.eval()


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a module; errors as `check_weights`, and the module is then as it was."""
    check_weights(module.state_dict(), weights)
    module.load_state_dict(weights)


def load_moments(optimizer: torch.optim.AdamW, state: Mapping[str, Any]) -> None:
    """Go on with the moments and step counts of a saved state; the settings stay the optimiser's.

    Raises:
        ValueError: if the moments are not those of the optimiser's weights.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = state["state"]  # by the number of the weight; empty before the first step
    if moments and set(moments) != set(range(len(weights))):
        raise ValueError(f"moments of {len(moments)} weights instead of {len(weights)}")
    for number, entries in moments.items():
        like = {"exp_avg": weights[number], "exp_avg_sq": weights[number], "step": torch.zeros(())}
        check_weights(like, entries)
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": settings})


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check that tensors have the names, shapes and dtypes of others and are finite.

    Raises:
        ValueError: naming the first that does not.
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


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
