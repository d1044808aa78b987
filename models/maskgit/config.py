"""The config of the masked transformer; its defaults are also those of the command line.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

from dataclasses import dataclass, field, fields
from typing import ClassVar

from models.shapes import TransformerShape
from utils.errors import FieldError
from utils.plain import ADDED_LATER

MAX_DEPTH = 1000  # a damaged file must not build modules for hours


@dataclass(frozen=True)
class TransformerConfig(TransformerShape):
    """Shape of the masked transformer; a checkpoint holds it.

    Attributes:
        codebook_size: number of image tokens K; their ids are 0 .. K-1.
        num_classes: number of classes; one more label, the null class, means "no class".
        seq_len: number of tokens of an image, L = h * w.
        hidden_dim: width of the blocks D, a multiple of `heads`.
        dropout: dropout rate on the embeddings and on the outputs of attention and MLP.
        null_trained: whether the null class was trained. Its weights exist in any case.
    """

    family: ClassVar[str] = "maskgit"

    codebook_size: int
    num_classes: int
    seq_len: int
    embed_dim: int = 64
    hidden_dim: int = 128
    depth: int = 10
    heads: int = 8
    mlp_dim: int = 384
    dropout: float = 0.1
    null_trained: bool = field(default=True, metadata=ADDED_LATER)

    @property
    def mask_token(self) -> int:
        """The token id that stands for "hidden"."""
        return self.codebook_size

    @property
    def null_class(self) -> int | None:
        """The label that means "no class", the unconditional input of guidance; None untrained."""
        return self.num_classes if self.null_trained else None

    @property
    def vocabulary_size(self) -> int:
        """The number of ids V: image tokens, mask token, classes and "no class"."""
        return self.codebook_size + 1 + self.num_classes + 1

    def validate(self) -> None:
        """Check that the numbers fit together.

        Raises:
            FieldError: naming the first field with a wrong value, and what would work.
        """
        for name in [one.name for one in fields(self) if one.type is int]:
            if getattr(self, name) < 1:
                raise FieldError(_own(name), getattr(self, name), "must be at least 1")
        if not 0 <= self.dropout < 1:
            raise FieldError(_own("dropout"), self.dropout, "must be at least 0 and below 1")
        if self.depth > MAX_DEPTH:
            raise FieldError("depth", self.depth, f"must be at most {MAX_DEPTH}")
        if self.hidden_dim % self.heads:
            raise FieldError(
                "hidden_dim", self.hidden_dim, f"must be divisible by `heads` {self.heads}"
            )


def _own(field: str) -> str:
    """Name a field for a FieldError, if other configs have a field of this name too."""
    return f"TransformerConfig.{field}"
