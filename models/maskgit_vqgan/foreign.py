"""Reads MaskGIT's VQ-GAN, and MaskBit's VQGAN+.

Their layouts: `tokenizer_imagenet{256,512}_checkpoint` of google-research/maskgit, a file of flax;
`maskgit-vqgan-imagenet-f16-256.bin` of bytedance/1d-tokenizer, also of huggingface/open-muse;
`vqgan_jax_strongaug.ckpt` of LTH14/mage, also inside its models; and that of markweberdev/maskbit.
MAGE's names are taming's, but there the encoder's first convolution has a bias. The decoder of
MaskBit's counts its levels from either end: the level at full resolution has no convolution for a
larger one.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.family import Family, Found
from models.foreign_file import ForeignFile, unwrapped
from models.foreign_weights import FLAX_NAMES, all_renamed, count_modules, levels_turned
from models.maskgit_vqgan.config import MaskgitVQGANConfig
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
# flax numbers the modules of encoder and decoder in the order of the computation.
IN_BLOCK = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "nin_shortcut",
}
BLOCK = re.compile(r"(encoder|decoder)\.ResBlock_(\d+)\.(\w+)\.(\w+)")
LAYER = re.compile(r"(encoder|decoder)\.(Conv|GroupNorm)_(\d+)\.(\w+)")


def recognizes(file: ForeignFile) -> bool:
    """Return whether a file holds such a VQ-GAN."""
    if any(map(file.holds, (MASKGIT, MASKBIT, FLAX))):
        return True
    weights = unwrapped(file.stored, MAGE).weights
    return set(MAGE) <= weights.keys() and "encoder.conv_in.bias" not in weights


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the VQ-GAN; arguments, result and errors as in `models.vqgan.foreign.read`."""
    if file.holds(FLAX):
        weights = _from_flax(file.weights(FLAX))
    else:
        weights = all_renamed(file.weights(COMMON), NAMES)
    if "decoder.up.0.upsample.conv.weight" in weights:
        weights = levels_turned(weights, "decoder.up.")
    strided = "encoder.down.0.downsample.conv.weight" in weights
    config = config_of(MaskgitVQGANConfig, weights, image_size, given, strided=strided)
    return config, weights


def _from_flax(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of flax, and turn the kernels; names that do not belong there stay."""
    levels = count_modules(weights, "decoder.Conv_") - 1  # one between two levels, and both ends
    # Residual blocks of each level, and of the middle.
    each = max(1, count_modules(weights, "encoder.ResBlock_") // (levels + 1))
    renamed = {
        _renamed(name, levels, each): value.permute(3, 2, 0, 1) if value.ndim == 4 else value
        for name, value in weights.items()
    }
    return all_renamed(renamed, FLAX_NAMES)


def _renamed(name: str, levels: int, each: int) -> str:
    """Translate the name of a module and its weight; the last part stays.

    Args:
        name: theirs.
        levels: number of resolutions.
        each: residual blocks of a level.
    """
    if name == "quantizer.codebook":
        return "quantize.embedding.weight"
    block, layer = BLOCK.fullmatch(name), LAYER.fullmatch(name)
    if block:
        level, number = divmod(int(block[2]), each)
        if block[1] == "encoder":
            place = f"down.{level}.block" if level < levels else "mid"
        else:
            place = f"up.{levels - level}.block" if level else "mid"
        inside = IN_BLOCK.get(block[3], block[3])
        return f"{block[1]}.{place}.{number}.{inside}.{block[4]}"
    if layer:
        number, last = int(layer[3]), 1 if layer[1] == "encoder" else levels
        at_ends = {0: "conv_in", last: "conv_out"}
        inside = at_ends.get(number, f"up.{levels - number}.upsample.conv")
        inside = inside if layer[2] == "Conv" else "norm_out"
        return f"{layer[1]}.{inside}.{layer[4]}"
    return name


FAMILY = Family(
    config=MaskgitVQGANConfig,
    network=MaskgitVQModel,
    layout="VQ-GAN of MaskGIT, MAGE or VQGAN+ (encoder.mid.0.norm1.weight, ...)",
    license="Apache-2.0 (google-research/maskgit, markweberdev/maskbit); MAGE states none",
    recognizes=recognizes,
    read=read,
)
