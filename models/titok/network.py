"""TiTok (Yu et al. 2024): an image as a short sequence of tokens, each about all of it.

A ViT reads the patches of an image together with a few latent vectors, which become the tokens.
Another turns tokens and mask vectors into patches: for each a mixture of the codes of MaskGIT's
VQ-GAN, whose decoder makes the pixels.

Axes: B batch, C image channels, H W pixels, h w patches, N = h * w, L tokens, D width of a code,
E width of a ViT.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.layers import PreNormBlock
from models.llamagen.vqgan import SphereQuantizer
from models.maskgit_vqgan.config import MaskgitVQGANConfig
from models.maskgit_vqgan.network import Decoder, MaskgitVQModel
from models.vqgan.config import VQGANConfig
from models.vqgan.quantizer import VectorQuantizer
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


class ViT(nn.Module):
    """Mixes the vectors of patches and of tokens; a class vector, which nothing reads, is first."""

    def __init__(self, width: int, depth: int, patches: int, length: int) -> None:
        super().__init__()
        self.class_vector = _vectors(1, width)
        self.patch_positions = _vectors(patches + 1, width)
        self.token_positions = _vectors(length, width)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.Sequential(
            *(PreNormBlock(width, width // HEAD_WIDTH, 4 * width) for _ in range(depth))
        )
        self.norm_out = nn.LayerNorm(width)

    def forward(self, patches: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map both: (B, N, E) and (B, L, E)."""
        length = tokens.shape[1]
        first = self.class_vector.expand(len(patches), 1, -1)
        patches = torch.cat([first, patches], 1) + self.patch_positions
        x = torch.cat([patches, tokens + self.token_positions], 1)  # (B, 1 + N + L, E)
        x = self.norm_out(self.blocks(self.norm_in(x)))
        return x[:, 1:-length], x[:, -length:]


class Encoder(nn.Module):
    """Turns images into the vectors of the tokens."""

    def __init__(self, config: TitokConfig) -> None:
        super().__init__()
        width, patch = config.encoder_width, config.factor
        self.patches = nn.Conv2d(config.image_channels, width, patch, stride=patch)
        self.tokens = _vectors(config.length, width)
        self.vit = ViT(width, config.encoder_depth, math.prod(config.cells), config.length)
        self.conv_out = nn.Conv2d(width, config.embed_dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, 1, L)."""
        patches = self.patches(images).flatten(2).mT  # (B, N, E)
        _, tokens = self.vit(patches, self.tokens.expand(len(images), -1, -1))
        # The original takes the L x E numbers of the tokens for E x L, and was trained so.
        columns = tokens.reshape(len(images), -1, tokens.shape[1], 1)  # (B, E, L, 1)
        return self.conv_out(columns).mT


class PixelDecoder(Decoder):
    """Turns the vectors of the tokens into images."""

    def __init__(self, config: TitokConfig) -> None:
        super().__init__(config)
        width, self.cells = config.decoder_width, config.cells
        self.tokens = nn.Linear(config.embed_dim, width)
        self.mask = _vectors(1, 1, width)
        self.vit = ViT(width, config.decoder_depth, math.prod(config.cells), config.length)
        self.scores = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, config.cell_codes, 1)
        )
        self.cell_codes = _vectors(config.cell_codes, config.z_channels)

    def features(self, z: Tensor) -> Tensor:
        """Compute the input of the last convolution: (B, D, 1, L) -> (B, channels, H, W)."""
        masks = self.mask.expand(len(z), math.prod(self.cells), -1)  # (B, N, E)
        patches, _ = self.vit(masks, self.tokens(z[:, :, 0].mT))
        weights = self.scores(patches.mT.unflatten(-1, self.cells)).softmax(1)  # (B, codes, h, w)
        return super().features(torch.einsum("bkhw,kz->bzhw", weights, self.cell_codes))


class TitokModel(MaskgitVQModel):
    """TiTok's autoencoder."""

    encoder_class: ClassVar[Any] = Encoder
    decoder_class: ClassVar[Any] = PixelDecoder
    quantizer_class: ClassVar[type[VectorQuantizer]] = SphereQuantizer
    config: TitokConfig

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) in [-1, 1] into tokens int64 (B, L) in [0, K)."""
        return super().encode(images)[:, 0]

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Turn tokens int64 (B, L) in [0, K) into images (B, C, H, W), not clamped."""
        return super().decode_tokens(tokens[:, None])


def _vectors(*shape: int) -> nn.Parameter:
    """Make random vectors of about length 1, the last axis."""
    return nn.Parameter(shape[-1] ** -0.5 * torch.randn(*shape))
