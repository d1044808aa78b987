"""IBQ's VQ-GAN (Shi et al. 2024): taming's network, with codes chosen by inner products.

It is read from the files of TencentARC/SEED-Voken, such as `imagenet256_16384.ckpt`. A file holds
raw and averaged weights; the published scores are those of the averages. Names and shapes are
taming's. So a file is known as IBQ's by averages together with four residual blocks at each
resolution, which no published VQ-GAN of taming's family has.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from models.family import Family, Found
from models.foreign_file import ForeignFile, holding
from models.foreign_weights import averaged
from models.vqgan.config import VQGANConfig
from models.vqgan.foreign import NEEDED, SIGNS, config_of
from models.vqgan.network import VQModel
from models.vqgan.quantizer import VectorQuantizer
from utils.size import Size

AVERAGES = "model_ema."
IBQ_SIGNS = (*SIGNS[:3], f"{AVERAGES}decay", "encoder.down.0.block.3.conv1.weight")
LOSS = "networks of the losses"
IGNORED = {"loss.": LOSS, f"{AVERAGES}loss": LOSS}


class IBQConfig(VQGANConfig):
    """Shape of IBQ's VQ-GAN."""

    family: ClassVar[str] = "ibq"


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


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the VQ-GAN; arguments, result and errors as in `models.vqgan.foreign.read`."""
    weights = averaged(file.weights(SIGNS[:3], IGNORED), AVERAGES)
    return config_of(IBQConfig, weights, image_size, given), weights


FAMILY = Family(
    config=IBQConfig,
    network=IBQModel,
    layout="VQ-GAN of IBQ (model_ema.decay and four residual blocks)",
    license="Apache-2.0 (TencentARC/SEED-Voken)",
    recognizes=holding(IBQ_SIGNS),
    accepts=holding(NEEDED),
    read=read,
)
