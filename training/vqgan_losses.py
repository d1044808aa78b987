"""The losses of stage 1 (Esser et al. 2021, equations 4 to 7) and their gradients.

`Objective` computes the losses and their gradients with respect to the reconstructed images.
`Backward` continues from there to the weights of the autoencoder. The adaptive weight needs the
gradients of two losses. With this split, LPIPS and the discriminator still run only once.

Axes: B batch, C channels, H W pixels.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.perceptual import PerceptualLoss, load_vgg_weights
from models.vqgan.config import VQGANConfig
from models.vqgan.discriminator import PatchDiscriminator
from models.vqgan.network import Reconstruction, VQModel
from training.config import VQGANTrainingConfig
from utils.colors import opponent

MAX_ADAPTIVE_WEIGHT = 1e4  # taming's
ADAPTIVE_EPSILON = 1e-4  # taming's; keeps the ratio finite if the generator gradient is 0


def chroma_loss(images: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean L1 distance of the color differences of images (B, 3, H, W); a scalar.

    Brightness is alike in the three channels, so it rules the L1 distance of an image, and colors
    are learned late. Here they count alone.
    """
    return F.l1_loss(opponent(images)[:, 1:], opponent(targets)[:, 1:])


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Compute the hinge loss: real logits should be above 1, those of reconstructions below -1.

    It is taming's; equation 5 of the paper has the logarithmic loss.

    Args:
        logits_real: of images, float, any shape.
        logits_fake: of their reconstructions.

    Returns:
        A scalar, at least 0.
    """
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def generator_loss(logits_fake: Tensor) -> Tensor:
    """Compute the decoder's adversarial loss, a scalar: low if its reconstructions look real."""
    return -logits_fake.mean()


def adaptive_weight(reconstruction_gradient: Tensor, generator_gradient: Tensor) -> Tensor:
    """Weight the generator loss so that it moves the last layer as much as the reconstruction loss.

    Args:
        reconstruction_gradient: of the reconstruction loss, for the decoder's last weight.
        generator_gradient: of the generator loss, for the same weight.

    Returns:
        A scalar in [0, 1e4], without gradient (Esser et al. 2021, equation 7).
    """
    ratio = reconstruction_gradient.norm() / (generator_gradient.norm() + ADAPTIVE_EPSILON)
    return ratio.clamp(0, MAX_ADAPTIVE_WEIGHT).detach()


class Feedback(NamedTuple):
    """The losses on reconstructed images and their gradients.

    Attributes:
        reconstruction: gradient of the reconstruction loss for the images, float32 (B, C, H, W).
        generator: gradient of the generator loss for the images, same shape; None at steps without
            the discriminator.
        metrics: the losses by name, scalars on the device.
    """

    reconstruction: Tensor
    generator: Tensor | None
    metrics: dict[str, Tensor]


