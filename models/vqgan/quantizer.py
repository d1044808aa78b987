"""Vector quantisation: each encoder output becomes the nearest row of a codebook.

van den Oord et al. 2017, in the form of taming-transformers' VectorQuantizer2. Axes: B batch,
D width of a code, h w token grid, N = B * h * w vectors, K codes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vqgan.config import VQGANConfig

# Share of the commitment loss. taming's default ("legacy") puts it on the codebook loss instead.
# We train with the published form: with Adam a factor on the codebook loss hardly matters, since
# the codes have no other gradient, while the swap quadruples the pull of the codes on the encoder.
# Loading does not depend on it.
COMMITMENT = 0.25


class Quantized(NamedTuple):
    """What the quantiser makes of encoder outputs."""

    vectors: Tensor  # (B, D, h, w), gradients pass straight through to the encoder outputs
    tokens: Tensor  # int64, (B, h, w) with sane_index_shape, else flat (B * h * w,)
    loss: Tensor  # scalar, codebook and commitment loss


def nearest_codes(vectors: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code by Euclidean distance.

    Args:
        vectors: float (N, D).
        codes: float (K, D).

    Returns:
        int64 (N,) in [0, K); the lowest index on ties.
    """
    # |v - c|^2 without |v|^2, which is the same for all codes.
    distance = torch.addmm(codes.square().sum(1), vectors, codes.T, alpha=-2)  # (N, K)
    return distance.argmin(1)


def straight_through(quantized: Tensor, original: Tensor) -> Tensor:
    """The value of `quantized` with the gradient of `original`."""
    return original + (quantized - original).detach()


def codebook_loss(codes: Tensor, vectors: Tensor) -> Tensor:
    """Mean squared distance: pulls codes to vectors and, more weakly, vectors to codes.

    Args:
        codes: the chosen codes, float, any shape.
        vectors: the encoder outputs, same shape.
    """
    pull_codes = F.mse_loss(codes, vectors.detach())
    pull_vectors = F.mse_loss(vectors, codes.detach())
    return pull_codes + COMMITMENT * pull_vectors


def codebook_usage(counts: Tensor) -> tuple[float, float]:
    """How well a codebook is used.

    Args:
        counts: (K,), how often each code was chosen; at least one is positive.

    Returns:
        The share of the codes chosen at all, in (0, 1], and the perplexity of the choice, in
        [1, K]: K if all codes are chosen equally often.
    """
    counts = counts.cpu().double()  # not every device has float64
    shares = counts / counts.sum()
    entropy = -torch.xlogy(shares, shares).sum()
    return (counts > 0).double().mean().item(), entropy.exp().item()


class VectorQuantizer(nn.Module):
    """The codebook.

    With `config.remap` the tokens number the used codes alone. Vectors are then compared with the
    used codes alone, so that a vector whose nearest code is unused takes the nearest used one
    (taming draws a used one at random, which makes its tokens differ from call to call).
    """

    used: Tensor | None

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.sane_index_shape = config.sane_index_shape
        self.embedding = nn.Embedding(config.n_embed, config.embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.n_embed, 1 / config.n_embed)
        used = None if config.remap is None else torch.tensor(config.remap)
        self.register_buffer("used", used)

    @property
    def codes(self) -> Tensor:
        """The codes that tokens stand for, (K, D)."""
        weight = self.embedding.weight
        return weight if self.used is None else weight[self.used]

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise encoder outputs (B, D, h, w), in float32 whatever their precision."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float().permute(0, 2, 3, 1)  # (B, h, w, D)
            tokens = self.tokens(vectors)  # (B, h, w)
            codes = self.lookup(tokens)  # (B, h, w, D)
            loss = codebook_loss(codes, vectors)
            output = straight_through(codes, vectors).permute(0, 3, 1, 2)
        return Quantized(output, tokens if self.sane_index_shape else tokens.flatten(), loss)

    @torch.no_grad()
    def tokens(self, vectors: Tensor) -> Tensor:
        """Nearest codes of vectors float32 (B, h, w, D): int64 (B, h, w) in [0, K)."""
        flat = vectors.detach().reshape(-1, vectors.shape[-1])
        return nearest_codes(flat, self.codes).view(vectors.shape[:-1])

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codes of tokens: int64 (...,) in [0, K) -> (..., D)."""
        rows = tokens if self.used is None else self.used[tokens]
        return F.embedding(rows, self.embedding.weight)
