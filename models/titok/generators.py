"""Reads and writes the transformers of bytedance/1d-tokenizer that belong to TiTok's tokenizers.

Their files are `model.safetensors` of `generator_titok_{l32,b64,s128}_imagenet`, and
`generator_titok_{l32,b64,s128}.bin`. There the class is the first position.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.family import Expected, Family, Found
from models.foreign_file import ForeignFile, holding
from models.foreign_weights import (
    all_renamed,
    count_modules,
    heads_of,
    shape_of,
    with_joined_qkv,
    with_split_qkv,
)
from models.titok.transformer import TitokTransformer, TitokTransformerConfig

BERT = ("model.lm_head.weight", "model.embeddings.word_embeddings.weight")
UVIT = ("lm_head.weight", "embeddings.weight", "in_blocks.0.attn.qkv.weight")
TOKEN_TYPES = "model.embeddings.token_type_embeddings.weight"
IGNORED = {"model.embeddings.position_ids": "the numbers 0, 1, 2 and so on"}
BERT_NAMES = (  # theirs, ours
    ("model.embeddings.word_embeddings.weight", "token_embedding.weight"),
    ("model.embeddings.position_embeddings.weight", "position_embedding"),
    ("model.embeddings.LayerNorm.*", "layers.norm.*"),
    ("model.encoder.layer.*.attention.output.dense.*", "layers.blocks.*.attention.out.*"),
    ("model.encoder.layer.*.attention.output.LayerNorm.*", "layers.blocks.*.attention_norm.*"),
    ("model.encoder.layer.*.attention.self.*", "layers.blocks.*.attention.*"),
    ("model.encoder.layer.*.intermediate.dense.*", "layers.blocks.*.mlp.0.*"),
    ("model.encoder.layer.*.output.dense.*", "layers.blocks.*.mlp.2.*"),
    ("model.encoder.layer.*.output.LayerNorm.*", "layers.blocks.*.mlp_norm.*"),
    ("model.lm_head.*", "out.*"),
)
UVIT_NAMES = (
    ("embeddings.weight", "token_embedding.weight"),
    ("pos_embed", "position_embedding"),
    ("out_blocks.*.skip_linear.*", "layers.joins.*.*"),
    *(
        (f"{theirs}.{inside}.*", f"layers.{ours}.{mine}.*")
        for theirs, ours in (
            ("in_blocks.*", "down.*"),
            ("mid_block", "middle"),
            ("out_blocks.*", "up.*"),
        )
        for inside, mine in (
            ("norm1", "attention_norm"),
            ("attn.qkv", "attention.qkv"),
            ("attn.proj", "attention.out"),
            ("norm2", "mlp_norm"),
            ("mlp.fc1", "mlp.0"),
            ("mlp.fc2", "mlp.2"),
        )
    ),
    ("norm.*", "layers.norm.*"),
    ("lm_head.*", "out.*"),
)
PUBLISHED_HEADS = {768: 16, 1024: 16}  # by width


def read(file: ForeignFile, expected: Expected) -> Found:
    """Read the transformer; result and errors as in `models.halton.foreign.read`."""
    is_bert = file.holds(BERT)
    theirs = file.weights(BERT if is_bert else UVIT, IGNORED)
    weights = all_renamed(theirs, BERT_NAMES if is_bert else UVIT_NAMES)
    width = shape_of(weights, "out.weight", 2)[1]
    positions = weights.get("position_embedding", torch.empty(0)).reshape(-1, width)
    if is_bert:
        shape_of(weights, TOKEN_TYPES, 2)
        positions = positions + weights.pop(TOKEN_TYPES)[0]  # all tokens are of the first type
        weights = with_joined_qkv(weights)
    weights["position_embedding"] = positions.roll(-1, 0)
    config = infer_config(weights, expected.tokenizer.codebook_size, expected.heads)
    return config, weights


def infer_config(
    weights: Mapping[str, Tensor], codes: int, heads: int | None
) -> TitokTransformerConfig:
    """Read the config from the shapes of weights with our names.

    Args:
        codes: number of codes of the tokenizer.
        heads: attention heads that the user gave; None takes those of the published size.

    Raises:
        ValueError: if a weight has the wrong shape, the tokenizer has other codes, or the number of
            heads is unknown.
    """
    outputs, width = shape_of(weights, "out.weight", 2)
    if outputs != codes:
        raise ValueError(f"it predicts {outputs} codes, but those of the tokenizer are {codes}")
    down = count_modules(weights, "layers.down.")
    first = "layers.down.0" if down else "layers.blocks.0"
    return TitokTransformerConfig(
        codebook_size=codes,
        num_classes=shape_of(weights, "token_embedding.weight", 2)[0] - codes - 2,
        seq_len=shape_of(weights, "position_embedding", 2)[0] - 1,
        hidden_dim=width,
        depth=2 * down or count_modules(weights, "layers.blocks."),
        heads=heads_of(width, heads, PUBLISHED_HEADS),
        mlp_dim=shape_of(weights, f"{first}.mlp.0.bias", 1)[0],
        long_skips=bool(down),
    )


def to_foreign(model: TitokTransformer) -> dict[str, Tensor]:
    """Return the weights as their program saves and reads them."""
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    positions = weights["position_embedding"] = weights["position_embedding"].roll(1, 0)
    if model.config.long_skips:
        names, weights["position_embedding"] = UVIT_NAMES, positions[None]
    else:
        names, weights = BERT_NAMES, with_split_qkv(weights)
        weights[TOKEN_TYPES] = torch.zeros(2, positions.shape[1])
    renamed = all_renamed(weights, names, to_ours=False)
    return {name: value.clone() for name, value in renamed.items()}


FAMILY = Family(
    config=TitokTransformerConfig,
    network=TitokTransformer,
    layout="transformer of TiTok (model.lm_head.weight, or in_blocks.0.attn.qkv.weight, ...)",
    license="Apache-2.0 (bytedance/1d-tokenizer)",
    recognizes=holding(BERT, UVIT),
    read=read,
    write=to_foreign,
)
