"""Reads the one-step student of yuanzhi-zhu/DiMO, `maskgit/pytorch_model.bin`.

Its weights have the names, and the sizes, of the 256 pixel model of valeoai/Maskgit-pytorch v1.0,
its teacher. That one is in a dictionary with its training state, and the student is not.
"""

import logging
from collections.abc import Mapping
from typing import Any

from models.dimo.config import DimoConfig
from models.dimo.network import DimoTransformer
from models.foreign_file import ForeignFile, making, unwrapped
from models.maskgit.foreign import SIGNS, VALEOAI_HEADS, find_weights, infer_config
from models.shapes import TokenizerShape
from utils.checkpoint import build_with_weights

log = logging.getLogger(__name__)

LAYOUT = "one-step student of Di[M]O (a bare state dict of valeoai/Maskgit-pytorch's 256 model)"
TEACHER = {"tok_emb.weight": (2026, 768), "pos_emb": (1, 257, 768)}
LAST_BLOCK = "transformer.layers.23.0.norm.weight"


def recognizes(file: ForeignFile) -> bool:
    """Return whether a file holds such a student."""
    wrappers, weights = unwrapped(file.stored, SIGNS)
    shapes = {name: tuple(weights[name].shape) for name in TEACHER.keys() & weights.keys()}
    return not wrappers and shapes == TEACHER and LAST_BLOCK in weights


def read(
    file: ForeignFile,
    tokenizer: TokenizerShape,
    num_classes: int | None,
    given: Mapping[str, Any],
) -> DimoTransformer:
    """Build the student; arguments and errors as in `models.maskgit.foreign.read`."""
    weights = find_weights(file).weights
    log.info("%s: sampled in one step; it has no trained null class for guidance", file.path)
    with making("transformer", file.path):
        like = infer_config(weights, tokenizer.codebook_size, given.get("heads") or VALEOAI_HEADS)
        config = DimoConfig(**{**vars(like), "null_trained": False})
        config.validate()
        return build_with_weights(lambda: DimoTransformer(config), weights)
