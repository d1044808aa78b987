"""LlamaGen's VQ-GAN (Sun et al. 2024): taming's network, with codes on the unit sphere.

It is read from the files of FoundationVision/LlamaGen, such as `vq_ds16_c2i.pt`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from models.family import Family, Found
from models.foreign_file import ForeignFile, holding
from models.foreign_weights import all_renamed, levels_turned
from models.vqgan.config import VQGANConfig
from models.vqgan.foreign import config_of
from models.vqgan.network import VQModel
from models.vqgan.quantizer import VectorQuantizer
from utils.size import Size

SIGNS = (
    "encoder.conv_blocks.0.res.0.conv1.weight",
    "decoder.conv_blocks.0.res.0.conv1.weight",
    "quantize.embedding.weight",
)
NAMES = (  # theirs, taming's
    ("encoder.conv_blocks.*.res.*", "encoder.down.*.block.*"),
    ("encoder.conv_blocks.*", "encoder.down.*"),
    ("decoder.conv_blocks.*.res.*", "decoder.up.*.block.*"),
    ("decoder.conv_blocks.*", "decoder.up.*"),
    ("*.mid.0.*", "*.mid.block_1.*"),
    ("*.mid.1.*", "*.mid.attn_1.*"),
    ("*.mid.2.*", "*.mid.block_2.*"),
)
IGNORED = {"quantize.codebook_used": "the last codes of its training"}


class LlamaGenConfig(VQGANConfig):
    """Shape of LlamaGen's VQ-GAN; all vectors and codes have length 1."""

    family: ClassVar[str] = "llamagen"


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


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the VQ-GAN; arguments, result and errors as in `models.vqgan.foreign.read`."""
    weights = file.weights(SIGNS, IGNORED)
    # Their first level of the decoder has the lowest resolution.
    weights = levels_turned(all_renamed(weights, NAMES), "decoder.up.")
    return config_of(LlamaGenConfig, weights, image_size, given), weights


FAMILY = Family(
    config=LlamaGenConfig,
    network=LlamaGenModel,
    layout="VQ-GAN in LlamaGen's layout (encoder.conv_blocks.0.res.0, ...)",
    license="MIT (FoundationVision/LlamaGen)",
    recognizes=holding(SIGNS),
    read=read,
)
