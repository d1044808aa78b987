"""The samplers: what they propose at a step of decoding, and the noise that they use.

A sampler proposes a token and a score for every position; decoding.py reveals the planned number
of tokens where the score is highest. To add one, write its function, put it into PROPOSALS, and
name it in config.SAMPLERS, and in NOISY_SAMPLERS there if it uses the temperature.

Axes: B batch, L tokens of an image, K codebook, T steps.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.device import send
from utils.seeding import rng


class Noise(NamedTuple):
    """Everything random in decoding, drawn before it starts.

    Attributes:
        uniform: float32 (T, B, L) in [0, 1], selects tokens by the inverse of their CDF.
        gumbel: float32 (T, B, L), standard Gumbel noise of the confidence.
        halton: float32 (B, L), the place of each position in the Halton order, from 0.
    """

    uniform: Tensor
    gumbel: Tensor
    halton: Tensor

    def at(self, step: int) -> "Noise":
        """The noise of one step, (B, L) each."""
        return Noise(self.uniform[step], self.gumbel[step], self.halton)


def draw_noise(
    seed: int, image_indices: np.ndarray, num_steps: int, seq_len: int, device: torch.device
) -> Noise:
    """Draw the noise of each image from (seed, its index) alone.

    An image's noise is the same in whichever batch or process it is decoded, and the noise of step
    t does not depend on how many steps follow. It is drawn on the CPU in float64, in which neither
    0 nor 1 occurs and the Gumbel transform keeps its tails.

    Args:
        seed: of the whole sampling run.
        image_indices: int (B,).
        num_steps: T.
        seq_len: L.
        device: where decoding happens.
    """
    uniforms = np.empty((num_steps, len(image_indices), 2, seq_len))
    for column, index in enumerate(image_indices):
        draws = rng(seed, "decode", int(index)).random((num_steps, 2, seq_len))
        uniforms[:, column] = draws
    uniforms = np.clip(uniforms, np.finfo(np.float64).tiny, 1 - 2**-53)
    gumbel = -np.log(-np.log(uniforms[:, :, 1]))
    offsets = [rng(seed, "halton", int(index)).integers(seq_len) for index in image_indices]
    halton = (halton_order(seq_len) + np.array(offsets)[:, None]) % seq_len
    arrays = (uniforms[:, :, 0], gumbel, halton)
    return Noise(*(send(torch.from_numpy(a.astype(np.float32)), device) for a in arrays))


@cache
def halton_order(seq_len: int) -> np.ndarray:
    """The place of each position of a square grid in a low-discrepancy order.

    Besnier et al. 2025, "Halton Scheduler for Masked Generative Image Transformer": the points of
    the Halton sequence (base 2 across, base 3 down), each cell at the first point that falls into
    it. Cells that the first 64 L points miss follow in raster order.

    Args:
        seq_len: L, a square number.

    Returns:
        int64 (L,), a permutation of 0 .. L-1.
    """
    side = math.isqrt(seq_len)
    numbers = np.arange(1, 64 * seq_len + 1)
    columns, rows = ((side * _radical_inverse(numbers, base)).astype(int) for base in (2, 3))
    cells = np.concatenate([rows * side + columns, np.arange(seq_len)])
    _, first = np.unique(cells, return_index=True)  # first visit of each cell
    return first.argsort().argsort()


def _radical_inverse(numbers: np.ndarray, base: int) -> np.ndarray:
    """Mirror the digits of positive integers at the point: float64 in (0, 1)."""
    result = np.zeros(len(numbers))
    scale = 1.0
    while numbers.any():
        numbers, digits = np.divmod(numbers, base)
        scale /= base
        result += digits * scale
    return result


# --- Proposals: log-probabilities (B, L, K), noise of the step, temperature ->
# tokens int64 (B, L) and scores float32 (B, L), the highest of which are revealed.


def propose_confident(log_probs: Tensor, noise: Noise, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw tokens; the surest first: log p(token) + temperature * Gumbel (Chang et al. 2022)."""
    tokens = draw_tokens(log_probs, noise.uniform)
    score = log_probs.gather(-1, tokens[..., None]).squeeze(-1)
    return tokens, score + temperature * noise.gumbel if temperature > 0 else score


def propose_by_moment(log_probs: Tensor, noise: Noise, temperature: float) -> tuple[Tensor, Tensor]:
    """Choose positions before tokens: the moment sampler of Hayakawa et al. 2025.

    The confidence sampler reveals position i with token x with a probability that tends to
    p_i(x)^b, b = 1 + 1/a at temperature a, where few of many positions are revealed. So position i
    is chosen with weight sum_x p_i(x)^b, without replacement, and its token is drawn from p_i^b,
    that is at temperature a / (1 + a). At a = 0, the last step, all that is left is revealed:
    nothing is chosen, so nothing is sharpened.
    """
    if temperature == 0:
        return draw_tokens(log_probs, noise.uniform), log_probs.amax(-1)
    sharpened = log_probs * (1 + 1 / temperature)
    moment = sharpened.logsumexp(-1)  # (B, L)
    tokens = draw_tokens(sharpened - moment[..., None], noise.uniform)
    return tokens, moment + noise.gumbel


def propose_in_halton_order(
    log_probs: Tensor, noise: Noise, temperature: float
) -> tuple[Tensor, Tensor]:
    """Draw tokens; positions in the image's Halton order, whatever the prediction."""
    return draw_tokens(log_probs, noise.uniform), -noise.halton


def propose_at_random(log_probs: Tensor, noise: Noise, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw tokens; positions in random order."""
    return draw_tokens(log_probs, noise.uniform), noise.gumbel


PROPOSALS = {
    "confidence": propose_confident,
    "moment": propose_by_moment,
    "halton": propose_in_halton_order,
    "random": propose_at_random,
}


def draw_tokens(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token per position by inverting the CDF.

    Args:
        log_probs: float32 (B, L, K).
        uniform: float32 (B, L) in [0, 1].

    Returns:
        Tokens int64 (B, L) in [0, K).
    """
    cdf = log_probs.exp().cumsum(-1)  # (B, L, K)
    total = cdf[..., -1:]
    # Rounding must not lift it to the total, where tokens that have no share of it would be drawn.
    threshold = (uniform[..., None] * total).minimum(total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(cdf, threshold, right=True)  # (B, L, 1)
    return drawn.clamp_(max=log_probs.shape[-1] - 1).squeeze(-1)
