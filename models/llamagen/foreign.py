"""Reads the tokenizers of FoundationVision/LlamaGen, such as `vq_ds16_c2i.pt`."""

from collections.abc import Mapping
from typing import Any

from models.family import Family, Found
from models.foreign_file import ForeignFile, holding
from models.llamagen.config import LlamaGenConfig
from models.llamagen.network import LlamaGenModel
from models.renaming import all_renamed, levels_turned
from models.vqgan.foreign import config_of
from utils.size import Size

SIGNS = (
    "encoder.conv_blocks.0.res.0.conv1.weight",
    "decoder.conv_blocks.0.res.0.conv1.weight",
    "quantize.embedding.weight",
)
NAMES = (  # theirs, taming's
    ("encoder.conv_blocks.*.res.*", "encoder.down.*.block.*"),
    ("encoder.conv_blocks.*", "encoder.down.*"),
    ("decoder.conv_blocks.*.res.*", "decoder.up.*.block.*"),
    ("decoder.conv_blocks.*", "decoder.up.*"),
    ("*.mid.0.*", "*.mid.block_1.*"),
    ("*.mid.1.*", "*.mid.attn_1.*"),
    ("*.mid.2.*", "*.mid.block_2.*"),
)
IGNORED = {"quantize.codebook_used": "the last codes of its training"}


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the VQ-GAN; arguments, result and errors as in `models.vqgan.foreign.read`."""
    weights = file.weights(SIGNS, IGNORED)
    # Their first level of the decoder has the lowest resolution.
    weights = levels_turned(all_renamed(weights, NAMES), "decoder.up.")
    return config_of(LlamaGenConfig, weights, image_size, given), weights


FAMILY = Family(
    config=LlamaGenConfig,
    network=LlamaGenModel,
    layout="VQ-GAN in LlamaGen's layout (encoder.conv_blocks.0.res.0, ...)",
    license="MIT (FoundationVision/LlamaGen)",
    recognizes=holding(SIGNS),
    read=read,
)
