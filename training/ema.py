"""Exponential moving average of a module's weights."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class EMA(Generic[Module]):
    """Keeps an averaged copy of a module, for validation, sampling and checkpoints.

    The decay is min(decay, (1 + t) / (10 + t)) after t updates, as TensorFlow has it, so that the
    average follows quickly at first, when the weights change much.

    Attributes:
        decay: the highest decay, in [0, 1).
        module: the averaged copy, in evaluation mode and without gradients.
    """

    def __init__(self, module: Module, decay: float) -> None:
        """Copy a module and follow it; its parameter tensors must never be replaced."""
        self.decay = decay
        self.module: Module = copy.deepcopy(module).eval().requires_grad_(False)
        # Listed once: this takes a millisecond, which is long compared with a step on a GPU.
        self._averaged: list[Tensor] = list(self.module.parameters())
        self._current: list[Tensor] = list(module.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average toward the weights of the module; its buffers never change.

        Args:
            step: number of updates before this one.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, self._current, 1 - decay)
