"""Reads MaskGIT's VQ-GAN, and MaskBit's VQGAN+.

Their layouts: `tokenizer_imagenet{256,512}_checkpoint` of google-research/maskgit, a file of flax;
`maskgit-vqgan-imagenet-f16-256.bin` of bytedance/1d-tokenizer, also of huggingface/open-muse;
`vqgan_jax_strongaug.ckpt` of LTH14/mage, also inside its models; and that of markweberdev/maskbit.
MAGE's names are taming's, but there the encoder's first convolution has a bias. The decoder of
MaskBit's counts its levels from either end: the level at full resolution has no convolution for a
larger one.
"""

from collections.abc import Mapping
from typing import Any

from models.family import Family, Found
from models.foreign_file import ForeignFile, unwrapped
from models.foreign_weights import all_renamed, levels_turned
from models.maskgit_vqgan.config import MaskgitVQGANConfig
from models.maskgit_vqgan.flax_names import with_our_names
from models.maskgit_vqgan.network import MaskgitVQModel
from models.vqgan.foreign import config_of
from utils.size import Size

COMMON = ("encoder.conv_in.weight", "decoder.conv_out.weight", "quantize.embedding.weight")
MASKGIT = (*COMMON, "encoder.mid.0.norm1.weight", "encoder.down.0.block.0.norm1.weight")
MASKBIT = (*COMMON, "encoder.mid.res_blocks.0.norm1.weight")
MAGE = (*COMMON, "encoder.mid.block_1.norm1.weight", "encoder.down.0.block.0.norm1.weight")
FLAX = ("encoder.Conv_0.kernel", "decoder.ResBlock_0.Conv_0.kernel", "quantizer.codebook")
NAMES = (  # theirs, ours
    ("*.mid.res_blocks.*", "*.mid.*"),
    ("*.res_blocks.*", "*.block.*"),
    ("*.down_conv.*", "*.downsample.conv.*"),
    ("*.upsample_conv.*", "*.upsample.conv.*"),
    ("*.mid.block_1.*", "*.mid.0.*"),
    ("*.mid.block_2.*", "*.mid.1.*"),
)


def recognizes(file: ForeignFile) -> bool:
    """Return whether a file holds such a VQ-GAN."""
    if any(map(file.holds, (MASKGIT, MASKBIT, FLAX))):
        return True
    weights = unwrapped(file.stored, MAGE).weights
    return set(MAGE) <= weights.keys() and "encoder.conv_in.bias" not in weights


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the VQ-GAN; arguments, result and errors as in `models.vqgan.foreign.read`."""
    if file.holds(FLAX):
        weights = with_our_names(file.weights(FLAX))
    else:
        weights = all_renamed(file.weights(COMMON), NAMES)
    if "decoder.up.0.upsample.conv.weight" in weights:
        weights = levels_turned(weights, "decoder.up.")
    strided = "encoder.down.0.downsample.conv.weight" in weights
    config = config_of(MaskgitVQGANConfig, weights, image_size, given, strided=strided)
    return config, weights


FAMILY = Family(
    config=MaskgitVQGANConfig,
    network=MaskgitVQModel,
    layout="VQ-GAN of MaskGIT, MAGE or VQGAN+ (encoder.mid.0.norm1.weight, ...)",
    license="Apache-2.0 (google-research/maskgit, markweberdev/maskbit); MAGE states none",
    recognizes=recognizes,
    read=read,
)
