"""The config of the masked transformer; its defaults are also those of the command line.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from models.shapes import AttentionShape
from utils.plain import ADDED_LATER


@dataclass(frozen=True)
class TransformerConfig(AttentionShape):
    """Shape of the masked transformer.

    Attributes:
        seq_len: number of tokens of an image, L = h * w.
    """

    family: ClassVar[str] = "maskgit"

    seq_len: int
    embed_dim: int = 64
    mlp_dim: int = 384
    null_trained: bool = field(default=True, metadata=ADDED_LATER)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids V: image tokens, mask token, classes and "no class"."""
        return self.codebook_size + 1 + self.num_classes + 1
