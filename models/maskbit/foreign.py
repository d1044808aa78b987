"""Reads the tokenizers and the transformers of markweberdev/maskbit.

These are `maskbit_tokenizer_14bit.bin` and `maskbit_generator_14bit.bin`, also with 10, 12, 16 and
18 bits. In some files the weights of the transformer's `input_proj` are called `token_emb`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.family import Expected, Family, Found
from models.foreign_file import ForeignFile, holding
from models.foreign_weights import all_renamed, count_modules, heads_of, levels_turned, shape_of
from models.maskbit.config import BitTokenizerConfig, BitTransformerConfig
from models.maskbit.network import BitTokenizer, signs
from models.maskbit.transformer import BitTransformer
from models.maskgit_vqgan.foreign import NAMES as TOKENIZER_NAMES
from models.vqgan.foreign import config_of
from utils.errors import UserError
from utils.size import Size

TOKENIZER_SIGNS = (
    "encoder.conv_in.weight",
    "quantize.codebook",
    "encoder.mid.res_blocks.0.norm1.weight",
)
CODEBOOK = "quantize.embedding.weight"
SIGNS = ("class_emb.weight", "pos_emb", "prediction_layer.weight")
IGNORED = {"bits_to_indices": "powers of 2", "quantize.bits_to_indices": "powers of 2"}
NAMES = (  # theirs, ours
    ("class_emb.*", "class_embedding.*"),
    ("input_proj.*", "bit_map.*"),
    ("token_emb.*", "bit_map.*"),
    ("pos_emb", "position_embedding"),
    ("first_layer.*", "first.*"),
    ("transformer.layers.*.0.mha.in_proj_*", "blocks.*.attention.qkv.*"),
    ("transformer.layers.*.0.mha.out_proj.*", "blocks.*.attention.out.*"),
    ("transformer.layers.*.0.norm.*", "blocks.*.attention_norm.*"),
    ("transformer.layers.*.1.net.*", "blocks.*.mlp.*"),
    ("transformer.layers.*.1.norm.*", "blocks.*.mlp_norm.*"),
    ("last_layer.*", "last.*"),
    ("prediction_layer.*", "out.*"),
)
PUBLISHED_HEADS = {1024: 16}  # by width


def read_tokenizer(file: ForeignFile, image_size: Size, given: Mapping[str, Any]) -> Found:
    """Read the tokenizer; arguments, result and errors as in `models.vqgan.foreign.read`."""
    weights = all_renamed(file.weights(TOKENIZER_SIGNS, IGNORED), TOKENIZER_NAMES)
    weights = levels_turned(weights, "decoder.up.")
    table = weights[CODEBOOK] = weights.pop("quantize.codebook")
    if table.ndim != 2 or not table.equal(signs(torch.arange(len(table)), table.shape[1])):
        raise UserError(f"quantize.codebook in {file.path} does not hold the bits of all numbers")
    config = config_of(BitTokenizerConfig, weights, image_size, given, strided=True)
    return config, weights


def read(file: ForeignFile, expected: Expected) -> Found:
    """Read the transformer; result and errors as in `models.halton.foreign.read`."""
    path, tokenizer = file.path, expected.tokenizer
    weights = all_renamed(file.weights(SIGNS, IGNORED), NAMES)
    config = infer_config(weights, expected.heads)
    weights["position_embedding"] = weights["position_embedding"][0]
    bits = config.bits * config.splits
    if not isinstance(tokenizer, BitTokenizerConfig) or tokenizer.embed_dim != bits:
        raise UserError(
            f"{path} needs MaskBit's tokenizer of {bits} bits, but `checkpoint_vae` is of the "
            f"family {tokenizer.family} and has {tokenizer.all_codes} codes"
        )
    return config, weights


def to_foreign(model: BitTransformer) -> dict[str, Tensor]:
    """Return the weights as MaskBit's program saves and reads them."""
    weights = all_renamed(model.state_dict(), NAMES, to_ours=False)
    weights = {name: value.cpu().clone() for name, value in weights.items()}
    weights["pos_emb"] = weights["pos_emb"][None]
    weights["bits_to_indices"] = 2 ** torch.arange(model.config.bits, dtype=torch.int32)
    return weights


def infer_config(weights: Mapping[str, Tensor], heads: int | None) -> BitTransformerConfig:
    """Read the config from the shapes of weights.

    Args:
        heads: attention heads that the user gave; None takes those of the published size.

    Raises:
        ValueError: if a weight is missing or has the wrong number of axes, or the number of heads
            is unknown.
    """
    labels, width = shape_of(weights, "class_embedding.weight", 2)
    bits = shape_of(weights, "bit_map.weight", 2)[1]
    outputs = shape_of(weights, "out.weight", 2)[0]
    fitting = [n for n in range(1, bits + 1) if bits % n == 0 and n * 2 ** (bits // n) == outputs]
    if not fitting:
        raise ValueError(f"{outputs} outputs are not those of any parts of {bits} bits")
    splits = fitting[0]
    return BitTransformerConfig(
        codebook_size=2 ** (bits // splits),
        num_classes=labels - 1,
        seq_len=(shape_of(weights, "position_embedding", 3)[1] - 1) * splits,
        splits=splits,
        hidden_dim=width,
        depth=count_modules(weights, "blocks."),
        heads=heads_of(width, heads, PUBLISHED_HEADS),
        mlp_dim=shape_of(weights, "blocks.0.mlp.0.bias", 1)[0],
    )


TOKENIZER = Family(
    config=BitTokenizerConfig,
    network=BitTokenizer,
    layout="tokenizer of MaskBit (quantize.codebook, ...)",
    license="Apache-2.0 (markweberdev/maskbit)",
    recognizes=holding(TOKENIZER_SIGNS),
    read=read_tokenizer,
)
TRANSFORMER = Family(
    config=BitTransformerConfig,
    network=BitTransformer,
    layout="transformer of MaskBit (prediction_layer.weight, ...)",
    license="Apache-2.0 (markweberdev/maskbit)",
    recognizes=holding(SIGNS),
    read=read,
    write=to_foreign,
)
