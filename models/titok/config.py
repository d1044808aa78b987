"""The configs of TiTok's tokenizer and transformer; imports nothing slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.maskgit_vqgan.config import MaskgitVQGANConfig
from models.shapes import AttentionShape
from models.vqgan.config import VQGANConfig
from utils.size import Size

HEAD_WIDTH = 64  # channels of an attention head, at all published widths


@dataclass(frozen=True)
class TitokConfig(MaskgitVQGANConfig):
    """Shape of TiTok: two ViTs around the codes, and the decoder of MaskGIT's VQ-GAN behind them.

    `channels`, `ch_mult`, `num_res_blocks` and `z_channels` are those of that decoder. The patches
    of the ViTs have the size of its cells.

    Attributes:
        length: number of tokens of an image L.
        encoder_width, decoder_width: widths of the ViTs, multiples of 64.
        encoder_depth, decoder_depth: numbers of their blocks.
        cell_codes: number of codes of MaskGIT's VQ-GAN, whose mixtures its decoder gets.
    """

    family: ClassVar[str] = "titok"

    length: int = 32
    encoder_width: int = 1024
    encoder_depth: int = 24
    decoder_width: int = 1024
    decoder_depth: int = 24
    cell_codes: int = 1024

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of tokens, (L,); each describes the whole image."""
        return (self.length,)

    @property
    def cells(self) -> tuple[int, ...]:
        """Rows and columns of patches, (h, w)."""
        return super().grid

    def for_images_of(self, image_size: Size) -> VQGANConfig:
        """Return this config: the patches have positions, so it has one size."""
        return self

    def validate(self) -> None:
        """Check that the numbers fit together; errors as in `VQGANConfig`."""
        super().validate()
        for part in ("encoder", "decoder"):
            for name, step in ((f"{part}_width", HEAD_WIDTH), (f"{part}_depth", 1)):
                fits = getattr(self, name) >= step and getattr(self, name) % step == 0
                self.need(fits, f"tokenizer.{name}", f"must be a multiple of {step}")


@dataclass(frozen=True)
class TitokTransformerConfig(AttentionShape):
    """Shape of TiTok's transformer.

    Attributes:
        seq_len: number of tokens of an image L.
        long_skips: whether it is a U-ViT, as for S-128, and not BERT. It drops no embeddings, and
            `depth` does not count its block in the middle.
    """

    family: ClassVar[str] = "titok"
    # The training, as far as options express it, and the sampling of the published L-32. Their
    # progress is 1/8 at the first of the 8 steps, so its temperature is 9.5 * 7/8, and its guidance
    # rises to 4.5 * 7/8.
    usual: ClassVar[Mapping[str, Any]] = {
        "lr": 2e-4,
        "betas": (0.9, 0.96),
        "weight_decay": 0.03,
        "label_drop": 0.1,
        "grad_clip": 1.0,
        "num_steps": 8,
        "schedule": "arccos-cumulative",
        "sampler": "annealed",
        "guidance": 3.9375,
        "choice_temperature": 8.3125,
    }

    seq_len: int
    mlp_dim: int = 384
    null_trained: bool = True
    long_skips: bool = False

    def validate(self) -> None:
        """Check that the numbers fit together; errors as in `AttentionShape`."""
        super().validate()
        is_even = not self.long_skips or self.depth % 2 == 0
        self.need(is_even, "depth", "must be even, because each skip joins two blocks")
