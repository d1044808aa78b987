"""The config of Halton-MaskGIT's transformer; its defaults are the smallest published model's.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from models.shapes import AttentionShape

WIDTH_STEP = 256  # of the hidden layer of the feed-forward networks


@dataclass(frozen=True)
class HaltonConfig(AttentionShape):
    """Shape of Halton-MaskGIT's transformer.

    Attributes:
        seq_len: number of tokens of an image, L = h * w.
        heads: attention heads of hidden_dim // heads channels each. Their total may be smaller than
            `hidden_dim`, as in the published "small" models: 6 heads of 85 channels of 512.
        registers: tokens without a position that follow the image tokens and predict nothing.
        dropout: dropout rate on the outputs of attention and inside the feed-forward networks.
    """

    family: ClassVar[str] = "halton"
    may_be_zero: ClassVar[tuple[str, ...]] = ("registers",)
    # The training and the sampling of the published models, as far as options express them.
    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 256,
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.03,
        "label_drop": 0.1,
        "label_smoothing": 0.0,
        "grad_clip": 1.0,
        "num_steps": 32,
        "schedule": "arccos-halton",
        "sampler": "halton",
        "halton_roll": "off",
        "guidance": 1.0,
        "guidance_schedule": "constant",
        "first_logit_scale": 0.5,
    }

    seq_len: int
    _: KW_ONLY
    hidden_dim: int = 384
    depth: int = 6
    heads: int = 6
    registers: int = 1
    null_trained: bool = True

    @property
    def inner_width(self) -> int:
        """Width inside the feed-forward networks: 8/3 D, rounded up to a multiple of 256."""
        return -(-(2 * 4 * self.hidden_dim // 3) // WIDTH_STEP) * WIDTH_STEP

    @property
    def attention_width(self) -> int:
        """Channels of all heads together, at most `hidden_dim`."""
        return self.hidden_dim // self.heads * self.heads

    def validate_heads(self) -> None:
        """Check that the heads fit the width; raises FieldError."""
        reason = f"must be at most `hidden_dim` {self.hidden_dim}"
        self.need(self.heads <= self.hidden_dim, "heads", reason)
