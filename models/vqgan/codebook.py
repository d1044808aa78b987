"""Care for the codebook: codes start at encoder outputs, and codes that nobody uses start again.

Without it most codes of a VQ-GAN are never chosen, get no gradient and are lost ("collapse"). The
idea of moving unused codes to encoder outputs is that of Dhariwal et al. 2020 (Jukebox).

Axes: N encoder outputs, K codes, D width of a code.
"""

import numpy as np
import torch
from torch import Tensor

from models.vqgan.quantizer import VectorQuantizer, nearest_codes
from utils.device import send

USAGE_DECAY = 0.99  # of the running mean, per step
FIRST_ROUNDS = 10  # looks for unused codes at the start


def count_codes(tokens: Tensor, codebook_size: int) -> Tensor:
    """How often each code occurs: int64 (any shape) -> float (K,). Does not wait for the device."""
    flat = tokens.flatten()
    counts = torch.zeros(codebook_size, device=tokens.device)
    return counts.index_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))


def draw_order(weights: Tensor, uniform: Tensor) -> Tensor:
    """Order in which a weighted draw without replacement takes things (Efraimidis, Spirakis 2006).

    Args:
        weights: (N,), not negative.
        uniform: (N,) in [0, 1), the randomness.

    Returns:
        int64 (N,), a permutation; what has weight 0 comes last.
    """
    return (uniform.log() / weights).argsort(descending=True, stable=True)


class CodebookCare:
    """Counts how codes are used and gives dead ones a new place.

    Attributes:
        usage: float (K,), running mean of how often each code is chosen; 1 is the average code.
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
            averaged: its moving average; a revived code is copied there.
            optimizer: the one that trains it; the moments of a revived code are zeroed.
            revive_below: a code is dead where its usage is below this.
        """
        self.quantizer, self.averaged, self.optimizer = quantizer, averaged, optimizer
        self.revive_below = revive_below
        self.usage = torch.ones(len(quantizer.codes), device=quantizer.embedding.weight.device)

    @torch.no_grad()
    def initialise(self, vectors: Tensor, generator: np.random.Generator) -> None:
        """Put the codes on encoder outputs, spread so that the codes are used.

        Args:
            vectors: encoder outputs, float32 (N, D).
            generator: the randomness.
        """
        codes = torch.zeros_like(self.quantizer.codes)
        unused = torch.ones_like(self.usage, dtype=torch.bool)
        for _ in range(FIRST_ROUNDS):
            tokens = nearest_codes(vectors, codes)
            drawn = _draw(unused, vectors, codes[tokens], generator)
            codes = torch.where(unused[:, None], drawn, codes)
            unused = count_codes(nearest_codes(vectors, codes), len(codes)) == 0
        self._write(self.quantizer, codes)
        self._write(self.averaged, codes)

    @torch.no_grad()
    def count(self, tokens: Tensor) -> None:
        """Take note of the tokens of a step."""
        counts = count_codes(tokens, len(self.usage))
        self.usage.lerp_(counts * (len(self.usage) / tokens.numel()), 1 - USAGE_DECAY)

    @torch.no_grad()
    def revive(
        self, vectors: Tensor, tokens: Tensor, generator: np.random.Generator, allowed: Tensor
    ) -> None:
        """Move dead codes to encoder outputs, preferring those that are far from their code.

        Args:
            vectors: encoder outputs, float32 (N, D).
            tokens: their codes, int64 (N,).
            generator: the randomness.
            allowed: bool scalar on the device; where False nothing is moved.
        """
        codes = self.quantizer.codes
        dead = (self.usage < self.revive_below) & allowed  # (K,)
        drawn = _draw(dead, vectors, codes[tokens], generator)
        column = dead[:, None]
        self._write(self.quantizer, torch.where(column, drawn, codes))
        self._write(self.averaged, torch.where(column, drawn, self.averaged.codes))
        # As if used like the average code: it gets time to be found before it is judged again.
        self.usage.copy_(torch.where(dead, 1.0, self.usage))
        rows = self._rows(self.quantizer)
        for moment in self._moments():
            moment[rows] = torch.where(column, 0.0, moment[rows])

    def _moments(self) -> list[Tensor]:
        state = self.optimizer.state[self.quantizer.embedding.weight]
        return [state[name] for name in ("exp_avg", "exp_avg_sq")]

    def _write(self, quantizer: VectorQuantizer, codes: Tensor) -> None:
        quantizer.embedding.weight[self._rows(quantizer)] = codes

    @staticmethod
    def _rows(quantizer: VectorQuantizer) -> Tensor | slice:
        """Where the K codes are among the rows of the codebook."""
        return slice(None) if quantizer.used is None else quantizer.used


def _draw(dead: Tensor, vectors: Tensor, codes: Tensor, generator: np.random.Generator) -> Tensor:
    """A new place for each dead code: an encoder output, drawn by its squared distance.

    As in k-means++: dense regions of the latent space have codes already, and a dead code helps
    most elsewhere. Nothing here waits for the device.

    Args:
        dead: bool (K,).
        vectors: encoder outputs, float32 (N, D).
        codes: the code that each is quantised to, (N, D).
        generator: the randomness.

    Returns:
        (K, D), rows of `vectors`; different ones for dead codes if N is large enough.
    """
    uniform = torch.from_numpy(generator.random(len(vectors), dtype=np.float32))
    squared_error = (vectors - codes).square().sum(1)  # (N,)
    order = draw_order(squared_error, send(uniform, vectors.device))
    rank = (dead.cumsum(0) - 1).clamp_min(0) % len(vectors)  # (K,)
    return vectors[order[rank]]