class Objective:
    """The losses on images, with the networks that compute them.

    Attributes:
        discriminator: None if `disc_weight` is 0.
        perceptual: None if `perceptual_weight` is 0.
    """

    def __init__(
        self, config: VQGANConfig, training: VQGANTrainingConfig, device: torch.device
    ) -> None:
        """Build the networks; the discriminator's weights come from torch's global generator.

        Raises:
            UserError: if the VGG weights for the perceptual loss cannot be read or downloaded.
        """
        self._perceptual_weight = training.perceptual_weight
        self._chroma_weight = training.chroma_weight
        self.discriminator: PatchDiscriminator | None = None
        self.perceptual: PerceptualLoss | None = None
        if training.disc_weight:
            layers = training.discriminator_layers(min(config.image_size))
            width = training.disc_channels
            self.discriminator = PatchDiscriminator(config.image_channels, width, layers).to(device)
            self.discriminator.to(memory_format=torch.channels_last)
        if training.perceptual_weight:
            path = training.perceptual_vgg
            loss = PerceptualLoss(load_vgg_weights(None if path is None else Path(path)))
            self.perceptual = loss.to(device).to(memory_format=torch.channels_last)

    def distance(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the LPIPS distance of images (B, C, H, W) in [-1, 1] from their targets.

        Returns:
            A float32 scalar, at least 0; 0 without a perceptual loss.
        """
        if self.perceptual is None:
            return torch.zeros((), device=images.device)
        distance: Tensor = self.perceptual(images, targets)
        return distance.float()

    def judge(
        self, images: Tensor, reconstructions: Tensor, share: float, adversarial: bool
    ) -> Feedback:
        """Compute the losses and their gradients for the reconstructed images.

        With `adversarial` this also accumulates the gradients of the discriminator's weights.

        Args:
            images: float (B, C, H, W) in [-1, 1].
            reconstructions: of these images, same shape.
            share: these images' share of the batch; a factor on every loss.
            adversarial: whether the step uses the discriminator.
        """
        # Detached, so that the discriminator's loss gives the decoder no gradient.
        judged = reconstructions.detach().requires_grad_()

        # The reconstruction loss.
        l1 = share * F.l1_loss(judged, images)
        perceptual = share * self.distance(judged, images)
        loss = l1 + self._perceptual_weight * perceptual
        metrics = {"l1": l1.detach()}
        if self._chroma_weight:
            chroma = share * chroma_loss(judged, images)
            loss = loss + self._chroma_weight * chroma
            metrics["chroma"] = chroma.detach()
        (gradient,) = torch.autograd.grad(loss, judged)
        metrics["loss"] = loss.detach()
        if self.perceptual is not None:
            metrics["perceptual"] = perceptual.detach()
        if not adversarial:
            return Feedback(gradient, None, metrics)

        # The adversarial losses: one pass of the discriminator over both kinds of images.
        assert self.discriminator is not None
        logits = self.discriminator(torch.cat([images, judged])).float()
        logits_real, logits_fake = logits.chunk(2)
        generator = share * generator_loss(logits_fake)
        (generator_gradient,) = torch.autograd.grad(generator, judged, retain_graph=True)
        discriminator = share * discriminator_loss(logits_real, logits_fake)
        discriminator.backward(inputs=list(self.discriminator.parameters()))
        metrics |= {"generator": generator.detach(), "discriminator": discriminator.detach()}
        return Feedback(gradient, generator_gradient, metrics)


class Backward:
    """Turns gradients for images into gradients for the autoencoder's weights, for one step.

    The adaptive weight is a ratio of gradients of the whole batch. If the batch is one part, the
    weight is known before the backward pass. With several parts it is known only after the last
    one. Until then the gradients of the generator loss are stored separately, and added at the end.
    """

    def __init__(self, model: VQModel, training: VQGANTrainingConfig, accumulate: bool) -> None:
        """Start a step.

        Args:
            accumulate: whether the batch is computed in several parts.
        """
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._last_layer = model.decoder.conv_out.weight
        self._training = training
        self._accumulate = accumulate
        self._generator_gradients: list[Tensor] = []
        self._weight: Tensor | None = None
        self._metrics: dict[str, Tensor] = {}

    def add(self, output: Reconstruction, feedback: Feedback, share: float) -> None:
        """Add the gradients of one part of the batch.

        Args:
            feedback: losses and gradients for the images of `output`.
            share: this part's share of the batch.
        """
        # The gradient for the images.
        gradient = feedback.reconstruction
        if feedback.generator is not None:
            if self._accumulate:
                self._keep_apart(output.images, feedback.generator)
            else:
                self._weight = self._measure(output.images, gradient, feedback.generator)
                gradient = gradient + self._weight * feedback.generator
        # The backward pass, for the losses on images and the codebook loss together.
        weight = share * self._training.codebook_weight
        factor = torch.full_like(output.codebook_loss, weight)
        pairs = ((output.images, gradient), (output.codebook_loss, factor))
        trained = [pair for pair in pairs if pair[0].requires_grad]  # frozen parts have none
        outputs, gradients = zip(*trained, strict=True)
        torch.autograd.backward(outputs, gradients)
        codebook = {"codebook": share * output.codebook_loss.detach()}
        for name, value in {**feedback.metrics, **codebook}.items():
            self._metrics[name] = self._metrics.get(name, 0) + value

    def finish(self) -> dict[str, Tensor]:
        """Complete the gradients after the last part; returns the metrics of the whole batch."""
        metrics = self._metrics
        metrics["loss"] = metrics["loss"] + self._training.codebook_weight * metrics["codebook"]
        if self._generator_gradients:
            self._weight = self._add_kept()
        if self._weight is not None:
            metrics["loss"] = metrics["loss"] + self._weight * metrics["generator"]
            metrics["adaptive_weight"] = self._weight
        return metrics

    def _measure(self, images: Tensor, reconstruction: Tensor, generator: Tensor) -> Tensor:
        """Compute the weight of the generator loss from two gradients for the images."""
        gradients = [
            torch.autograd.grad(images, self._last_layer, gradient, retain_graph=True)[0]
            for gradient in (reconstruction, generator)
        ]
        return self._training.disc_weight * adaptive_weight(*gradients)

    def _keep_apart(self, images: Tensor, generator: Tensor) -> None:
        """Add the gradients of the generator loss to the separately stored ones."""
        found = torch.autograd.grad(
            images, self._parameters, generator, retain_graph=True, materialize_grads=True
        )
        # Older versions of torch return zeros that require gradients.
        gradients = [gradient.detach() for gradient in found]
        if self._generator_gradients:
            torch._foreach_add_(self._generator_gradients, gradients)
        else:
            self._generator_gradients = gradients

    def _add_kept(self) -> Tensor:
        """Add the separately stored gradients with their weight; returns the weight."""
        index = next(i for i, p in enumerate(self._parameters) if p is self._last_layer)
        # The codebook loss does not contribute here: it does not depend on the last layer.
        present = self._last_layer.grad
        assert present is not None
        weight = self._training.disc_weight * adaptive_weight(
            present, self._generator_gradients[index]
        )
        for parameter, gradient in zip(self._parameters, self._generator_gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(weight * gradient)
        return weight
