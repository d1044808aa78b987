"""The config of google-research's transformer; imports nothing slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.shapes import AttentionShape


@dataclass(frozen=True)
class BertConfig(AttentionShape):
    """Shape of google-research's MaskGIT, whose transformer is BERT's.

    It has no null class, so it cannot be guided.

    Attributes:
        seq_len: number of tokens of an image, L = h * w.
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

    seq_len: int
    mlp_dim: int = 384
