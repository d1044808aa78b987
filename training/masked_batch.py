"""The input of the transformer in a training step: images with some tokens hidden.

Axes: B images, L tokens of an image, N hidden tokens.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from data.token_set import send_array

NO_TARGET = -100  # F.cross_entropy ignores it


@dataclass(frozen=True)
class MaskedBatch:
    """The images of a training step, or of a part of it.

    Attributes:
        inputs: int64 (B, L), with the mask token at hidden positions.
        labels: int64 (B,), the null class for a dropped label.
        hidden: int64 (N,), indices of the hidden ones among the B * L positions.
        targets: int64 (N,), the tokens at these positions.
    """

    inputs: Tensor
    labels: Tensor
    hidden: Tensor
    targets: Tensor


def hide(tokens: Tensor, labels: np.ndarray, masks: np.ndarray, mask_token: int) -> MaskedBatch:
    """Make a batch with the mask token wherever `masks` is True.

    Args:
        tokens: int64 (B, L), on the device for the batch.
        labels: int64 (B,), classes or the null class.
        masks: bool (B, L), True where a token is hidden.
    """
    hidden = send_array(np.flatnonzero(masks), tokens.device)
    return MaskedBatch(
        inputs=tokens.masked_fill(send_array(masks, tokens.device), mask_token),
        labels=send_array(labels, tokens.device),
        hidden=hidden,
        targets=tokens.flatten().index_select(0, hidden),
    )


def padded(batch: MaskedBatch, multiple: int) -> MaskedBatch:
    """Add hidden positions without targets until their number N is a multiple of `multiple`."""
    extra = -len(batch.hidden) % multiple
    return replace(
        batch,
        hidden=F.pad(batch.hidden, (0, extra)),
        targets=F.pad(batch.targets, (0, extra), value=NO_TARGET),
    )
