"""Vector quantization: each encoder output becomes the nearest row of a codebook.

van den Oord et al. 2017, in the form of taming-transformers' VectorQuantizer2. Axes: B batch,
D width of a code, h w token grid, N = B * h * w vectors, K codes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vqgan.config import VQGANConfig

# Weight of the commitment loss, which pulls encoder outputs to their codes, as published. taming's
# default ("legacy") puts it on the codebook loss instead, where it has little effect: the codes
# have no other gradient, and Adam cancels a constant factor. The commitment loss then has weight 1
# and pulls the encoder four times as hard. Loading a checkpoint does not depend on this.
COMMITMENT = 0.25
MOST_PAIRS = 2**28  # vectors times codes that are compared at once: 1 GiB


class Quantized(NamedTuple):
    """The result of the quantizer."""

    vectors: Tensor  # (B, D, h, w), gradients pass straight through to the encoder outputs
    tokens: Tensor  # int64, (B, h, w) with sane_index_shape, else flat (B * h * w,)
    loss: Tensor  # scalar, codebook and commitment loss


def nearest_codes(vectors: Tensor, codes: Tensor) -> Tensor:
    """Find the nearest code of each vector by Euclidean distance.

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
    """Return the value of `quantized` with the gradient of `original`; both of one shape."""
    return original + (quantized - original).detach()


def codebook_loss(codes: Tensor, vectors: Tensor) -> Tensor:
    """Compute the loss that pulls codes to vectors and, more weakly, vectors to codes.

    These are the second and third term of equation 3 in van den Oord et al. 2017, averaged over all
    elements.

    Args:
        codes: the chosen codes, float, any shape.
        vectors: the encoder outputs, same shape.

    Returns:
        A scalar, at least 0.
    """
    pull_codes = F.mse_loss(codes, vectors.detach())
    pull_vectors = F.mse_loss(vectors, codes.detach())
    return pull_codes + COMMITMENT * pull_vectors


class VectorQuantizer(nn.Module):
    """Replaces vectors by their nearest codes.

    With `config.remap` tokens count only the used codes, and vectors are compared only with these.
    (taming draws a random used code if the nearest code is unused. Its tokens then differ from call
    to call.)

    Attributes:
        embedding: all codes, including unused ones, (n_embed, D).
        used: int64 (K,), rows of the codes in use; None if all are in use.
    """

    used: Tensor | None

    def __init__(self, config: VQGANConfig) -> None:
        """Draw the codes uniformly from [-1/n_embed, 1/n_embed] with torch's global generator."""
        super().__init__()
        self.sane_index_shape = config.sane_index_shape
        self.embedding = nn.Embedding(config.n_embed, config.embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.n_embed, 1 / config.n_embed)
        used = None if config.remap is None else torch.tensor(config.remap)
        self.register_buffer("used", used)

    @property
    def codes(self) -> Tensor:
        """The codes of the tokens, (K, D)."""
        weight = self.embedding.weight
        return weight if self.used is None else weight[self.used]

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantize encoder outputs (B, D, h, w) of any precision, in float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float().permute(0, 2, 3, 1)  # (B, h, w, D)
            tokens = self.tokens(vectors)  # (B, h, w)
            codes = self.lookup(tokens)  # (B, h, w, D)
            loss = codebook_loss(codes, vectors)
            output = straight_through(codes, vectors).permute(0, 3, 1, 2)
        return Quantized(output, tokens if self.sane_index_shape else tokens.flatten(), loss)

    @torch.no_grad()
    def tokens(self, vectors: Tensor) -> Tensor:
        """Find the nearest codes of vectors: float32 (B, h, w, D) -> int64 (B, h, w) in [0, K)."""
        flat, codes = vectors.detach().reshape(-1, vectors.shape[-1]), self.codes
        parts = flat.split(max(1, MOST_PAIRS // len(codes)))
        return torch.cat([self.choose(part, codes) for part in parts]).view(vectors.shape[:-1])

    def choose(self, vectors: Tensor, codes: Tensor) -> Tensor:
        """Choose a code for each vector: float (N, D) and (K, D) -> int64 (N,) in [0, K)."""
        return nearest_codes(vectors, codes)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the codes of tokens: int64 (...,) in [0, K) -> (..., D)."""
        rows = tokens if self.used is None else self.used[tokens]
        return F.embedding(rows, self.embedding.weight)
