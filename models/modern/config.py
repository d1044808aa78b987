"""The config of the modern transformer; its defaults are those of the demo.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from models.shapes import TransformerShape
from utils.errors import FieldError

MAX_DEPTH = 1000  # a damaged file must not build modules for hours


@dataclass(frozen=True)
class ModernConfig(TransformerShape):
    """Shape of the modern transformer; a checkpoint holds it.

    Attributes:
        codebook_size: number of image tokens K; their ids are 0 .. K-1, and K is the mask token.
        num_classes: number of classes; one more label, the null class, means "no class".
        grid: the token grid, (h, w), or (L,) for tokens in a row.
        hidden_dim: width of the blocks D, a multiple of twice the `heads`.
        depth: number of blocks.
        mlp_dim: width inside the MLPs.
        dropout: dropout rate on the outputs of attention and MLP.
        null_trained: whether the null class was trained. Its weights exist in any case.
    """

    family: ClassVar[str] = "modern"
    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 64,
        "optimizer": "muon",
        "lr": 8e-3,
        "ema_decay": 0.99,
        "label_smoothing": 0.0,
    }

    codebook_size: int
    num_classes: int
    grid: tuple[int, ...]
    hidden_dim: int = 128
    depth: int = 6
    heads: int = 2
    mlp_dim: int = 384
    dropout: float = 0.0
    null_trained: bool = True

    @property
    def seq_len(self) -> int:
        """The number of tokens of an image, L."""
        return math.prod(self.grid)

    @property
    def mask_token(self) -> int:
        """The token id that stands for "hidden"."""
        return self.codebook_size

    @property
    def null_class(self) -> int | None:
        """The label that means "no class", the unconditional input of guidance; None untrained."""
        return self.num_classes if self.null_trained else None

    def validate(self) -> None:
        """Check that the numbers fit together.

        Raises:
            FieldError: naming the first field with a wrong value, and what would work.
        """
        for name in [one.name for one in fields(self) if one.type is int]:
            if getattr(self, name) < 1:
                raise FieldError(_own(name), getattr(self, name), "must be at least 1")
        if not self.grid or min(self.grid) < 1:
            raise FieldError("grid", self.grid, "must be sizes of at least 1")
        if not 0 <= self.dropout < 1:
            raise FieldError(_own("dropout"), self.dropout, "must be at least 0 and below 1")
        if self.depth > MAX_DEPTH:
            raise FieldError("depth", self.depth, f"must be at most {MAX_DEPTH}")
        if self.hidden_dim % (2 * self.heads):
            reason = f"must be divisible by twice the `heads` {self.heads}"
            raise FieldError("hidden_dim", self.hidden_dim, reason)


def _own(field: str) -> str:
    """Name a field for a FieldError, if other configs have a field of this name too."""
    return f"TransformerConfig.{field}"
