"""The config of MaskGIT's VQ-GAN; imports nothing slow, as models/vqgan/config.py."""

from dataclasses import dataclass
from typing import ClassVar

from models.vqgan.config import VQGANConfig


@dataclass(frozen=True)
class MaskgitVQGANConfig(VQGANConfig):
    """Shape of MaskGIT's VQ-GAN, and of MaskBit's VQGAN+.

    It has no attention and no convolutions around the quantizer, so `z_channels` is `embed_dim`,
    and its decoder has as many residual blocks as its encoder.

    Attributes:
        strided: whether convolutions with stride 2 halve the resolution, as in VQGAN+, and not
            averages of 2 x 2.
    """

    family: ClassVar[str] = "maskgit_vqgan"

    strided: bool = False
