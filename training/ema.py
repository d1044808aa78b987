"""Exponential moving average of a module's weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class EMA(Generic[Module]):
    """Keeps an averaged copy of a module: the weights to validate, to sample with and to publish.

    The decay is min(decay, (1 + t) / (10 + t)) after t updates, so that the average follows quickly
    while the weights still move far.

    Attributes:
        decay: the highest decay, in [0, 1).
        module: the averaged copy, in evaluation mode and without gradients.
    """

    def __init__(self, module: Module, decay: float) -> None:
        """Copy a module as it is now."""
        self.decay = decay
        self.module: Module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: Module, step: int) -> None:
        """Move the average towards the weights of a module.

        Buffers are copied as they are.

        Args:
            module: the one that was copied, some updates later.
            step: number of updates before this one.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
