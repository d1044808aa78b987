"""LlamaGen's VQ-GAN (Sun et al. 2024): taming's network, with codes on the unit sphere."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from models.vqgan.network import VQModel
from models.vqgan.quantizer import VectorQuantizer


class SphereQuantizer(VectorQuantizer):
    """Compares directions: vectors and codes are scaled to length 1, and so are looked-up codes."""

    @property
    def codes(self) -> Tensor:
        """The codes of the tokens with length 1, (K, D)."""
        return F.normalize(super().codes, dim=-1)

    def choose(self, vectors: Tensor, codes: Tensor) -> Tensor:
        """Find the nearest code of each direction: float (N, D) and (K, D) -> int64 (N,)."""
        return super().choose(F.normalize(vectors, dim=-1), codes)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the codes of tokens with length 1: int64 (...,) in [0, K) -> (..., D)."""
        return F.normalize(super().lookup(tokens), dim=-1)


class LlamaGenModel(VQModel):
    """LlamaGen's autoencoder."""

    quantizer_class: ClassVar[type[VectorQuantizer]] = SphereQuantizer
