"""MaskBit's tokenizer (Weber et al. 2024): VQGAN+ without a codebook.

Each channel of a vector becomes its sign (lookup-free quantization, Yu et al. 2024), a bit of the
token; the first one has the value 1.

Axes: B batch, h w cells of an image, D bits of a cell, S tokens of a cell.
"""

from typing import ClassVar

import torch
from torch import Tensor

from models.maskbit.config import BitTokenizerConfig
from models.maskgit_vqgan.network import MaskgitVQModel
from models.vqgan.quantizer import VectorQuantizer


class BitQuantizer(VectorQuantizer):
    """Replaces vectors by their signs, which are also the nearest codes of its fixed table."""

    def __init__(self, config: BitTokenizerConfig) -> None:
        super().__init__(config)
        self.splits, self.bits = config.splits, config.bits
        self.embedding.weight.data = signs(torch.arange(config.n_embed), config.embed_dim)

    @torch.no_grad()
    def tokens(self, vectors: Tensor) -> Tensor:
        """Turn vectors into tokens: float32 (B, h, w, D) -> int64 (B, h, w * S)."""
        bits = vectors.gt(0).long().unflatten(-1, (self.splits, -1))  # (B, h, w, S, D / S)
        return joined(bits, 1).flatten(-2)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the signs of tokens: int64 (B, h, w * S) -> float32 (B, h, w, D)."""
        return super().lookup(joined(tokens.unflatten(-1, (-1, self.splits)), self.bits))


class BitTokenizer(MaskgitVQModel):
    """MaskBit's autoencoder."""

    quantizer_class: ClassVar[type[VectorQuantizer]] = BitQuantizer
    config: BitTokenizerConfig


def signs(tokens: Tensor, bits: int) -> Tensor:
    """Return the bits of tokens: int64 (...,) -> float32 (..., bits), each -1 or 1."""
    values = 2 ** torch.arange(bits, device=tokens.device)
    return (tokens[..., None] & values).ne(0).float() * 2 - 1


def joined(parts: Tensor, bits: int) -> Tensor:
    """Join numbers of so many bits to one, the lowest bits first: int64 (..., N) -> (...,)."""
    places = bits * torch.arange(parts.shape[-1], device=parts.device)
    return (parts << places).sum(-1)
