"""The config of LlamaGen's VQ-GAN; imports nothing slow, as models/vqgan/config.py."""

from typing import ClassVar

from models.vqgan.config import VQGANConfig


class LlamaGenConfig(VQGANConfig):
    """Shape of LlamaGen's VQ-GAN: that of taming's, but all vectors and codes have length 1."""

    family: ClassVar[str] = "llamagen"
