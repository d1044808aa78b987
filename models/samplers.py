"""The samplers: at each step of decoding they propose tokens and score the positions.

models/decoding.py reveals the planned number of tokens, at the positions with the highest scores. A
sampler may also hide revealed tokens again. To add a sampler, write its function and add a row to
SAMPLERS. The command line reads the names there, so this file imports nothing slow.

Axes: B images of a batch, L tokens of an image, K codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from models.step import Step


class Proposal(NamedTuple):
    """What a sampler returns at a step.

    Attributes:
        tokens: int64 (B, L), a token for every position; only those at hidden positions are used.
        score: float32 (B, L), the hidden positions with the highest scores are revealed.
        hide_again: bool (B, L), True where a token is to be hidden again; None hides none. As many
            more tokens are revealed, so that the plan is kept. If a step has too few hidden tokens
            for this, only the first positions are hidden. Tokens that the user gave stay.
    """

    tokens: Tensor
    score: Tensor
    hide_again: Tensor | None = None


class Sampler(NamedTuple):
    """A row of the table.

    Attributes:
        propose: the sampler's function.
        uses_temperature: whether it uses the plan's choice temperature.
        uses_order: whether it needs an order of the positions in the plan.
    """

    propose: Callable[[Step], Proposal]
    uses_temperature: bool = False
    uses_order: bool = False


def propose_confident(step: Step) -> Proposal:
    """Draw tokens; score = log p(token) + temperature * Gumbel noise (Chang et al. 2022)."""
    tokens = step.draw(step.log_probs)
    score = step.log_probs.gather(-1, tokens[..., None]).squeeze(-1)  # (B, L)
    if step.temperature > 0:
        score = score + step.temperature * step.gumbel
    return Proposal(tokens, score)


def propose_by_moment(step: Step) -> Proposal:
    """Choose positions before tokens: the moment sampler of Hayakawa et al. 2025.

    If few of many positions are revealed, the confidence sampler at temperature a reveals position
    i with token x with a probability that tends to p_i(x)^b, where b = 1 + 1/a. This sampler makes
    the same choice in two steps: position i is chosen with weight sum_x p_i(x)^b, without
    replacement, and its token is drawn from p_i^b, that is at temperature a / (1 + a). At a = 0,
    the last step, all hidden positions are revealed. No position is chosen, so p_i stays as it is.
    """
    if step.temperature == 0:
        return Proposal(step.draw(step.log_probs), step.log_probs.amax(-1))
    sharpened = step.log_probs * (1 + 1 / step.temperature)  # (B, L, K)
    moment = sharpened.logsumexp(-1)  # (B, L)
    return Proposal(step.draw(sharpened - moment[..., None]), moment + step.gumbel)


def propose_in_order(step: Step) -> Proposal:
    """Draw tokens; reveal positions in the order of the plan, whatever the prediction."""
    return Proposal(step.draw(step.log_probs), -step.order)


def propose_at_random(step: Step) -> Proposal:
    """Draw tokens; reveal positions in random order."""
    return Proposal(step.draw(step.log_probs), step.gumbel)


SAMPLERS: dict[str, Sampler] = {
    "confidence": Sampler(propose_confident, uses_temperature=True),
    "moment": Sampler(propose_by_moment, uses_temperature=True),
    "halton": Sampler(propose_in_order, uses_order=True),  # Besnier et al. 2025
    "random": Sampler(propose_at_random),
}
