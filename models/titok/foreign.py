"""Reads the tokenizers of bytedance/1d-tokenizer that TiTok's paper describes: L-32, B-64, S-128.

Their files are `model.safetensors` of `tokenizer_titok_{l32,b64,s128}_imagenet`, and
`tokenizer_titok_{l32,b64,s128}.bin`.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.family import Family, Found
from models.foreign_file import ForeignFile, holding
from models.foreign_weights import all_renamed, count_modules, shape_of
from models.titok.network import TitokConfig, TitokModel
from utils.errors import UserError
from utils.size import Size

SIGNS = ("latent_tokens", "encoder.latent_token_positional_embedding", "encoder.ln_pre.weight")
NEEDED = ("quantize.embedding.weight", "pixel_decoder.conv_in.weight")
NAMES = (  # theirs, ours
    ("latent_tokens", "encoder.tokens"),
    ("encoder.patch_embed.*", "encoder.patches.*"),
    ("decoder.decoder_embed.*", "decoder.tokens.*"),
    ("decoder.mask_token", "decoder.mask"),
    ("decoder.ffn.*", "decoder.scores.*"),
    ("*.class_embedding", "*.vit.class_vector"),
    ("*.latent_token_positional_embedding", "*.vit.token_positions"),
    ("*.positional_embedding", "*.vit.patch_positions"),
    ("*.ln_pre.*", "*.vit.norm_in.*"),
    ("*.ln_post.*", "*.vit.norm_out.*"),
    ("*.transformer.*.ln_1.*", "*.vit.blocks.*.attention_norm.*"),
    ("*.transformer.*.attn.in_proj_*", "*.vit.blocks.*.attention.qkv.*"),
    ("*.transformer.*.attn.out_proj.*", "*.vit.blocks.*.attention.out.*"),
    ("*.transformer.*.ln_2.*", "*.vit.blocks.*.mlp_norm.*"),
    ("*.transformer.*.mlp.c_fc.*", "*.vit.blocks.*.mlp.0.*"),
    ("*.transformer.*.mlp.c_proj.*", "*.vit.blocks.*.mlp.2.*"),
    ("pixel_quantize.embedding.weight", "decoder.cell_codes"),
    ("pixel_decoder.*.upsample_conv.*", "decoder.*.upsample.conv.*"),
    ("pixel_decoder.*", "decoder.*"),
)


def read(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the tokenizer: its config, and its weights. They show the size of its images.

    Raises:
        UserError: if it is of another kind.
    """
    theirs = file.weights(SIGNS)
    # Later kinds have no codes, or not the decoder of MaskGIT's VQ-GAN.
    lacking = [name for name in NEEDED if name not in theirs]
    if lacking:
        raise UserError(
            f"{file.path} holds no tokenizer as TiTok-L-32, B-64 or S-128, but one of another "
            f"kind: it has no {lacking[0]}"
        )
    weights = all_renamed(theirs, NAMES)
    return infer_config(weights), weights


def infer_config(weights: Mapping[str, Tensor]) -> TitokConfig:
    """Read the config from the shapes of weights; ValueError if one has the wrong shape."""
    levels = count_modules(weights, "decoder.up.")
    widths = [
        shape_of(weights, f"decoder.up.{level}.block.0.conv2.weight", 4)[0]
        for level in range(levels)
    ]
    channels = widths[0] if widths else 0
    codes, embed_dim = shape_of(weights, "quantize.embedding.weight", 2)
    cell_codes, z_channels = shape_of(weights, "decoder.cell_codes", 2)
    positions, encoder_width = shape_of(weights, "encoder.vit.patch_positions", 2)
    side = math.isqrt(positions - 1) * 2 ** (levels - 1)
    return TitokConfig(
        image_size=(side, side),
        image_channels=shape_of(weights, "encoder.patches.weight", 4)[1],
        channels=channels,
        z_channels=z_channels,
        ch_mult=tuple(width // channels for width in widths),
        num_res_blocks=count_modules(weights, "decoder.mid."),
        attn_resolutions=(),
        n_embed=codes,
        embed_dim=embed_dim,
        middle_attention=False,
        length=shape_of(weights, "encoder.tokens", 2)[0],
        encoder_width=encoder_width,
        encoder_depth=count_modules(weights, "encoder.vit.blocks."),
        decoder_width=shape_of(weights, "decoder.vit.patch_positions", 2)[1],
        decoder_depth=count_modules(weights, "decoder.vit.blocks."),
        cell_codes=cell_codes,
    )


FAMILY = Family(
    config=TitokConfig,
    network=TitokModel,
    layout="tokenizer of TiTok (latent_tokens, encoder.ln_pre.weight, ...)",
    license="Apache-2.0 (bytedance/1d-tokenizer)",
    recognizes=holding(SIGNS),
    read=read,
)
