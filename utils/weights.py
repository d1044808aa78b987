"""Weights of modules: states of a training are loaded, and copies in another precision are made."""

import copy
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from utils.checkpoint import check_weights
from utils.errors import counted

Module = TypeVar("Module", bound=nn.Module)


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
        raise ValueError(f"moments of {counted(len(found), 'weight')} instead of {len(weights)}")
    for number, entries in found.items():
        like = dict.fromkeys(moments, weights[number]) | dict.fromkeys(counts, torch.zeros(()))
        check_weights(like, entries)
    settings = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": found, "param_groups": settings})


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(parameter.numel() for parameter in module.parameters())
