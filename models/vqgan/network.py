"""The VQ-GAN: encoder, quantizer and decoder.

The architecture and every parameter name are those of taming-transformers' VQModel (Esser et al.
2021), so that its checkpoints load unchanged. Axes: B batch, C image channels, H W pixels, h w
token grid, Z z_channels, D width of a code.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor, nn

from models.family import TokenizerNetwork
from models.shapes import TokenizerShape
from models.vqgan.config import VQGANConfig
from models.vqgan.quantizer import VectorQuantizer
from utils.plain import to_plain

# Fields of the config that do not change what a trained encoder computes. Its weights show which
# levels have attention.
NOT_ENCODING = {"image_size", "attn_resolutions", "dropout", "sane_index_shape", "colorize_nlabels"}
DECODER = ("decoder.", "post_quant_conv.", "colorize")  # starts of the names of what only decodes


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm; on the CPU the mean of each group is subtracted first.

    For tensors in channels_last torch computes the variance on the CPU as E[x^2] - E[x]^2 in
    float32. If the mean is large compared with the deviation, as in flat parts of an image, no
    digit of the difference is right: with mean 1 and deviation 0.01 the result is off by 0.03.
    Normalized values do not depend on the mean, so nothing else changes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W) over the groups of its channels."""
        is_exact = x.device.type != "cpu" or x.is_contiguous()
        return super().forward(x if is_exact else x - self._group_means(x))

    @torch.no_grad()
    def _group_means(self, x: Tensor) -> Tensor:
        """The mean of each group at each of its channels: (B, C, 1, 1)."""
        batch, channels = x.shape[:2]
        of_channels = x.permute(0, 2, 3, 1).reshape(batch, -1, channels).mean(1)  # (B, C)
        means = of_channels.unflatten(1, (self.num_groups, -1)).mean(2, keepdim=True)  # (B, G, 1)
        width = channels // self.num_groups
        return means.expand(-1, -1, width).reshape(batch, channels, 1, 1)


def norm_layer(channels: int) -> GroupNorm:
    """Make the normalization layer of all blocks; VQModel sets the number of its groups."""
    return GroupNorm(1, channels, eps=1e-6)


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Make a 3x3 convolution that keeps the resolution."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ResidualBlock(nn.Module):
    """x + two convolutions of x, each after norm and SiLU."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm_layer(in_channels)
        self.conv1 = _conv3x3(in_channels, out_channels)
        self.norm2 = norm_layer(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return (self.nin_shortcut(x) if self.has_shortcut else x) + h


class AttentionBlock(nn.Module):
    """x + single-head self-attention over all positions of norm(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm_layer(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).mT.unsqueeze(1) for conv in (self.q, self.k, self.v))
        if x.device.type == "cpu":
            # On the CPU the backward pass of fused attention is several times slower in bfloat16.
            q, k, v = q.float(), k.float(), v.float()
        h = F.scaled_dot_product_attention(q, k, v)  # (B, 1, H * W, C)
        return x + self.proj_out(h.squeeze(1).mT.reshape(x.shape).to(x.dtype))


