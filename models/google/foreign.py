"""Reads the transformers of google-research/maskgit, `maskgit_imagenet{256,512}_checkpoint`.

They are files of flax. There the class is the first position, the classes follow the image tokens
in the vocabulary, and the mask token is the last id.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.family import Expected, Family, Found
from models.foreign_file import ForeignFile, holding
from models.foreign_weights import (
    FLAX_NAMES,
    all_renamed,
    count_modules,
    shape_of,
    with_joined_qkv,
)
from models.google.transformer import BertConfig, BertTransformer

SIGNS = ("Embed_0.word_embeddings.embedding", "MlmLayer_0.mlm_bias.bias")
NAMES = (  # theirs, ours
    ("Embed_0.word_embeddings.embedding", "token_embedding.weight"),
    ("Embed_0.position_embeddings.embedding", "position_embedding.weight"),
    ("Embed_0.embeddings_ln.*", "first.0.*"),
    ("TransformerLayer_*.Attention_0.self_attention.*", "blocks.*.attention.*"),
    ("TransformerLayer_*.Attention_0.attention_output_ln.*", "blocks.*.attention_norm.*"),
    ("TransformerLayer_*.Mlp_0.intermediate_output.*", "blocks.*.mlp.0.*"),
    ("TransformerLayer_*.Mlp_0.layer_output.*", "blocks.*.mlp.2.*"),
    ("TransformerLayer_*.Mlp_0.layer_output_ln.*", "blocks.*.mlp_norm.*"),
    ("MlmLayer_0.mlm_dense.*", "last.0.*"),
    ("MlmLayer_0.mlm_ln.*", "last.2.*"),
    ("MlmLayer_0.mlm_bias.bias", "output_bias"),
)


def read(file: ForeignFile, expected: Expected) -> Found:
    """Read the transformer; result and errors as in `models.halton.foreign.read`."""
    weights = all_renamed(file.weights(SIGNS), NAMES)
    heads = shape_of(weights, "blocks.0.attention.query.kernel", 3)[1]
    weights = all_renamed(_for_torch(weights), FLAX_NAMES)
    config = infer_config(weights, expected.tokenizer.codebook_size, heads)
    _move_rows(weights, config)
    return config, weights


def _for_torch(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the kernels of linear layers, and join those of queries, keys and values.

    A kernel of flax is (in, out); those of attention have an axis for the heads.

    Raises:
        ValueError: if one of the three is missing.
    """
    turned = {}
    for name, value in weights.items():
        if name.endswith(".attention.out.kernel"):
            value = value.flatten(0, -2)
        elif ".attention." in name:
            value = value.flatten(1) if name.endswith(".kernel") else value.flatten()
        turned[name] = value.T if name.endswith(".kernel") else value
    return with_joined_qkv(turned)


def infer_config(weights: Mapping[str, Tensor], codes: int, heads: int) -> BertConfig:
    """Read the config from the shapes of weights with our names; ValueError if one is missing."""
    vocabulary, width = shape_of(weights, "token_embedding.weight", 2)
    if vocabulary - codes - 1 < 1:
        raise ValueError(
            f"its vocabulary of {vocabulary} is too small for the tokenizer's {codes} codes, "
            "classes and a mask token; is it the right tokenizer?"
        )
    return BertConfig(
        codebook_size=codes,
        num_classes=vocabulary - codes - 1,
        seq_len=shape_of(weights, "position_embedding.weight", 2)[0] - 1,
        hidden_dim=width,
        depth=count_modules(weights, "blocks."),
        heads=heads,
        mlp_dim=shape_of(weights, "blocks.0.mlp.0.bias", 1)[0],
    )


def _move_rows(weights: dict[str, Tensor], config: BertConfig) -> None:
    """Move the mask token before the classes, and the class's position to the end, in place.

    The output bias keeps only image tokens, because nothing else is predicted.
    """
    codes = config.codebook_size
    table, positions = weights["token_embedding.weight"], weights["position_embedding.weight"]
    weights["token_embedding.weight"] = torch.cat([table[:codes], table[-1:], table[codes:-1]])
    weights["position_embedding.weight"] = positions.roll(-1, 0)
    if shape_of(weights, "output_bias", 1) != table.shape[:1]:
        raise ValueError("the output bias does not have the size of the vocabulary")
    weights["output_bias"] = weights["output_bias"][:codes]


FAMILY = Family(
    config=BertConfig,
    network=BertTransformer,
    layout="transformer of google-research/maskgit (Embed_0.word_embeddings.embedding, ...)",
    license="Apache-2.0 (google-research/maskgit)",
    recognizes=holding(SIGNS),
    read=read,
)
