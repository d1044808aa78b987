"""From gradients on reconstructed images to gradients of the autoencoder's weights."""

import torch
from torch import Tensor

from models.vqgan.config import VQGANTrainingConfig
from models.vqgan.loss import adaptive_weight
from models.vqgan.network import Reconstruction, VQModel
from models.vqgan.objective import Feedback


class Backward:
    """Turns feedback on images into gradients of the autoencoder's weights.

    The adaptive weight is a ratio of gradients of the whole batch. With one part it is known before
    the backward pass, which is then made once. With several it is known after the last, so the
    generator's gradients are accumulated beside the others and added at the end.
    """

    def __init__(self, model: VQModel, training: VQGANTrainingConfig, accumulate: bool) -> None:
        self._parameters = list(model.parameters())
        self._last_layer = model.decoder.conv_out.weight
        self._training = training
        self._accumulate = accumulate
        self._generator_gradients: list[Tensor] = []
        self._weight: Tensor | None = None
        self._metrics: dict[str, Tensor] = {}

    def add(self, output: Reconstruction, feedback: Feedback, share: float) -> None:
        """Accumulate the gradients of one part; `share` is its part of the batch."""
        gradient = feedback.reconstruction
        if feedback.generator is not None:
            if self._accumulate:
                self._keep_apart(output.images, feedback.generator)
            else:
                self._weight = self._measure(output.images, gradient, feedback.generator)
                gradient = gradient + self._weight * feedback.generator
        weight = share * self._training.codebook_weight
        factor = torch.full_like(output.codebook_loss, weight)
        torch.autograd.backward([output.images, output.codebook_loss], [gradient, factor])
        codebook = {"codebook": share * output.codebook_loss.detach()}
        for name, value in {**feedback.metrics, **codebook}.items():
            self._metrics[name] = self._metrics.get(name, 0) + value

    def finish(self) -> dict[str, Tensor]:
        """Complete the gradients; returns the metrics of the whole batch."""
        metrics = self._metrics
        metrics["loss"] = metrics["loss"] + self._training.codebook_weight * metrics["codebook"]
        if self._generator_gradients:
            self._weight = self._add_kept()
        if self._weight is not None:
            metrics["loss"] = metrics["loss"] + self._weight * metrics["generator"]
            metrics["adaptive_weight"] = self._weight
        return metrics

    def _measure(self, images: Tensor, reconstruction: Tensor, generator: Tensor) -> Tensor:
        """The generator's weight from gradients on the images."""
        gradients = [
            torch.autograd.grad(images, self._last_layer, gradient, retain_graph=True)[0]
            for gradient in (reconstruction, generator)
        ]
        return self._training.disc_weight * adaptive_weight(*gradients)

    def _keep_apart(self, images: Tensor, generator: Tensor) -> None:
        gradients = torch.autograd.grad(
            images, self._parameters, generator, retain_graph=True, materialize_grads=True
        )
        if self._generator_gradients:
            torch._foreach_add_(self._generator_gradients, gradients)
        else:
            self._generator_gradients = list(gradients)

    def _add_kept(self) -> Tensor:
        index = next(i for i, p in enumerate(self._parameters) if p is self._last_layer)
        present = self._last_layer.grad  # without the quantiser's loss, which ends before it
        assert present is not None
        weight = self._training.disc_weight * adaptive_weight(
            present, self._generator_gradients[index]
        )
        for parameter, gradient in zip(self._parameters, self._generator_gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(weight * gradient)
        return weight
