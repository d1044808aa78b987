"""The config of the masked transformer; its defaults are also those of the command line.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from models.shapes import AttentionShape
from utils.plain import ADDED_LATER


@dataclass(frozen=True)
class TransformerConfig(AttentionShape):
    """Shape of the masked transformer; a checkpoint holds it.

    Attributes:
        codebook_size: number of image tokens K; their ids are 0 .. K-1.
        num_classes: number of classes; one more label, the null class, means "no class".
        seq_len: number of tokens of an image, L = h * w.
        hidden_dim: width of the blocks D, a multiple of `heads`.
        dropout: dropout rate on the embeddings and on the outputs of attention and MLP.
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
    def vocabulary_size(self) -> int:
        """The number of ids V: image tokens, mask token, classes and "no class"."""
        return self.codebook_size + 1 + self.num_classes + 1
