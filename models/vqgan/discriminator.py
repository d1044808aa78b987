"""The PatchGAN discriminator (Isola et al. 2017) in taming-transformers' shape."""

from torch import Tensor, nn

from models.vqgan.config import GROUPS


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of an image, each by one logit: positive means real.

    taming's NLayerDiscriminator, layer by layer, but with GroupNorm where that has BatchNorm: each
    image is judged alone, so that gradient accumulation changes nothing, real and generated images
    go through in one pass, and there are no running statistics to keep.
    """

    def __init__(self, image_channels: int, channels: int, num_layers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, 2, 1)]
        layers.append(nn.LeakyReLU(0.2))
        width = channels
        for index in range(1, num_layers + 1):
            out = channels * min(2**index, 8)
            stride = 2 if index < num_layers else 1
            layers.append(nn.Conv2d(width, out, 4, stride, 1, bias=False))
            layers.append(nn.GroupNorm(min(GROUPS, out), out))
            layers.append(nn.LeakyReLU(0.2))
            width = out
        layers.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.main = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> logits (B, 1, h', w')."""
        return self.main(images)
