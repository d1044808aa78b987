"""MaskGIT's VQ-GAN (Chang et al. 2022), and VQGAN+ of MaskBit (Weber et al. 2024).

It differs from taming's: no attention, no bias in the encoder's first convolution and in the
residual blocks, and a shortcut that does not see the block's input. Axes: B batch, C image
channels, H W pixels, h w token grid, D width of a code, Z of what is decoded (here equal to D).
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from models.maskgit_vqgan.config import MaskgitVQGANConfig
from models.vqgan import network
from models.vqgan.network import Downsample, Level, Upsample, VQModel, norm_layer


def _conv(in_channels: int, out_channels: int, side: int) -> nn.Conv2d:
    """Make a convolution without bias that keeps the resolution."""
    return nn.Conv2d(in_channels, out_channels, side, padding=side // 2, bias=False)


class ResidualBlock(nn.Module):
    """x + f(x), or W f(x) + f(x) where the width changes; f has two convolutions.

    The second form looks like a mistake of the original, whose shortcut should be W x, but the
    published weights were trained with it.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = norm_layer(in_channels)
        self.conv1 = _conv(in_channels, out_channels, 3)
        self.norm2 = norm_layer(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.nin_shortcut = _conv(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(h) if self.has_shortcut else x)


def _blocks(in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    """Make the residual blocks of one resolution."""
    widths = [in_channels] + [out_channels] * (count - 1)
    return nn.Sequential(*(ResidualBlock(width, out_channels) for width in widths))


class Encoder(network.Encoder):
    """Turns images into feature maps at the resolution of the tokens."""

    def __init__(self, config: MaskgitVQGANConfig) -> None:
        nn.Module.__init__(self)
        widths = config.widths
        self.conv_in = _conv(config.image_channels, config.channels, 3)
        self.down = nn.ModuleList()
        for before, width in zip((config.channels, *widths), widths, strict=False):
            level = Level(before, width, config.num_res_blocks, ResidualBlock)
            if len(self.down) < len(widths) - 1:
                level.downsample = Downsample(width) if config.strided else nn.AvgPool2d(2)
            self.down.append(level)
        self.mid = _blocks(widths[-1], widths[-1], config.num_res_blocks)
        self.norm_out = norm_layer(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.embed_dim, 1)


class Decoder(network.Decoder):
    """Turns feature maps at the resolution of the tokens into images."""

    def __init__(self, config: MaskgitVQGANConfig) -> None:
        nn.Module.__init__(self)
        widths = config.widths
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = _blocks(widths[-1], widths[-1], config.num_res_blocks)
        self.up = nn.ModuleList()  # full resolution first, as in `down`
        for before, width in zip((*widths[1:], widths[-1]), widths, strict=True):
            level = Level(before, width, config.num_res_blocks, ResidualBlock)
            if len(self.up):
                level.upsample = Upsample(width)
            self.up.append(level)
        self.norm_out = norm_layer(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.image_channels, 3, padding=1)


class MaskgitVQModel(VQModel):
    """The autoencoder of MaskGIT and VQGAN+."""

    encoder_class: ClassVar[Any] = Encoder
    decoder_class: ClassVar[Any] = Decoder
    has_quant_convs: ClassVar[bool] = False
    from_zero: ClassVar[bool] = True
