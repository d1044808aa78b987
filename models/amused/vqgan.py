"""aMUSEd's VQ-GAN (Patil et al. 2024): taming's network without attention, for pixels in [0, 1].

It is read in the layouts of diffusers and of huggingface/open-muse. The names of open-muse are
taming's. There the sign is `config.json` in the same folder, or the channels of the published file:
1, 2, 2, 4 and 6 times the first, without attention.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from models.family import Family, Found
from models.foreign_file import ForeignFile, holding, unwrapped
from models.foreign_weights import all_renamed, levels_turned
from models.vqgan.config import VQGANConfig
from models.vqgan.foreign import NEEDED, SIGNS, config_of
from models.vqgan.network import VQModel
from utils.size import Size

DIFFUSERS = (*SIGNS[:3], "encoder.down_blocks.0.resnets.0.conv1.weight")
OPEN_MUSE = (*SIGNS[:3], "encoder.down.4.block.0.conv1.weight")
OPEN_MUSE_CLASS = "VQGANModel"  # in config.json
NAMES = (  # diffusers', taming's
    ("encoder.down_blocks.*.downsamplers.0.*", "encoder.down.*.downsample.*"),
    ("encoder.down_blocks.*.resnets.*.conv_shortcut.*", "encoder.down.*.block.*.nin_shortcut.*"),
    ("encoder.down_blocks.*.resnets.*", "encoder.down.*.block.*"),
    ("decoder.up_blocks.*.upsamplers.0.*", "decoder.up.*.upsample.*"),
    ("decoder.up_blocks.*.resnets.*.conv_shortcut.*", "decoder.up.*.block.*.nin_shortcut.*"),
    ("decoder.up_blocks.*.resnets.*", "decoder.up.*.block.*"),
    ("*.mid_block.resnets.0.*", "*.mid.block_1.*"),
    ("*.mid_block.resnets.1.*", "*.mid.block_2.*"),
    ("*.conv_norm_out.*", "*.norm_out.*"),
)


class AmusedConfig(VQGANConfig):
    """Shape of aMUSEd's VQ-GAN."""

    family: ClassVar[str] = "amused"


class AmusedModel(VQModel):
    """aMUSEd's autoencoder."""

    from_zero: ClassVar[bool] = True


def recognizes(file: ForeignFile) -> bool:
    """Return whether a file holds such a VQ-GAN."""
    if file.holds(DIFFUSERS):
        return True
    weights = unwrapped(file.stored, OPEN_MUSE).weights
    if not set(OPEN_MUSE) <= weights.keys():
        return False
    if file.config.get("_class_name") == OPEN_MUSE_CLASS:
        return True
    first, last = (weights[name].shape[:1].numel() for name in (OPEN_MUSE[0], OPEN_MUSE[3]))
    return last == 6 * first and not any(".attn" in name for name in weights)


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the VQ-GAN; arguments, result and errors as in `models.vqgan.foreign.read`."""
    weights = file.weights(SIGNS[:3])
    if set(DIFFUSERS) <= weights.keys():
        # Their first level of the decoder has the lowest resolution.
        weights = levels_turned(all_renamed(weights, NAMES), "decoder.up.")
    return config_of(AmusedConfig, weights, image_size, given), weights


FAMILY = Family(
    config=AmusedConfig,
    network=AmusedModel,
    layout="VQ-GAN of aMUSEd (encoder.down_blocks.0.resnets.0, ...)",
    license="openrail++ (amused/amused-512), or what the file's own page says",
    recognizes=recognizes,
    accepts=holding(DIFFUSERS, NEEDED),
    read=read,
)
