"""Reads and writes transformers in the layouts of other programs.

valeoai/Maskgit-pytorch v1.0 and caetas/GenerativeZoo store the same network under the same names.
The first stores it in a dictionary with the state of its training, the second as a bare state dict.
Token ids, class tokens and shapes are the same as here; only the names of the weights differ.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from models.given import refuse_contradictions
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from utils.errors import UserError, one_line
from utils.weights import build_with_weights

log = logging.getLogger(__name__)

LAYOUT = "transformer in the layout of valeoai/Maskgit-pytorch v1.0 or caetas/GenerativeZoo"
# The weights do not tell the number of heads. These are the programs' own defaults.
VALEOAI_HEADS = 16
GENERATIVEZOO_HEADS = 8
WRAPPERS = ("module.", "_orig_mod.")
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


def recognises(stored: Any) -> bool:
    """Return whether what `read_torch_file` returned holds weights of such a transformer."""
    weights, _ = _named_weights(stored)
    return {"token_embedding.weight", "position_embedding"} <= weights.keys()


def read(
    stored: Any, path: Path, codebook_size: int, given: Mapping[str, Any]
) -> MaskedTransformer:
    """Build the transformer in a file of another program, on the CPU.

    Args:
        stored: what `read_torch_file` returned.
        path: the file, for messages.
        codebook_size: K of the tokenizer.
        given: fields of TransformerConfig that the user set.

    Raises:
        UserError: if the weights are not those of a transformer, or contradict a given field.
    """
    model = build_model(find_weights(stored, path), path, codebook_size, given.get("heads"))
    refuse_contradictions(model.config, given, path)
    return model


class ForeignWeights(NamedTuple):
    """Weights of another program's transformer.

    Attributes:
        weights: float32 tensors by this program's names.
        heads: number of attention heads of that program's default model.
    """

    weights: dict[str, Tensor]
    heads: int


def find_weights(stored: Any, path: Path) -> ForeignWeights:
    """Pick the transformer's weights from what `read_torch_file` returned.

    Raises:
        UserError: if the file holds none.
    """
    weights, heads = _named_weights(stored)
    if "token_embedding.weight" not in weights or "position_embedding" not in weights:
        raise UserError(f"{path} holds no {LAYOUT}")
    positions = weights["position_embedding"]
    weights["position_embedding"] = positions.flatten(0, -2) if positions.ndim > 1 else positions
    return ForeignWeights(weights, heads)


def build_model(
    foreign: ForeignWeights, path: Path, codebook_size: int, heads: int | None
) -> MaskedTransformer:
    """Build the model for some weights; most of its config follows from their shapes.

    Args:
        foreign: what `find_weights` returned.
        path: the file, for messages.
        codebook_size: K of the tokenizer; the weights tell only the sum of K and the classes.
        heads: attention heads that the user gave; None takes the other program's default.

    Returns:
        The model on the CPU in evaluation mode.

    Raises:
        UserError: if the weights do not make a transformer.
    """
    if heads is None:
        heads = foreign.heads
        log.info("%s does not tell its attention heads: %d are assumed (`heads`)", path, heads)
    try:
        config = infer_config(foreign.weights, codebook_size, heads)
        config.validate()
        return build_with_weights(lambda: MaskedTransformer(config), foreign.weights)
    except (KeyError, ValueError) as error:
        reason = one_line(error)
        raise UserError(f"the weights in {path} do not make a transformer: {reason}") from error


def infer_config(
    weights: Mapping[str, Tensor], codebook_size: int, heads: int
) -> TransformerConfig:
    """Read the config from the shapes of weights with this program's names.

    Raises:
        KeyError: if a weight is missing.
        ValueError: if the vocabulary is too small for the codebook and a class.
    """
    vocabulary, width = weights["token_embedding.weight"].shape
    num_classes = vocabulary - codebook_size - 2
    if num_classes < 1:
        raise ValueError(
            f"its vocabulary of {vocabulary} is too small for the tokenizer's {codebook_size} "
            'codes, a mask token, classes and "no class"; is it the right tokenizer?'
        )
    return TransformerConfig(
        codebook_size=codebook_size,
        num_classes=num_classes,
        seq_len=len(weights["position_embedding"]) - 1,
        embed_dim=width,
        hidden_dim=width,
        depth=len({n.split(".")[1] for n in weights if n.startswith("blocks.")}),
        heads=heads,
        mlp_dim=len(weights["blocks.0.mlp.0.bias"]),
    )


def to_foreign(model: MaskedTransformer) -> dict[str, Tensor]:
    """Return the weights in the layout of caetas/GenerativeZoo, which has no embedding map.

    With token embedding E and embedding map W the input is E W^T and the output x (E W^T)^T. So the
    product E W^T, as a token embedding of width D, replaces both.
    """
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    folding = weights.pop("embedding_map.weight", None)
    if folding is not None:
        table = weights["token_embedding.weight"].double() @ folding.double().T
        weights["token_embedding.weight"] = table.float()
    weights["position_embedding"] = weights["position_embedding"][None]
    result = {}
    for name, value in weights.items():
        theirs = renamed(name, to_ours=False)
        assert theirs is not None, name
        result[theirs] = value.contiguous().clone()
    return result


def renamed(name: str, to_ours: bool) -> str | None:
    """Translate the name of a weight; None if it is not a weight of the transformer."""
    for theirs, ours in NAMES:
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        match = re.fullmatch(re.escape(source).replace(r"\*", "(.+?)"), name)
        if match:
            return target.replace("*", "{}").format(*match.groups())
    return None


def _named_weights(stored: Any) -> tuple[dict[str, Tensor], int]:
    """Find a transformer's weights, in float32 by this program's names, and the default heads."""
    entries = stored if isinstance(stored, Mapping) else {}
    heads = GENERATIVEZOO_HEADS
    if isinstance(entries.get("model_state_dict"), Mapping):
        entries, heads = entries["model_state_dict"], VALEOAI_HEADS
    weights = {}
    for name, value in entries.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            continue
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        ours = renamed(name, to_ours=True)
        if ours:
            weights[ours] = value.float()
    return weights, heads
