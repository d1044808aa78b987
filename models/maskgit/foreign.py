"""Reads and writes transformers in the layouts of other programs.

valeoai/Maskgit-pytorch v1.0 and caetas/GenerativeZoo store the same network under the same names.
The first stores it in a dictionary with its training state, the second as a bare state dict.
Token ids, class tokens and shapes are the same as here; only the names of the weights differ.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.family import Expected, Family, Found
from models.foreign_file import ForeignFile, holding, taken, unwrapped
from models.foreign_weights import all_renamed, count_modules, shape_of
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from utils.errors import UserError, counted

log = logging.getLogger(__name__)

LAYOUT = "transformer in the layout of valeoai/Maskgit-pytorch v1.0 or caetas/GenerativeZoo"
# The programs' own defaults.
VALEOAI_HEADS = 16
GENERATIVEZOO_HEADS = 8
SIGNS = ("tok_emb.weight", "pos_emb")
NAMES = (  # theirs, ours
    ("tok_emb.weight", "token_embedding.weight"),
    ("pos_emb", "position_embedding"),
    ("bias", "output_bias"),
    ("first_layer.*", "first.*"),
    ("last_layer.*", "last.*"),
    ("transformer.layers.*.0.norm.*", "blocks.*.attention_norm.*"),
    ("transformer.layers.*.0.fn.mha.in_proj_*", "blocks.*.attention.qkv.*"),
    ("transformer.layers.*.0.fn.mha.out_proj.*", "blocks.*.attention.out.*"),
    ("transformer.layers.*.1.norm.*", "blocks.*.mlp_norm.*"),
    ("transformer.layers.*.1.fn.net.0.*", "blocks.*.mlp.0.*"),
    ("transformer.layers.*.1.fn.net.3.*", "blocks.*.mlp.2.*"),
)


def read(file: ForeignFile, expected: Expected) -> Found:
    """Read the transformer in a file of another program: its config, and its weights.

    Raises:
        ValueError: if the weights do not make a transformer.
        UserError: as `find_weights`; or if the number of classes does not fit.
    """
    (weights, heads), path = find_weights(file), file.path
    codes, used = expected.tokenizer.all_codes, expected.tokenizer.codebook_size
    if codes != used and _counts_all_codes(weights, expected, path):
        log.info("%s counts all %d codes; keeping the %d in use", path, codes, used)
        weights = without_codes(weights, used, codes)
    if expected.heads is None:
        log.info("%s does not say how many attention heads it has; using %d (`heads`)", path, heads)
    return infer_config(weights, used, expected.heads or heads), weights


def _counts_all_codes(weights: Mapping[str, Tensor], expected: Expected, path: Path) -> bool:
    """Whether a vocabulary has all codes of a remapped tokenizer, not only those in use.

    caetas/GenerativeZoo's has all of them. The size of the vocabulary is the sum of codes, mask
    token, classes and "no class", so the number of classes must be known.

    Raises:
        UserError: if the number of classes fits neither case.
    """
    ids, tokenizer = weights["token_embedding.weight"].shape[:1].numel(), expected.tokenizer
    with_all, with_used = (ids - 2 - n for n in (tokenizer.all_codes, tokenizer.codebook_size))
    if with_all < 1 or expected.num_classes == with_used:
        return False
    if expected.num_classes != with_all:
        raise UserError(
            f"{path} is for {counted(with_all, 'class')} if it counts all {tokenizer.all_codes} "
            f"codes of the tokenizer, and for {with_used} if it counts the "
            f"{tokenizer.codebook_size} in use: give the right one as `n_classes`"
        )
    return True


def without_codes(weights: Mapping[str, Tensor], first: int, stop: int) -> dict[str, Tensor]:
    """Remove the codes from `first` up to `stop`, which no token uses, from the vocabulary."""
    table, bias = weights["token_embedding.weight"], weights.get("output_bias", torch.empty(0, 0))
    return {
        **weights,
        "token_embedding.weight": torch.cat([table[:first], table[stop:]]),
        "output_bias": torch.cat([bias[:, :first], bias[:, stop:]], 1),
    }


def find_weights(file: ForeignFile) -> tuple[dict[str, Tensor], int]:
    """Pick the transformer's weights from a file.

    Returns:
        Float32 tensors under this program's names; and the number of attention heads of the default
        model of the file's program, because the weights do not show it.

    Raises:
        UserError: if different weights in the file are equally likely to be meant.
    """
    wrappers, found = unwrapped(file.stored, SIGNS, file.path)
    weights = all_renamed(taken(found), NAMES)
    positions = weights["position_embedding"]
    weights["position_embedding"] = positions.flatten(0, -2) if positions.ndim > 1 else positions
    is_valeoai = "model_state_dict" in wrappers
    return weights, VALEOAI_HEADS if is_valeoai else GENERATIVEZOO_HEADS


def infer_config(
    weights: Mapping[str, Tensor], codebook_size: int, heads: int
) -> TransformerConfig:
    """Read the config from the shapes of weights with this program's names.

    Raises:
        ValueError: if a weight is missing or has the wrong number of axes, or the vocabulary is too
            small for the codebook and a class.
    """
    vocabulary, width = shape_of(weights, "token_embedding.weight", 2)
    num_classes = vocabulary - codebook_size - 2
    if num_classes < 1:
        raise ValueError(
            f"its vocabulary of {vocabulary} is too small for the tokenizer's {codebook_size} "
            'codes, a mask token, classes and "no class"; is it the right tokenizer?'
        )
    return TransformerConfig(
        codebook_size=codebook_size,
        num_classes=num_classes,
        seq_len=shape_of(weights, "position_embedding", 2)[0] - 1,
        embed_dim=width,
        hidden_dim=width,
        depth=count_modules(weights, "blocks."),
        heads=heads,
        mlp_dim=shape_of(weights, "blocks.0.mlp.0.bias", 1)[0],
    )


def to_foreign(model: MaskedTransformer) -> dict[str, Tensor]:
    """Return the weights in the layout of caetas/GenerativeZoo, which has no embedding map.

    With token embedding E and embedding map W, the input is E W^T and the output x (E W^T)^T. So a
    token embedding E W^T of width D replaces both.
    """
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    folding = weights.pop("embedding_map.weight", None)
    if folding is not None:
        table = weights["token_embedding.weight"].double() @ folding.double().T
        weights["token_embedding.weight"] = table.float()
    weights["position_embedding"] = weights["position_embedding"][None]
    theirs = all_renamed(weights, NAMES, to_ours=False)
    return {name: value.contiguous().clone() for name, value in theirs.items()}


FAMILY = Family(
    config=TransformerConfig,
    network=MaskedTransformer,
    layout=LAYOUT,
    recognizes=holding(SIGNS),
    read=read,
    write=to_foreign,
)
