"""Open a trained transformer, also one of another program; write one in their layout.

valeoai/Maskgit-pytorch v1.0 and caetas/GenerativeZoo keep the same network under the same names;
the first inside a dictionary with the state of its training, the second as a bare state dict. Token
ids, class tokens and shapes are ours already, so that only names differ.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.vqgan.tokenizer import Tokenizer
from utils.errors import UserError, one_line
from utils.plain import from_plain
from utils.weights import build_with_weights

log = logging.getLogger(__name__)

# Heads leave no trace in the weights; these are the programs' own defaults.
VALEOAI_HEADS = 16
GENERATIVEZOO_HEADS = 8
ENTRIES = frozenset({"config", "ema", "tokenizer", "dataset", "class_names"})  # of our own files
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


@dataclass(frozen=True)
class Trained:
    """A trained transformer and all that it takes to use it.

    Attributes:
        model: in evaluation mode.
        tokenizer: the one it was trained with.
        dataset: name of the dataset.
        class_names: in the order of the labels.
    """

    model: MaskedTransformer
    tokenizer: Tokenizer
    dataset: str
    class_names: Sequence[str]


def from_contents(contents: Mapping[str, Any], path: Path) -> Trained:
    """Build what a checkpoint of this program holds, with the averaged weights, on the CPU.

    Raises:
        UserError: if the contents do not fit together, or a weight is not finite.
    """
    missing = ENTRIES.difference(contents)
    if missing:
        raise UserError(f"{path} is damaged: it has no {min(missing)}")
    try:
        config = from_plain(TransformerConfig, contents["config"])
        config.validate()
        names = contents["class_names"]
        if len(names) != config.num_classes or not all(isinstance(name, str) for name in names):
            raise ValueError(f"it does not name its {config.num_classes} classes")
        model = build_with_weights(lambda: MaskedTransformer(config), contents["ema"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {one_line(error)}") from error
    tokenizer = Tokenizer.from_entry(contents["tokenizer"])
    if (config.codebook_size, config.seq_len) != (tokenizer.codebook_size, tokenizer.grid_size**2):
        raise UserError(f"{path} is damaged: its transformer is not for its tokenizer")
    return Trained(model, tokenizer, contents["dataset"], names)


class ForeignWeights(NamedTuple):
    """Weights of another program's transformer.

    Attributes:
        weights: float32, under our names.
        heads: of that program's default model, as they leave no trace in the weights.
    """

    weights: dict[str, Tensor]
    heads: int


def find_weights(stored: Any, path: Path) -> ForeignWeights:
    """Pick the transformer's weights from what `read_torch_file` returned.

    Raises:
        UserError: if there are none.
    """
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
    if "token_embedding.weight" not in weights or "position_embedding" not in weights:
        raise UserError(
            f"{path} holds no transformer: it is neither a checkpoint of this program nor one in "
            "the layout of valeoai/Maskgit-pytorch v1.0 or caetas/GenerativeZoo"
        )
    positions = weights["position_embedding"]
    weights["position_embedding"] = positions.flatten(0, -2) if positions.ndim > 1 else positions
    return ForeignWeights(weights, heads)


def build_model(
    foreign: ForeignWeights, path: Path, codebook_size: int, heads: int | None
) -> MaskedTransformer:
    """Build the model that weights belong to; its configuration is read off them.

    Args:
        foreign: as `find_weights` returns them.
        path: the file, to be named in errors.
        codebook_size: K of the tokenizer; the weights tell K + classes alone.
        heads: given by hand, or None for those of the other program.

    Returns:
        The model on the CPU in evaluation mode.

    Raises:
        UserError: if the numbers do not fit together.
    """
    if heads is None:
        heads = foreign.heads
        log.info("%s does not tell its attention heads; %d are assumed (--heads)", path, heads)
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
    """Read the configuration off weights under our names.

    Raises:
        KeyError: if a weight is missing.
        ValueError: if the vocabulary has no room for the codebook and a class.
    """
    vocabulary, width = weights["token_embedding.weight"].shape
    num_classes = vocabulary - codebook_size - 2
    if num_classes < 1:
        raise ValueError(
            f"a vocabulary of {vocabulary} has no room for the tokenizer's {codebook_size} codes, "
            "mask, classes and no class; is it the right tokenizer?"
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
    """The weights as caetas/GenerativeZoo keeps them, the embedding's map folded into it.

    With token embedding E and map W, both tied, the way in is E W^T and the way out x (E W^T)^T: a
    table of the model's own width does the same.
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
    """The name of a weight in the other program, or None if it is no weight of the transformer."""
    for theirs, ours in NAMES:
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        match = re.fullmatch(re.escape(source).replace(r"\*", "(.+?)"), name)
        if match:
            return target.replace("*", "{}").format(*match.groups())
    return None
