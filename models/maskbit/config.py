"""The configs of MaskBit's tokenizer and transformer; imports nothing slow."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from models.maskgit_vqgan.config import MaskgitVQGANConfig
from models.shapes import AttentionShape
from models.vqgan.config import VQGANConfig
from utils.errors import FieldError


@dataclass(frozen=True)
class BitTokenizerConfig(MaskgitVQGANConfig):
    """Shape of MaskBit's tokenizer: VQGAN+ whose codes are the signs of `embed_dim` channels.

    Attributes:
        splits: number of tokens of a cell, each of `embed_dim` / `splits` bits. They stand side by
            side in the grid.
    """

    family: ClassVar[str] = "maskbit"

    splits: int = 1

    @property
    def bits(self) -> int:
        """The number of bits of a token."""
        return self.embed_dim // self.splits

    @property
    def codebook_size(self) -> int:
        """The number of tokens K; their ids are 0 .. K-1."""
        return int(2**self.bits)

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of tokens, (h, w * splits)."""
        rows, columns = super().grid
        return rows, columns * self.splits

    def adapted(self, given: Mapping[str, Any], source: Path | str) -> VQGANConfig:
        """Take over `splits`, and what VQ-GANs take over."""
        changed = replace(self, splits=given.get("splits", self.splits))
        return super(BitTokenizerConfig, changed).adapted(given, source)

    def validate(self) -> None:
        """Check that the numbers fit together; errors as in `VQGANConfig`."""
        super().validate()
        are_all = self.n_embed == 2**self.embed_dim
        self.need(are_all, "n_embed", f"must be 2 to the power of its {self.embed_dim} bits")
        if self.remap is not None:
            raise FieldError("remap", len(self.remap), "no code of bits can be left out")
        numbers = (self.embed_dim, self.factor)
        divides = self.splits >= 1 and not any(number % self.splits for number in numbers)
        reason = f"must divide {self.embed_dim} bits, and {self.factor} pixels"
        self.need(divides, "tokenizer.splits", reason)


@dataclass(frozen=True)
class BitTransformerConfig(AttentionShape):
    """Shape of MaskBit's transformer; `codebook_size` is a power of 2.

    Attributes:
        seq_len: number of tokens of an image, L = h * w * splits.
        splits: tokens of a cell of the image, which share a position of the network.
    """

    family: ClassVar[str] = "maskbit"
    # The training and the sampling of the published model of 14 bits. Its temperature falls from
    # 7.8 * 63/64, because the authors' progress is 1/64 at the first of the 64 steps.
    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 256,
        "lr": 1e-4,
        "weight_decay": 0.045,
        "label_drop": 0.1,
        "grad_clip": 1.0,
        "num_steps": 64,
        "schedule": "arccos-cumulative",
        "guidance": 7.1,
        "guidance_schedule": "power-cosine",
        "choice_temperature": 7.678125,
    }

    seq_len: int
    splits: int = 1
    mlp_dim: int = 384
    null_trained: bool = True

    @property
    def bits(self) -> int:
        """The number of bits of a token."""
        return self.codebook_size.bit_length() - 1

    def validate(self) -> None:
        """Check that the numbers fit together; errors as in `AttentionShape`."""
        super().validate()
        reason = "must be a power of 2, because this transformer sees the bits of tokens"
        self.need(self.codebook_size == 2**self.bits, "transformer.codebook_size", reason)
        divides = self.seq_len % self.splits == 0
        self.need(divides, "transformer.splits", f"must divide {self.seq_len}")
