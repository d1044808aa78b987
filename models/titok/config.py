"""The config of TiTok's tokenizer; imports nothing slow, as models/vqgan/config.py."""

from dataclasses import dataclass
from typing import ClassVar

from models.maskgit_vqgan.config import MaskgitVQGANConfig
from models.vqgan.config import VQGANConfig
from utils.errors import FieldError
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
                value = getattr(self, name)
                if value < step or value % step:
                    raise FieldError(f"tokenizer.{name}", value, f"must be a multiple of {step}")
