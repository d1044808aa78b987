"""The config of google-research's transformer; imports nothing slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.shapes import AttentionShape


@dataclass(frozen=True)
class BertConfig(AttentionShape):
    """Shape of google-research's MaskGIT, whose transformer is BERT's; a checkpoint holds it.

    Attributes:
        codebook_size: number of image tokens K; their ids are 0 .. K-1, and K is the mask token.
        num_classes: number of classes; the family has no null class.
        seq_len: number of tokens of an image, L = h * w.
        hidden_dim: width of the blocks D, a multiple of `heads`.
        dropout: dropout rate on the embeddings and on the outputs of attention and MLP.
    """

    family: ClassVar[str] = "google"
    # The training and the sampling of the published models. The temperature falls from 4.5 * 15/16,
    # because the authors' progress is 1/16 at the first of the 16 steps.
    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 256,
        "lr": 1e-4,
        "betas": (0.9, 0.96),
        "weight_decay": 0.045,
        "num_steps": 16,
        "schedule": "cosine-cumulative",
        "choice_temperature": 4.21875,
    }

    codebook_size: int
    num_classes: int
    seq_len: int
    hidden_dim: int = 128
    depth: int = 10
    heads: int = 8
    mlp_dim: int = 384
    dropout: float = 0.1

    @property
    def null_class(self) -> None:
        """There is none, so this transformer cannot be guided."""
