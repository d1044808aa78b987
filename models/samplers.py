"""The samplers: at each decoding step they draw tokens and score the positions.

models/decoding.py then reveals the planned number of tokens, at the hidden positions with the
highest scores. To add a sampler, write its function and add a row to SAMPLERS. The command line
reads the names there before torch is loaded.

Axes: B images of a block, L tokens of an image, K codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Noise(NamedTuple):
    """The random numbers of a decoding step, or with an axis T in front those of all T steps.

    Attributes:
        uniform: float32 (B, L) in [0, 1], to draw tokens.
        gumbel: float32 (B, L), standard Gumbel noise, to choose positions.
        order: float32 (B, L), the place of each position in the Halton order of its image, from 0,
            the same at all steps; None unless the sampler uses an order.
    """

    uniform: Tensor
    gumbel: Tensor
    order: Tensor | None = None


class Proposal(NamedTuple):
    """What a sampler returns at a step.

    Attributes:
        tokens: int64 (B, L), a token for every position; only those at hidden positions are used.
        score: float32 (B, L); the hidden positions with the highest scores are revealed.
    """

    tokens: Tensor
    score: Tensor


class Sampler(NamedTuple):
    """A row of the table.

    Attributes:
        propose: the sampler's function. It gets the predicted log-probabilities, float32 (B, L, K),
            the noise and the choice temperature of the step, at least 0.
        sees_logits: whether it gets the logits instead of log-probabilities.
    """

    propose: Callable[[Tensor, Noise, float], Proposal]
    uses_temperature: bool = False
    uses_order: bool = False
    sees_logits: bool = False


def propose_confident(log_probs: Tensor, noise: Noise, temperature: float) -> Proposal:
    """Draw tokens; score = log p(token) + temperature * Gumbel noise (google-research/maskgit)."""
    tokens = draw_tokens(log_probs, noise.uniform)
    score = log_probs.gather(-1, tokens[..., None]).squeeze(-1)  # (B, L)
    return Proposal(tokens, score + temperature * noise.gumbel)


def propose_by_moment(log_probs: Tensor, noise: Noise, temperature: float) -> Proposal:
    """Choose positions before tokens: the moment sampler of Hayakawa et al. 2025.

    If few of many positions are revealed, the confidence sampler at temperature a reveals position
    i with token x with a probability that tends to p_i(x)^b, where b = 1 + 1/a. This sampler makes
    the same choice in two steps. It chooses position i with weight sum_x p_i(x)^b, without
    replacement, and draws its token from p_i^b, that is at temperature a / (1 + a). At a = 0, the
    last step, all hidden positions are revealed, so no position is chosen and p_i is not changed.
    """
    if temperature == 0:
        return Proposal(draw_tokens(log_probs, noise.uniform), log_probs.amax(-1))
    sharpened = log_probs * (1 + 1 / temperature)  # (B, L, K)
    moment = sharpened.logsumexp(-1)  # (B, L)
    tokens = draw_tokens(sharpened - moment[..., None], noise.uniform)
    return Proposal(tokens, moment + noise.gumbel)


def propose_in_order(log_probs: Tensor, noise: Noise, temperature: float) -> Proposal:
    """Draw tokens; reveal positions in a given order that ignores the prediction."""
    assert noise.order is not None, "see Sampler.uses_order"
    return Proposal(draw_tokens(log_probs, noise.uniform), -noise.order)


def propose_at_random(log_probs: Tensor, noise: Noise, temperature: float) -> Proposal:
    """Draw tokens; reveal positions in random order."""
    return Proposal(draw_tokens(log_probs, noise.uniform), noise.gumbel)


def propose_annealed(logits: Tensor, noise: Noise, temperature: float) -> Proposal:
    """Draw tokens at the choice temperature a; score = logit of the token + a * Gumbel noise.

    As in TiTok (Yu et al. 2024): nearly random tokens at first, and the likeliest at the last step.
    """
    if temperature == 0:
        return Proposal(logits.argmax(-1), logits.amax(-1))
    tokens = draw_tokens((logits / temperature).log_softmax(-1), noise.uniform)
    score = logits.gather(-1, tokens[..., None]).squeeze(-1)  # (B, L)
    return Proposal(tokens, score + temperature * noise.gumbel)


SAMPLERS: dict[str, Sampler] = {
    "confidence": Sampler(propose_confident, uses_temperature=True),
    "moment": Sampler(propose_by_moment, uses_temperature=True),
    "halton": Sampler(propose_in_order, uses_order=True),  # Besnier et al. 2025
    "random": Sampler(propose_at_random),
    "annealed": Sampler(propose_annealed, uses_temperature=True, sees_logits=True),
}


def draw_tokens(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw a token for each position, int64 (B, L), by inverting the cumulative distribution (CDF).

    Args:
        log_probs: float32 (B, L, K).
        uniform: float32 (B, L) in [0, 1], the noise.
    """
    import torch  # only here: the names of the samplers are read before torch is loaded

    cdf = log_probs.exp().cumsum_(-1)  # (B, L, K)
    total = cdf[..., -1:]
    # Rounding must not raise the threshold to the total: the tokens there have probability 0.
    threshold = (uniform[..., None] * total).minimum(total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(cdf, threshold, right=True)  # (B, L, 1)
    return drawn.clamp_(max=log_probs.shape[-1] - 1).squeeze(-1)
