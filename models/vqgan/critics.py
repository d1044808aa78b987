"""The networks that judge reconstructed images: the perceptual loss and the discriminator.

Axes: B batch, C channels, H W pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from models.vqgan.config import GROUPS
from models.vqgan.norm import GroupNorm
from utils.errors import UserError, one_line
from utils.torch_file import read_torch_file

HINT = (
    "train without the perceptual loss (`perceptual_weight` 0) or name a file with torchvision's "
    "VGG16 weights (`perceptual_vgg` vgg16-397923af.pth)"
)


class PerceptualLoss(nn.Module):
    """Computes the mean LPIPS distance of images (Zhang et al. 2018); it is never trained.

    The distance compares VGG16 features. The linear weights on them, which were fitted to human
    judgements, come with torchmetrics. The VGG16 weights are torchvision's.
    """

    def __init__(self, vgg_weights: Mapping[str, Tensor]) -> None:
        """Build the loss.

        Args:
            vgg_weights: state dict of torchvision's vgg16; its classifier is not needed.

        Raises:
            UserError: if a weight is missing or has another shape.
        """
        super().__init__()
        # Imported here because it is slow and only a perceptual loss needs it. This private class
        # takes weights; the public classes can only download VGG16. requirements.txt allows only
        # versions of torchmetrics that have it.
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        self.distance = _NoTrainLpips(net="vgg", pnet_rand=True)
        try:
            with torch.no_grad():
                for name, parameter in self.distance.net.named_parameters():
                    # "slice2.5.weight" holds layer 5 of torchvision's features.
                    parameter.copy_(vgg_weights[f"features.{name.split('.', 1)[1]}"])
        except (KeyError, RuntimeError) as error:
            reason = f"these are not torchvision's VGG16 weights ({error})"
            raise UserError(f"{reason}; {HINT}") from None

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean distance of images from their targets.

        Args:
            images: float (B, C, H, W) in [-1, 1], C 1 or 3.
            targets: the same.

        Returns:
            A scalar, at least 0.
        """
        if images.shape[1] == 1:
            images, targets = images.expand(-1, 3, -1, -1), targets.expand(-1, 3, -1, -1)
        return self.distance(images, targets).mean()


def load_vgg_weights(path: Path | None) -> dict[str, Any]:
    """Read VGG16 weights from a file, or download them (528 MB, kept in torch's cache).

    Args:
        path: file with the weights under torchvision's names; None downloads them.

    Returns:
        The weights by name.

    Raises:
        UserError: if they cannot be read or downloaded; says how to train without them.
    """
    if path is not None:
        weights = read_torch_file(path)
        if not isinstance(weights, dict):
            raise UserError(f"{path} holds no state dict; {HINT}")
        return weights
    try:
        return dict(VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        # URLError is an OSError; a download with a wrong hash is a RuntimeError.
        reason = one_line(error)
        raise UserError(f"the VGG16 weights cannot be downloaded ({reason}); {HINT}") from error


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of an image, each by one logit: positive means real.

    This is the PatchGAN of Isola et al. 2017, with the layers of taming's NLayerDiscriminator, but
    with GroupNorm instead of BatchNorm. So each image is judged independently of its batch:
    gradient accumulation changes nothing, real and reconstructed images can share one pass, and
    there are no running statistics.
    """

    def __init__(self, image_channels: int, channels: int, num_layers: int) -> None:
        """Build the network with weights from torch's global generator.

        Args:
            image_channels: C.
            channels: width of the first layer; later layers have up to 8 times as much.
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
        """Judge images: float (B, C, H, W) in [-1, 1] -> logits (B, 1, h', w'), one per patch."""
        return self.main(images)
