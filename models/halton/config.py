"""The config of Halton-MaskGIT's transformer; its defaults are the smallest published model's.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from models.shapes import TransformerShape
from utils.errors import FieldError

MAX_DEPTH = 1000  # a damaged file must not build modules for hours
WIDTH_STEP = 256  # of the hidden layer of the feed-forward networks


@dataclass(frozen=True)
class HaltonConfig(TransformerShape):
    """Shape of Halton-MaskGIT's transformer; a checkpoint holds it.

    Attributes:
        codebook_size: number of image tokens K; their ids are 0 .. K-1, and K is the mask token.
        num_classes: number of classes; one more label, the null class, means "no class".
        seq_len: number of tokens of an image, L = h * w.
        hidden_dim: width of the blocks D.
        depth: number of blocks.
        heads: attention heads of hidden_dim // heads channels each. Their total may be smaller than
            `hidden_dim`, as in the published "small" models: 6 heads of 85 channels of 512.
        registers: tokens without a position that follow the image tokens and predict nothing.
        dropout: dropout rate on the outputs of attention and inside the feed-forward networks.
        null_trained: whether the null class was trained. Its weights exist in any case.
    """

    family: ClassVar[str] = "halton"
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

    codebook_size: int
    num_classes: int
    seq_len: int
    hidden_dim: int = 384
    depth: int = 6
    heads: int = 6
    registers: int = 1
    dropout: float = 0.1
    null_trained: bool = True

    @property
    def mask_token(self) -> int:
        """The token id that stands for "hidden"."""
        return self.codebook_size

    @property
    def null_class(self) -> int | None:
        """The label that means "no class", the unconditional input of guidance; None untrained."""
        return self.num_classes if self.null_trained else None

    @property
    def inner_width(self) -> int:
        """Width inside the feed-forward networks: 8/3 D, rounded up to a multiple of 256."""
        return -(-(2 * 4 * self.hidden_dim // 3) // WIDTH_STEP) * WIDTH_STEP

    @property
    def attention_width(self) -> int:
        """Channels of all heads together, at most `hidden_dim`."""
        return self.hidden_dim // self.heads * self.heads

    def validate(self) -> None:
        """Check that the numbers fit together.

        Raises:
            FieldError: naming the first field with a wrong value, and what would work.
        """
        for name in [
            one.name for one in fields(self) if one.type is int and one.name != "registers"
        ]:
            if getattr(self, name) < 1:
                raise FieldError(_own(name), getattr(self, name), "must be at least 1")
        if self.registers < 0:
            raise FieldError(_own("registers"), self.registers, "must be at least 0")
        if not 0 <= self.dropout < 1:
            raise FieldError(_own("dropout"), self.dropout, "must be at least 0 and below 1")
        if self.depth > MAX_DEPTH:
            raise FieldError("depth", self.depth, f"must be at most {MAX_DEPTH}")
        if self.heads > self.hidden_dim:
            raise FieldError("heads", self.heads, f"must be at most `hidden_dim` {self.hidden_dim}")


def _own(field: str) -> str:
    """Name a field for a FieldError, if other configs have a field of this name too."""
    return f"TransformerConfig.{field}"
