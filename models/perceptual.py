"""The perceptual loss of reconstructed images.

Axes: B batch, C channels, H W pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from utils.errors import UserError, one_line
from utils.torch_file import read_torch_file

HINT = (
    "name a file with torchvision's VGG16 weights (`perceptual_vgg` vgg16-397923af.pth), or train "
    "without the perceptual loss (`perceptual_weight` 0)"
)


class PerceptualLoss(nn.Module):
    """Computes the mean LPIPS distance of images (Zhang et al. 2018); it is never trained.

    It compares VGG16 features. Their linear weights, fitted to human judgments, come with
    torchmetrics. The VGG16 weights are torchvision's.
    """

    def __init__(self, vgg_weights: Mapping[str, Tensor]) -> None:
        """Build the loss.

        Args:
            vgg_weights: state dict of torchvision's vgg16; its classifier is not needed.

        Raises:
            UserError: if a weight is missing or has the wrong shape.
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


def has_vgg_weights(path: str | None) -> bool:
    """Whether `load_vgg_weights` finds its file on this machine."""
    name = Path(VGG16_Weights.IMAGENET1K_V1.url).name
    return Path(path or f"{torch.hub.get_dir()}/checkpoints/{name}").is_file()


def load_vgg_weights(path: Path | None) -> dict[str, Any]:
    """Read VGG16 weights from a file, or download them (528 MB, kept in torch's cache).

    Args:
        path: file with the weights under torchvision's names; None downloads them.

    Returns:
        The weights by name.

    Raises:
        UserError: if they cannot be read or downloaded; it says how to train without them.
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