class Downsample(nn.Module):
    """Halves the resolution; it pads right and bottom only, as taming does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks at one resolution, each followed by attention if `with_attention`.

    The last level of a network keeps its resolution; the others have a `downsample` or `upsample`.
    """

    downsample: nn.Module | None
    upsample: nn.Module | None

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_blocks: int,
        block: Callable[[int, int], nn.Module],
        with_attention: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * (num_blocks - 1)
        self.block = nn.ModuleList(block(width, channels) for width in widths)
        self.attn = nn.ModuleList(AttentionBlock(channels) for _ in widths if with_attention)
        self.downsample = self.upsample = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, channels, H, W), or half or twice that size."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class Middle(nn.Module):
    """The two blocks at the resolution of the tokens, with or without attention in between."""

    def __init__(self, channels: int, dropout: float, with_attention: bool) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, dropout)
        self.attn_1 = AttentionBlock(channels) if with_attention else nn.Identity()
        self.block_2 = ResidualBlock(channels, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Turns images into feature maps at the resolution of the tokens."""

    mid: nn.Module

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths, block = config.widths, partial(ResidualBlock, dropout=config.dropout)
        self.conv_in = _conv3x3(config.image_channels, config.channels)
        self.down = nn.ModuleList()
        in_channels = config.channels
        for width, resolution in zip(widths, config.resolutions, strict=True):
            with_attention = resolution in config.attn_resolutions
            level = Level(in_channels, width, config.num_res_blocks, block, with_attention)
            if len(self.down) < len(widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
            in_channels = width
        self.mid = Middle(widths[-1], config.dropout, config.middle_attention)
        self.norm_out = norm_layer(widths[-1])
        self.conv_out = _conv3x3(widths[-1], config.z_channels * (2 if config.double_z else 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Z or 2 Z, h, w)."""
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Turns feature maps at the resolution of the tokens into images; mirrors the encoder."""

    mid: nn.Module

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths, block = config.widths, partial(ResidualBlock, dropout=config.dropout)
        self.conv_in = _conv3x3(config.z_channels, widths[-1])
        self.mid = Middle(widths[-1], config.dropout, config.middle_attention)
        levels: list[Level] = []  # from the lowest resolution up
        in_channels = widths[-1]
        for width, resolution in zip(reversed(widths), reversed(config.resolutions), strict=True):
            with_attention = resolution in config.attn_resolutions
            level = Level(in_channels, width, config.num_res_blocks + 1, block, with_attention)
            if len(levels) < len(widths) - 1:
                level.upsample = Upsample(width)
            levels.append(level)
            in_channels = width
        self.up = nn.ModuleList(reversed(levels))  # full resolution first, as in `down`
        self.norm_out = norm_layer(in_channels)
        self.conv_out = _conv3x3(in_channels, config.image_channels)

    def forward(self, z: Tensor) -> Tensor:
        """(B, Z, h, w) -> (B, C, H, W)."""
        return self.conv_out(self.features(z))

    def features(self, z: Tensor) -> Tensor:
        """Compute the last convolution's input: (B, Z, h, w) -> (B, channels, H, W)."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return F.silu(self.norm_out(x))


class Reconstruction(NamedTuple):
    """The result of a pass through the whole model."""

    images: Tensor  # float32 (B, C, H, W), not clamped
    latents: Tensor  # (B, D, h, w), the quantizer's input
    tokens: Tensor  # int64 (B, h, w)
    codebook_loss: Tensor  # scalar


class VQModel(TokenizerNetwork):
    """The VQ-GAN's autoencoder; families like it replace the class attributes.

    Attributes:
        colorize: a projection of label channels to RGB, or None.
        encoder_class, decoder_class, quantizer_class: the classes of its parts.
        has_quant_convs: whether there are 1x1 convolutions before and after the quantizer.
        from_zero: whether encoder and decoder work with pixels in [0, 1], not in [-1, 1].
    """

    encoder_class: ClassVar[Any] = Encoder
    decoder_class: ClassVar[Any] = Decoder
    quantizer_class: ClassVar[type[VectorQuantizer]] = VectorQuantizer
    has_quant_convs: ClassVar[bool] = True
    from_zero: ClassVar[bool] = False
    config: VQGANConfig
    encoder: Encoder
    decoder: Decoder
    quant_conv: nn.Conv2d | None
    post_quant_conv: nn.Conv2d | None
    colorize: Tensor | None

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        encoded = config.z_channels * (2 if config.double_z else 1)
        self.encoder = self.encoder_class(config)
        self.decoder = self.decoder_class(config)
        self.quantize = self.quantizer_class(config)
        self.quant_conv = self.post_quant_conv = None
        if self.has_quant_convs:
            self.quant_conv = nn.Conv2d(encoded, config.embed_dim, 1)
            self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        for layer in self.modules():
            if isinstance(layer, GroupNorm):
                layer.num_groups = config.norm_groups
        labels = config.colorize_nlabels
        self.register_buffer("colorize", None if labels is None else torch.randn(3, labels, 1, 1))

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode, quantize and decode images (B, C, H, W) in [-1, 1]."""
        latents = self.latents(images)
        quantized = self.quantize(latents)
        tokens = quantized.tokens.view(latents.shape[0], *latents.shape[2:])
        decoded = self.decode(quantized.vectors).float()
        return Reconstruction(decoded, latents, tokens, quantized.loss)

    @torch.no_grad()
    def start_linear(self) -> None:
        """Change the initial weights so that training starts from a nearly linear network.

        Residual blocks add nothing at first (He et al. 2019, "Bag of Tricks", for their norms). The
        convolutions between them keep the variance: torch's initial weights have a third of it.
        """
        inside = set()
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                for parameter in block.conv2.parameters():
                    nn.init.zeros_(parameter)
                inside |= {block.conv1, block.conv2}
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer not in inside:
                layer.weight.mul_(math.sqrt(3))

    def latents(self, images: Tensor) -> Tensor:
        """Compute the quantizer's input: (B, C, H, W) in [-1, 1] -> (B, D, h, w)."""
        z = self.encoder((images + 1) / 2 if self.from_zero else images)
        return z if self.quant_conv is None else self.quant_conv(z)

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) in [-1, 1] into tokens int64 (B, h, w) in [0, K)."""
        return self.quantize.tokens(self.latents(images).float().permute(0, 2, 3, 1))

    def parts_of_encoder(self) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """Return all that the tokens depend on: settings, and weights by name.

        The image size is not part of it: the same network encodes images of any size.
        """
        config, weights = to_plain(self.config), self.state_dict()
        settings = {name: config[name] for name in config.keys() - NOT_ENCODING}
        parts = {name: w for name, w in weights.items() if not name.startswith(DECODER)}
        return {**settings, "family": self.config.family}, parts

    def weights_for(self, config: TokenizerShape) -> Mapping[str, Tensor]:
        """Return the weights; with the numbers of the used codes if there is a remap."""
        assert isinstance(config, VQGANConfig)
        used = {} if config.remap is None else {"quantize.used": torch.tensor(config.remap)}
        return {**self.state_dict(), **used}

    def lay_out_encoder(self, layout: torch.memory_format) -> None:
        """Change the memory layout of the encoder's convolutions."""
        self.encoder.to(memory_format=layout)

    def compile_networks(self) -> None:
        """Run encoder and decoder through torch.compile, which compiles every size of batch.

        The decoder's last layer is left out: training needs the gradient of that layer alone
        (`adaptive_weight`), and a compiled graph can only be differentiated as a whole.
        """
        # By default a compiled graph can be differentiated only once; gradient accumulation needs
        # two passes.
        torch._functorch.config.donated_buffer = False
        self.encoder.compile(dynamic=False)
        features = torch.compile(self.decoder.features, dynamic=False)
        self.decoder.features = features  # type: ignore[method-assign]

    def decode(self, vectors: Tensor) -> Tensor:
        """Turn quantized vectors (B, D, h, w) into images (B, C, H, W), not clamped."""
        z = vectors if self.post_quant_conv is None else self.post_quant_conv(vectors)
        images = self.decoder(z)
        return 2 * images - 1 if self.from_zero else images

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Turn tokens int64 (B, h, w) in [0, K) into images (B, C, H, W), not clamped."""
        return self.decode(self.quantize.lookup(tokens).permute(0, 3, 1, 2))

    def to_rgb(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) into displayable ones.

        Images whose channels are labels are projected to RGB, and the values of the batch are
        stretched to [-1, 1], as taming does. Other images are returned unchanged.
        """
        if self.colorize is None:
            return images
        colors = F.conv2d(images, self.colorize)
        low, high = colors.amin(), colors.amax()
        return 2 * (colors - low) / (high - low).clamp_min(1e-8) - 1
