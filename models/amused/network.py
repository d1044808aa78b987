"""aMUSEd's VQ-GAN (Patil et al. 2024): taming's network, for pixels in [0, 1]."""

from typing import ClassVar

from models.vqgan.network import VQModel


class AmusedModel(VQModel):
    """aMUSEd's autoencoder."""

    from_zero: ClassVar[bool] = True
