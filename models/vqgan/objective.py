"""What the losses of stage 1 say about reconstructed images, as gradients on those images.

From there one backward pass through the autoencoder serves all losses, and LPIPS and the
discriminator are passed once, where the adaptive weight would otherwise take them twice.

Axes: B batch, C channels, H W pixels.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from models.vqgan.discriminator import PatchDiscriminator
from models.vqgan.loss import discriminator_loss, generator_loss
from models.vqgan.perceptual import PerceptualLoss, load_vgg_weights


class Feedback(NamedTuple):
    """Gradients on reconstructed images, float32 (B, C, H, W), and scalar metrics."""

    reconstruction: Tensor
    generator: Tensor | None  # None before the discriminator takes part
    metrics: dict[str, Tensor]


class Objective:
    """The losses on images, and the discriminator that one of them is made of.

    Attributes:
        discriminator: None if `disc_weight` is 0.
        perceptual: None if `perceptual_weight` is 0.
    """

    def __init__(
        self, config: VQGANConfig, training: VQGANTrainingConfig, device: torch.device
    ) -> None:
        """Build the discriminator from torch's global generator.

        Raises:
            UserError: if the perceptual loss is wanted and there are no VGG weights.
        """
        self._perceptual_weight = training.perceptual_weight
        self.discriminator: PatchDiscriminator | None = None
        self.perceptual: PerceptualLoss | None = None
        if training.disc_weight:
            layers = training.discriminator_layers(config.image_size)
            width = training.disc_channels
            self.discriminator = PatchDiscriminator(config.image_channels, width, layers).to(device)
            self.discriminator.to(memory_format=torch.channels_last)
        if training.perceptual_weight:
            path = training.perceptual_vgg
            loss = PerceptualLoss(load_vgg_weights(None if path is None else Path(path)))
            self.perceptual = loss.to(device).to(memory_format=torch.channels_last)

    def distance(self, images: Tensor, targets: Tensor) -> Tensor:
        """LPIPS, or 0 where it is not wanted; a scalar."""
        if self.perceptual is None:
            return torch.zeros((), device=images.device)
        distance: Tensor = self.perceptual(images, targets)
        return distance.float()

    def judge(
        self, images: Tensor, reconstructions: Tensor, share: float, adversarial: bool
    ) -> Feedback:
        """Compute the losses; the discriminator's weights get their gradients.

        Args:
            images: (B, C, H, W) in [-1, 1].
            reconstructions: of these, same shape.
            share: factor on everything, the part of a step's batch that these images are.
            adversarial: whether the discriminator takes part.
        """
        # A leaf of its own: nothing that the discriminator learns from can reach the decoder.
        judged = reconstructions.detach().requires_grad_()
        l1 = share * F.l1_loss(judged, images)
        perceptual = share * self.distance(judged, images)
        loss = l1 + self._perceptual_weight * perceptual
        (gradient,) = torch.autograd.grad(loss, judged)
        metrics = {"loss": loss.detach(), "l1": l1.detach()}
        if self.perceptual is not None:
            metrics["perceptual"] = perceptual.detach()
        if not adversarial:
            return Feedback(gradient, None, metrics)
        assert self.discriminator is not None
        logits = self.discriminator(torch.cat([images, judged])).float()
        logits_real, logits_fake = logits.chunk(2)
        generator = share * generator_loss(logits_fake)
        (generator_gradient,) = torch.autograd.grad(generator, judged, retain_graph=True)
        discriminator = share * discriminator_loss(logits_real, logits_fake)
        discriminator.backward(inputs=list(self.discriminator.parameters()))
        metrics |= {"generator": generator.detach(), "discriminator": discriminator.detach()}
        return Feedback(gradient, generator_gradient, metrics)
