"""The config of the modern transformer; its defaults are those of docs/log/modern.md.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from models.shapes import AttentionShape


@dataclass(frozen=True)
class ModernConfig(AttentionShape):
    """Shape of the modern transformer; `hidden_dim` is a multiple of twice the `heads`.

    Dropout acts on the outputs of attention and MLP, not on the embeddings.

    Attributes:
        grid: the token grid, (h, w), or (L,) for tokens in a row.
    """

    family: ClassVar[str] = "modern"
    # Training and sampling with the best scores of docs/log/modern.md.
    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 64,
        "optimizer": "muon",
        "lr": 8e-3,
        "decay": "trapezoid",
        "label_drop": 0.2,
        "ema_decay": 0.99,
        "label_smoothing": 0.0,
        "num_steps": 12,
        "guidance": 2.5,
        "choice_temperature": 9.0,
        "logit_scale": 0.85,
    }

    # The students of docs/log/few_steps.md.
    usual_students: ClassVar[Mapping[str, Any]] = {
        "epochs": 7,
        "optimizer": "muon",
        "lr": 1e-3,
        "auxiliary_lr": 4e-3,
        "teacher_guidance": 2.5,
        "guidance_rises": True,
        "teacher_logit_scale": 1.0,
        "start_share": 1 / 16,
        "ema_decay": 0.99,
    }

    grid: tuple[int, ...]
    _: KW_ONLY
    depth: int = 6
    heads: int = 2
    mlp_dim: int = 384
    dropout: float = 0.0
    null_trained: bool = True

    @property
    def seq_len(self) -> int:
        """The number of tokens of an image, L."""
        return math.prod(self.grid)

    def validate(self) -> None:
        """Check that the numbers fit together; errors as in `AttentionShape`."""
        self.need(min(self.grid, default=0) >= 1, "grid", "must be sizes of at least 1")
        super().validate()

    def validate_heads(self) -> None:
        """Check that the heads fit the width; raises FieldError."""
        fits = self.hidden_dim % (2 * self.heads) == 0
        self.need(fits, "hidden_dim", f"must be divisible by twice the `heads` {self.heads}")
