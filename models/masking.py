"""Hides tokens, as training does: the input of the transformer and its targets.

Training hides ceil(gamma(u) * L) tokens of an image for a uniform u (Chang et al. 2022, section
3.2). The functions gamma are in models/schedules.py.

Axes: B images, L tokens of an image, N hidden tokens.
"""

from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from utils.device import send

NO_TARGET = -100  # F.cross_entropy ignores it


class MaskedBatch(NamedTuple):
    """The images of a training step, or of a part of it.

    Attributes:
        inputs: int64 (B, L), with the mask token at hidden positions.
        labels: int64 (B,), the null class for a dropped label.
        at: int64 (N,), the hidden ones among the B * L flattened positions.
        targets: int64 (N,), the tokens there.
    """

    inputs: Tensor
    labels: Tensor
    at: Tensor
    targets: Tensor


def hide(
    tokens: Tensor,
    labels: np.ndarray | Tensor,
    masks: np.ndarray,
    mask_token: int,
    multiple: int = 1,
) -> MaskedBatch:
    """Make a batch with the mask token wherever `masks` is True.

    Args:
        tokens: int64 (B, L), on the device for the batch.
        labels: int64 (B,), classes or the null class.
        masks: bool (B, L), True where a token is hidden.
        multiple: hidden positions without targets are added until N is a multiple of it.
    """
    at = send(np.flatnonzero(masks), tokens.device)
    targets = tokens.flatten().index_select(0, at)
    extra = (0, -len(at) % multiple)
    return MaskedBatch(
        inputs=tokens.masked_fill(send(masks, tokens.device), mask_token),
        labels=send(labels, tokens.device),
        at=F.pad(at, extra),
        targets=F.pad(targets, extra, value=NO_TARGET),
    )


def masks_of_ratio(generator: np.random.Generator, ratios: np.ndarray, seq_len: int) -> np.ndarray:
    """Choose ceil(ratio * L) tokens of each image to hide, at least 1, at random positions.

    Args:
        ratios: float (B,) in [0, 1].
        seq_len: L, tokens of one image.

    Returns:
        bool (B, L), True where a token is hidden.
    """
    counts = np.maximum(1, np.ceil(ratios * seq_len))
    # Random positions: those of the smallest numbers in a row of random ones.
    order = generator.random((len(ratios), seq_len)).argsort(axis=1)
    masks = np.empty((len(ratios), seq_len), bool)
    np.put_along_axis(masks, order, np.arange(seq_len) < counts[:, None], axis=1)
    return masks
