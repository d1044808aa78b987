"""The losses of distillation, and the predictions that they compare.

Axes: B images of a step, L tokens of an image, K codebook, N hidden tokens.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Made(NamedTuple):
    """The images that the student made at a step.

    Attributes:
        logits: float32 (B, L, K), its prediction at the last of its steps so far.
        start: int64 (B, L), its input at that step.
        tokens: int64 (B, L), the whole image.
        drawn: bool (B, L), True where the token comes from these logits.
        labels: int64 (B,).
    """

    logits: Tensor
    start: Tensor
    tokens: Tensor
    drawn: Tensor
    labels: Tensor


class Compared(NamedTuple):
    """Predictions of hidden tokens by teacher and auxiliary model.

    Attributes:
        at: int64 (N,), the hidden ones among the B * L positions.
        targets: int64 (N,), the student's tokens there.
        teacher: float32 (N, K), log-probabilities.
        auxiliary: float32 (N, K), log-probabilities.
    """

    at: Tensor
    targets: Tensor
    teacher: Tensor
    auxiliary: Tensor


def student_loss(made: Made, compared: Compared) -> Tensor:
    """Compute a loss whose gradient moves the student's logits toward the teacher.

    At the M hidden tokens that the student drew at this step, its gradient with respect to the
    logits is (auxiliary - teacher) / M; elsewhere it is 0. This is the gradient of
    KL(teacher || auxiliary) with respect to the auxiliary model's logits, applied to those of the
    student (the token-level matching of Di[M]O).

    Args:
        made: the student's images; gradients flow through the logits.
        compared: the two predictions; no gradient flows through them.
    """
    difference = compared.auxiliary.detach().exp() - compared.teacher.exp()  # (N, K)
    ours = made.drawn.flatten().index_select(0, compared.at).float()[:, None]  # (N, 1)
    logits = made.logits.flatten(0, 1).index_select(0, compared.at)  # (N, K)
    return (logits * (difference * ours)).sum() / ours.sum().clamp(min=1)


def divergence(compared: Compared) -> Tensor:
    """Compute the mean KL(teacher || auxiliary) over the hidden tokens, in nats."""
    teacher, auxiliary = compared.teacher, compared.auxiliary.detach()
    return (teacher.exp() * (teacher - auxiliary)).sum(-1).mean()


def entropy(made: Made) -> Tensor:
    """Compute the mean entropy of the drawn tokens, in nats; no gradient."""
    log_probs = made.logits.detach().log_softmax(-1)
    of_tokens = -(log_probs.exp() * log_probs).sum(-1)  # (B, L)
    return (of_tokens * made.drawn).sum() / made.drawn.sum()


def imitation_loss(logits: Tensor, answer: Tensor) -> Tensor:
    """Compute the cross-entropy of logits and the teacher's log-probabilities, both (B, L, K)."""
    return F.cross_entropy(logits.flatten(0, 1), answer.flatten(0, 1).exp())
