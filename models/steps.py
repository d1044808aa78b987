"""The steps of a decoding, as `Model.decode_steps` shows them, and how it continues from one.

Axes: B images, h w token grid, L tokens of an image.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.decoding import Decoding, Plan
from utils.errors import UserError


@dataclass(frozen=True)
class DecodedStep:
    """The tokens of images after a step of decoding.

    Attributes:
        tokens: int64 (B, h, w); those at hidden positions mean nothing yet.
        hidden: bool (B, h, w), True where a token is still hidden.
        confidence: float32 (B, h, w) in [0, 1]. For a revealed token, its probability at the step
            that revealed it. For a hidden one, the probability of the token that the last step
            proposed; 0 before the first step. For a token that the user gave, 1.
        proposed: int64 (B, h, w), the tokens with those that the last step drew where they are
            hidden; before the first step the same as `tokens`.
        surest: int64 (B, h, w), the same with the likeliest tokens instead of drawn ones.
    """

    tokens: np.ndarray
    hidden: np.ndarray
    confidence: np.ndarray
    proposed: np.ndarray
    surest: np.ndarray


@dataclass(frozen=True)
class CellChoice:
    """How a step of decoding decides about one cell of an image.

    Attributes:
        tokens: int64 (N,), the likeliest tokens of the cell, the likeliest first.
        guided: float32 (N,), their probabilities in sampling.
        with_class: float32 (N,), their probabilities if the model knows the class.
        without_class: float32 (N,), the same if it does not; None if it cannot predict that.
        images: uint8 (N, H, W, C), what the model imagines with each of these tokens.
        drawn: the token that the step draws for the cell.
        score: of the cell, by which the sampler chooses.
        rank: of the score among the hidden cells, from 1; the step keeps those up to `num_kept`.
        line: the lowest score that is kept.
        num_kept: number of tokens that the step keeps.
    """

    tokens: np.ndarray
    guided: np.ndarray
    with_class: np.ndarray
    without_class: np.ndarray | None
    images: np.ndarray
    drawn: int
    score: float
    rank: int
    line: float
    num_kept: int


class Midway(NamedTuple):
    """An image in the middle of its decoding.

    Attributes:
        tokens: int64 (L,); those at hidden positions are ignored.
        hidden: bool (L,), True where a token is still hidden.
    """

    steps: int
    tokens: Tensor
    hidden: Tensor


def continued(decoding: Decoding, midway: Midway) -> Decoding:
    """Let all images of a decoding continue from an image in the middle of it.

    Raises:
        UserError: if the number of hidden tokens is not the planned one.
    """
    check_midway(midway, decoding.plan)
    device = decoding.tokens.device
    hidden = midway.hidden.to(device).expand_as(decoding.tokens)
    tokens = torch.where(hidden, decoding.tokens, midway.tokens.to(device))
    return decoding._replace(tokens=tokens, hidden=hidden, first_step=midway.steps)


def check_midway(midway: Midway, plan: Plan) -> None:
    """Refuse an image that no decoding with this plan comes to; errors as in `continued`."""
    steps, found = midway.steps, int(midway.hidden.sum())
    need = "an image goes on with the `num_steps` and `schedule` that it began with"
    if not 0 <= steps <= plan.num_steps:
        raise UserError(f"the decoding has {plan.num_steps} steps, so none after {steps}: {need}")
    planned = int(plan.counts[0, steps:].sum())
    if found != planned:
        raise UserError(
            f"{found} tokens are hidden after {steps} steps, but {planned} with these settings: "
            f"{need}"
        )
