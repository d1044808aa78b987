"""The losses of stage 1 (Esser et al. 2021, equations 4 to 7), as functions of tensors."""

import torch.nn.functional as F
from torch import Tensor

MAX_ADAPTIVE_WEIGHT = 1e4  # taming's
ADAPTIVE_EPSILON = 1e-4  # taming's, against a generator loss without gradient


def discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Hinge loss: real logits are to be above 1, those of reconstructions below -1."""
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def generator_loss(logits_fake: Tensor) -> Tensor:
    """What the decoder wants: high logits for its reconstructions."""
    return -logits_fake.mean()


def adaptive_weight(reconstruction_gradient: Tensor, generator_gradient: Tensor) -> Tensor:
    """Weight at which the generator loss moves the last layer as much as the reconstruction loss.

    Args:
        reconstruction_gradient: of the reconstruction loss, on the decoder's last weight.
        generator_gradient: of the generator loss, on the same weight.

    Returns:
        Scalar in [0, 1e4], without gradient.
    """
    ratio = reconstruction_gradient.norm() / (generator_gradient.norm() + ADAPTIVE_EPSILON)
    return ratio.clamp(0, MAX_ADAPTIVE_WEIGHT).detach()
