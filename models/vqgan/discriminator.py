"""The discriminator, which tells real images from reconstructed ones in training.

Axes: B batch, C channels, H W pixels.
"""

from torch import Tensor, nn

from models.vqgan.network import GroupNorm

GROUPS = 32  # groups of every GroupNorm


class PatchDiscriminator(nn.Module):
    """Computes one logit for each of many overlapping patches: positive means real.

    This is the PatchGAN of Isola et al. 2017, with the layers of taming's NLayerDiscriminator, but
    with GroupNorm instead of BatchNorm. So the logits of an image do not depend on its batch:
    gradient accumulation changes nothing, real and reconstructed images can share one pass, and no
    running statistics are needed.
    """

    def __init__(self, image_channels: int, channels: int, num_layers: int) -> None:
        """Build the network with weights from torch's global generator.

        Args:
            channels: width of the first layer; later layers are up to 8 times as wide.
            num_layers: number of convolutions with stride 2.
        """
        super().__init__()
        # Convolutions that halve the resolution, and one more that keeps it.
        layers: list[nn.Module] = [nn.Conv2d(image_channels, channels, 4, 2, 1)]
        layers.append(nn.LeakyReLU(0.2))
        width = channels
        for index in range(1, num_layers + 1):
            out = channels * min(2**index, 8)
            stride = 2 if index < num_layers else 1
            layers.append(nn.Conv2d(width, out, 4, stride, 1, bias=False))
            layers.append(GroupNorm(min(GROUPS, out), out))
            layers.append(nn.LeakyReLU(0.2))
            width = out
        layers.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.main = nn.Sequential(*layers)
        # taming's initial weights.
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Map float (B, C, H, W) in [-1, 1] to logits (B, 1, h', w'), one per patch."""
        return self.main(images)
