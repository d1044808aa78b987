"""Keeps all codes of the codebook in use.

Without this, most codes of a VQ-GAN are never chosen, get no gradient and stay unused ("collapse").
So the codes start at encoder outputs, and dead codes, which are hardly used, are moved to encoder
outputs, as in Dhariwal et al. 2020 (Jukebox).

Axes: N encoder outputs, K codes, D width of a code.
"""

import numpy as np
import torch
from torch import Tensor

from models.codes import count_codes
from models.vqgan.quantizer import VectorQuantizer, nearest_codes
from utils.device import send

USAGE_DECAY = 0.99  # decay per step of the running mean of a code's usage
FIRST_ROUNDS = 10  # how often unused codes are moved at the start


def draw_order(weights: Tensor, uniform: Tensor) -> Tensor:
    """Return a random order, as drawn by weight without replacement.

    The method is that of Efraimidis and Spirakis 2006: sort by log(u) / weight.

    Args:
        weights: (N,), not negative.
        uniform: (N,) in [0, 1), the randomness.

    Returns:
        int64 (N,), a permutation; items of weight 0 come last.
    """
    return (uniform.log() / weights).argsort(descending=True, stable=True)


class CodebookCare:
    """Counts how codes are used and moves dead ones to a new place.

    Attributes:
        usage: float (K,), running mean of each code's use, relative to the average code.
        is_frozen: whether the codes stay where they are.
    """

    def __init__(
        self,
        quantizer: VectorQuantizer,
        averaged: VectorQuantizer,
        optimizer: torch.optim.Optimizer,
        revive_below: float,
    ) -> None:
        """Watch a codebook.

        Args:
            quantizer: the codebook that is trained.
            averaged: its moving average; revived codes are copied there.
            optimizer: its optimizer; the moments of revived codes are set to 0.
            revive_below: a code whose usage is lower is dead.
        """
        self.quantizer, self.averaged, self.optimizer = quantizer, averaged, optimizer
        self.revive_below = revive_below
        self.is_frozen = not quantizer.embedding.weight.requires_grad
        self.usage = torch.ones(len(quantizer.codes), device=quantizer.embedding.weight.device)

    @torch.no_grad()
    def initialize(self, vectors: Tensor, generator: np.random.Generator) -> None:
        """Place the codes on encoder outputs, spread so that all are used.

        Args:
            vectors: encoder outputs, float32 (N, D).
        """
        codes = torch.zeros_like(self.quantizer.codes)
        unused = torch.ones_like(self.usage, dtype=torch.bool)
        for _ in range(FIRST_ROUNDS):
            tokens = nearest_codes(vectors, codes)  # (N,)
            drawn = _draw(unused, vectors, codes[tokens], generator)  # (K, D)
            codes = torch.where(unused[:, None], drawn, codes)
            unused = count_codes(nearest_codes(vectors, codes), len(codes)) == 0
        self._write(self.quantizer, codes)
        self._write(self.averaged, codes)

    @torch.no_grad()
    def count(self, tokens: Tensor) -> None:
        """Update `usage` with the tokens of a step, int64 of any shape."""
        counts = count_codes(tokens, len(self.usage))
        self.usage.lerp_(counts * (len(self.usage) / tokens.numel()), 1 - USAGE_DECAY)

    @torch.no_grad()
    def revive(
        self, vectors: Tensor, tokens: Tensor, generator: np.random.Generator, allowed: Tensor
    ) -> None:
        """Move dead codes to encoder outputs, preferably to outputs that are far from their code.

        Args:
            vectors: encoder outputs, float32 (N, D).
            tokens: their codes, int64 (N,).
            allowed: bool scalar on the device; nothing is moved if it is False.
        """
        if self.is_frozen:
            return
        # Move the codes, in the trained codebook and in its average.
        codes = self.quantizer.codes
        dead = (self.usage < self.revive_below) & allowed  # (K,)
        drawn = _draw(dead, vectors, codes[tokens], generator)  # (K, D)
        column = dead[:, None]
        self._write(self.quantizer, torch.where(column, drawn, codes))
        self._write(self.averaged, torch.where(column, drawn, self.averaged.codes))
        # Reset the usage of a moved code to the average: it needs time before the next check.
        self.usage.copy_(torch.where(dead, 1.0, self.usage))
        # The moments belong to the old position.
        rows = self._rows(self.quantizer)
        for moment in self._moments():
            moment[rows] = torch.where(column, 0.0, moment[rows])

    def _moments(self) -> list[Tensor]:
        """The optimizer's two moments of the codebook."""
        state = self.optimizer.state[self.quantizer.embedding.weight]
        return [state[name] for name in ("exp_avg", "exp_avg_sq")]

    def _write(self, quantizer: VectorQuantizer, codes: Tensor) -> None:
        """Set the codes (K, D) of a quantizer."""
        quantizer.embedding.weight[self._rows(quantizer)] = codes

    @staticmethod
    def _rows(quantizer: VectorQuantizer) -> Tensor | slice:
        """Return the rows of the K codes in the codebook."""
        return slice(None) if quantizer.used is None else quantizer.used


def _draw(dead: Tensor, vectors: Tensor, codes: Tensor, generator: np.random.Generator) -> Tensor:
    """Draw a new position for each dead code from the encoder outputs, by squared distance.

    As in k-means++, outputs far from every code are preferred, where a new code helps most. Nothing
    here waits for the device.

    Args:
        dead: bool (K,).
        vectors: encoder outputs, float32 (N, D).
        codes: the nearest code of each output, (N, D).

    Returns:
        (K, D), rows of `vectors`; dead codes get different ones if N is large enough.
    """
    uniform = generator.random(len(vectors), dtype=np.float32)
    squared_error = (vectors - codes).square().sum(1)  # (N,)
    order = draw_order(squared_error, send(uniform, vectors.device))
    # The first dead code takes the first of the order, the next one the second, and so on.
    rank = (dead.cumsum(0) - 1).clamp_min(0) % len(vectors)  # (K,)
    return vectors[order[rank]]
