"""Continues a decoding from one of its steps."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.decoding import Decoding
from utils.errors import UserError


class Midway(NamedTuple):
    """An image in the middle of its decoding.

    Attributes:
        steps: number of finished steps.
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
    plan = decoding.plan
    if not 0 <= midway.steps <= plan.num_steps:
        raise UserError(f"the decoding has {plan.num_steps} steps, so none after {midway.steps}")
    found, planned = int(midway.hidden.sum()), int(plan.counts[0, midway.steps :].sum())
    if found != planned:
        raise UserError(
            f"{found} tokens are hidden after {midway.steps} steps; the plan leaves {planned}"
        )
    device = decoding.tokens.device
    hidden = midway.hidden.to(device).expand_as(decoding.tokens)
    tokens = torch.where(hidden, decoding.tokens, midway.tokens.to(device))
    return decoding._replace(tokens=tokens, hidden=hidden, first_step=midway.steps)
