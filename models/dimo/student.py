"""The one-step student of Di[M]O (Zhu et al. 2025): its teacher's network and noise on the input.

It is read from `maskgit/pytorch_model.bin` of yuanzhi-zhu/DiMO. The weights there have the names,
and the sizes, of the 256 pixel model of valeoai/Maskgit-pytorch v1.0, its teacher. That one is in a
dictionary with its training state, and the student is not.

Axes: B batch, L image tokens, E embedding.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.family import Expected, Family, Found
from models.foreign_file import ForeignFile, unwrapped
from models.maskgit.config import TransformerConfig
from models.maskgit.foreign import SIGNS, VALEOAI_HEADS, find_weights, infer_config, to_foreign
from models.maskgit.transformer import MaskedTransformer
from utils.device import send
from utils.seeding import rng

log = logging.getLogger(__name__)

TEACHER = {"tok_emb.weight": (2026, 768), "pos_emb": (1, 257, 768)}
LAST_BLOCK = "transformer.layers.23.0.norm.weight"


@dataclass(frozen=True)
class DimoConfig(TransformerConfig):
    """Shape of Di[M]O's student: that of its teacher, with noise on the embeddings of tokens.

    Attributes:
        noise: weight n of the noise, from 0 to 1; that of an embedding is sqrt(1 - n^2).
    """

    family: ClassVar[str] = "dimo"
    # One step from 60 % mask tokens and 40 % random ones, without guidance.
    usual: ClassVar[Mapping[str, Any]] = {
        "num_steps": 1,
        "guidance": 0.0,
        "start_token": -1,
        "start_share": 0.4,
    }

    noise: float = 0.1


class DimoTransformer(MaskedTransformer):
    """Predicts all image tokens at once, from tokens of which many are random."""

    config: DimoConfig
    waits = True  # for the tokens, whose noise the host draws

    def embed(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Embed tokens int64 (B, L), with noise, and labels int64 (B,): (B, L + 1, E)."""
        x = super().embed(tokens, labels)
        image, noise = x[:, :-1], self.config.noise
        noisy = noise * noise_of(tokens, x.shape[-1]) + (1 - noise**2) ** 0.5 * image
        return torch.cat([noisy, x[:, -1:]], 1)


def noise_of(tokens: Tensor, width: int) -> Tensor:
    """Draw normal noise (B, L, width), a function of the tokens int64 (B, L) of each image.

    The tokens that an image starts from are random, so no other random numbers are needed.
    """
    rows = [rng(0, "embedding noise", *row) for row in tokens.tolist()]
    drawn = [row.standard_normal((tokens.shape[1], width), np.float32) for row in rows]
    return send(np.stack(drawn), tokens.device)


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
