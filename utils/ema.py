"""Exponential moving average of a module's weights."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Keeps an averaged copy of a module: the weights to validate, to sample with and to publish.

    The decay is min(decay, (1 + t) / (10 + t)) after t updates, so that the average follows quickly
    while the weights still move far.

    Attributes:
        module: the averaged copy, in evaluation mode and without gradients.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards `module`; `step` counts updates from 0.

        Buffers (a codebook's usage, say) are copied as they are.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)
