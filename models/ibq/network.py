"""IBQ's VQ-GAN (Shi et al. 2024): taming's network, with codes chosen by inner products."""

from typing import ClassVar

from torch import Tensor

from models.vqgan.network import VQModel
from models.vqgan.quantizer import VectorQuantizer


class InnerProductQuantizer(VectorQuantizer):
    """Replaces vectors by the codes with the largest inner products."""

    def choose(self, vectors: Tensor, codes: Tensor) -> Tensor:
        """Choose a code for each vector: float (N, D) and (K, D) -> int64 (N,) in [0, K).

        The original takes the maximum of the softmax, where products that differ by rounding only
        can be equal; then the first code wins.
        """
        return (vectors @ codes.T).softmax(-1).argmax(-1)


class IBQModel(VQModel):
    """IBQ's autoencoder."""

    quantizer_class: ClassVar[type[VectorQuantizer]] = InnerProductQuantizer
