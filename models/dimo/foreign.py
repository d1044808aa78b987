"""Reads the one-step student of yuanzhi-zhu/DiMO, `maskgit/pytorch_model.bin`.

Its weights have the names, and the sizes, of the 256 pixel model of valeoai/Maskgit-pytorch v1.0,
its teacher. That one is in a dictionary with its training state, and the student is not.
"""

import logging

from models.dimo.config import DimoConfig
from models.dimo.network import DimoTransformer
from models.family import Expected, Family, Found
from models.foreign_file import ForeignFile, unwrapped
from models.maskgit.foreign import SIGNS, VALEOAI_HEADS, find_weights, infer_config, to_foreign

log = logging.getLogger(__name__)

TEACHER = {"tok_emb.weight": (2026, 768), "pos_emb": (1, 257, 768)}
LAST_BLOCK = "transformer.layers.23.0.norm.weight"


def recognizes(file: ForeignFile) -> bool:
    """Return whether a file holds such a student."""
    wrappers, weights = unwrapped(file.stored, SIGNS)
    shapes = {name: tuple(weights[name].shape) for name in TEACHER.keys() & weights.keys()}
    return not wrappers and shapes == TEACHER and LAST_BLOCK in weights


def read(file: ForeignFile, expected: Expected) -> Found:
    """Read the student; result and errors as in `models.maskgit.foreign.read`."""
    weights, _ = find_weights(file)
    log.info("%s: sampled in one step; it has no trained null class for guidance", file.path)
    codes, heads = expected.tokenizer.codebook_size, expected.heads or VALEOAI_HEADS
    like = infer_config(weights, codes, heads)
    return DimoConfig(**{**vars(like), "null_trained": False}), weights


FAMILY = Family(
    config=DimoConfig,
    network=DimoTransformer,
    layout="one-step student of Di[M]O (a bare state dict of valeoai/Maskgit-pytorch's 256 model)",
    recognizes=recognizes,
    read=read,
    write=to_foreign,
)
