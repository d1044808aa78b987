"""The config of IBQ's VQ-GAN; imports nothing slow, as models/vqgan/config.py."""

from typing import ClassVar

from models.vqgan.config import VQGANConfig


class IBQConfig(VQGANConfig):
    """Shape of IBQ's VQ-GAN: that of taming's; the code with the largest inner product is taken."""

    family: ClassVar[str] = "ibq"
