"""Reads and writes the transformers of valeoai/Halton-MaskGIT, such as `ImageNet_256_base.pth`.

Their files hold the training state too: the weights are under `model_state_dict`. The names of the
weights are those of models/halton/transformer.py, with the output weights a second time.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.family import Expected, Family, Found
from models.foreign_file import ForeignFile, holding
from models.foreign_weights import count_modules, shape_of
from models.halton.transformer import HaltonConfig, HaltonTransformer
from utils.errors import FieldError, UserError

SIGNS = ("tok_emb.weight", "pos_emb.weight", "cls_emb.weight", "last_norm.norm_final.weight")
TIED = "head.weight"  # equal to tok_emb.weight
# Attention heads of the published sizes by width; the weights do not show them.
PUBLISHED_HEADS = {384: 6, 512: 6, 768: 12, 1024: 16, 1152: 16}


def read(file: ForeignFile, expected: Expected) -> Found:
    """Read the transformer: its config, and its weights. They show the number of classes.

    Raises:
        ValueError: if the weights do not make a transformer.
        UserError: if it is for another number of codes.
    """
    path, codes = file.path, expected.tokenizer.codebook_size
    weights = file.weights(SIGNS)
    _drop_tied(weights)
    config = infer_config(weights, expected.heads)
    if config.codebook_size != codes:
        raise UserError(
            f"{path} is for a tokenizer of {config.codebook_size} codes, but `checkpoint_vae` has "
            f"{codes}; the published ones are for LlamaGen's vq_ds16_c2i.pt"
        )
    return config, weights


def _drop_tied(weights: dict[str, Tensor]) -> None:
    """Remove the output weights; ValueError if they are not the token embedding."""
    output = weights.pop(TIED, None)
    if output is not None and not output.equal(weights["tok_emb.weight"]):
        raise ValueError(f"{TIED} differs from tok_emb.weight")


def infer_config(weights: Mapping[str, Tensor], heads: int | None) -> HaltonConfig:
    """Read the config from the shapes of weights.

    Args:
        heads: attention heads that the user gave; None takes those of the published size.

    Raises:
        ValueError: if a weight is missing or has the wrong number of axes, or the number of heads
            is unknown or does not fit the weights.
    """
    ids, width = shape_of(weights, "tok_emb.weight", 2)
    inside = shape_of(weights, "transformer.layers.0.attn.wq.weight", 2)[0]
    heads = heads or PUBLISHED_HEADS.get(width)
    if heads is None or width // heads * heads != inside:
        reason = f"do not make {inside} channels of {width}; give the right number"
        raise FieldError("transformer.heads", heads, reason)
    registers = "reg_tokens.weight" in weights
    return HaltonConfig(
        codebook_size=ids - 1,
        num_classes=shape_of(weights, "cls_emb.weight", 2)[0] - 1,
        seq_len=shape_of(weights, "pos_emb.weight", 2)[0],
        hidden_dim=width,
        depth=count_modules(weights, "transformer.layers."),
        heads=heads,
        registers=shape_of(weights, "reg_tokens.weight", 2)[0] if registers else 0,
    )


def to_foreign(model: HaltonTransformer) -> dict[str, Any]:
    """Return a checkpoint as Halton-MaskGIT's trainer writes and reads it."""
    weights = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    weights[TIED] = weights["tok_emb.weight"]
    return {
        "iter": 0,
        "global_epoch": 0,
        "model_state_dict": weights,
        "optimizer_state_dict": None,
    }


FAMILY = Family(
    config=HaltonConfig,
    network=HaltonTransformer,
    layout="transformer in Halton-MaskGIT's layout (last_norm.norm_final.weight, ...)",
    license="MIT (valeoai/Halton-MaskGIT)",
    recognizes=holding(SIGNS),
    read=read,
    write=to_foreign,
)
