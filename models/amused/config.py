"""The config of aMUSEd's VQ-GAN; imports nothing slow, as models/vqgan/config.py."""

from typing import ClassVar

from models.vqgan.config import VQGANConfig


class AmusedConfig(VQGANConfig):
    """Shape of aMUSEd's VQ-GAN: that of taming's without attention, for pixels in [0, 1]."""

    family: ClassVar[str] = "amused"
