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
        """Copy a module as it is now; the average follows this module, whose tensors must stay."""
        self.decay = decay
        self.module: Module = copy.deepcopy(module).eval().requires_grad_(False)
        # Listed once: finding them takes a millisecond, which is long beside a step on a GPU.
        self._averaged: list[Tensor] = list(self.module.parameters())
        self._current: list[Tensor] = list(module.parameters())
        self._buffers = list(zip(self.module.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average toward the weights of the module.

        Buffers are copied as they are.

        Args:
            step: number of updates before this one.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, self._current, 1 - decay)
        for mine, theirs in self._buffers:
            mine.copy_(theirs)
