"""The one-step student of Di[M]O (Zhu et al. 2025): its teacher's network and noise on the input.

Axes: B batch, L image tokens, E embedding.
"""

import numpy as np
import torch
from torch import Tensor

from models.dimo.config import DimoConfig
from models.maskgit.transformer import MaskedTransformer
from utils.device import send
from utils.seeding import rng


class DimoTransformer(MaskedTransformer):
    """Predicts all image tokens at once, from tokens of which many are random."""

    config: DimoConfig

    def embed(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Embed tokens int64 (B, L), with noise, and labels int64 (B,): (B, L + 1, E)."""
        x = super().embed(tokens, labels)
        image, noise = x[:, :-1], self.config.noise
        noisy = noise * noise_of(tokens, x.shape[-1]) + (1 - noise**2) ** 0.5 * image
        return torch.cat([noisy, x[:, -1:]], 1)


def noise_of(tokens: Tensor, width: int) -> Tensor:
    """Draw normal noise (B, L, width), a function of the tokens int64 (B, L) of each image.

    The tokens that an image starts from are random, so no other random numbers are needed.
    """
    rows = [rng(0, "embedding noise", *row) for row in tokens.tolist()]
    drawn = [row.standard_normal((tokens.shape[1], width), np.float32) for row in rows]
    return send(torch.from_numpy(np.stack(drawn)), tokens.device)
