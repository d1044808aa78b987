"""Parallel decoding: plan the steps, then fill in hidden tokens step by step.

Chang et al. 2022, section 3.3: predict all hidden tokens at once, reveal the most confident ones,
repeat. Temperature and guidance change over the steps as in valeoai/Maskgit-pytorch v1.0. All
functions are pure. The noise of an image depends only on the seed and the image's index, so an
image is the same in every block and process.

Axes: B images of a block, L tokens of an image, K codebook, T steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.samplers import SAMPLERS, Noise, Proposal
from models.sampling import SamplingConfig
from models.schedules import CUMULATIVE_SCHEDULES, GUIDANCE_SCHEDULES, MASK_SCHEDULES
from utils.device import send
from utils.seeding import rng

DIGITS = 10  # decimal places; rounding errors of float64 are smaller
LogitsFn = Callable[[Tensor, int], Tensor]
"""(tokens int64 (B, L), number of the step) -> guided logits (B, L, K)."""


@dataclass(frozen=True)
class Plan:
    """What decoding does at each step, the same for all images of a block.

    Attributes:
        counts: int64 (T,), tokens of an image that each step reveals, all hidden ones in total.
        temperatures: float64 (T,), weight of the Gumbel noise on the confidence.
        guidance: float64 (T,), weight w of classifier-free guidance.
        logit_scales: float64 (T,), factor on the logits before the softmax.
    """

    counts: np.ndarray
    temperatures: np.ndarray
    guidance: np.ndarray
    logit_scales: np.ndarray
    sampler: str

    @property
    def num_steps(self) -> int:
        """The number of steps T."""
        return len(self.guidance)


class Step(NamedTuple):
    """The result of a decoding step.

    Attributes:
        tokens: int64 (B, L), the tokens after the step; hidden positions keep their start tokens.
        hidden: bool (B, L), True where a token is hidden after the step.
        log_probs: float32 (B, L, K), the prediction, guided and scaled.
        proposal: the sampler's token and score for each position.
    """

    tokens: Tensor
    hidden: Tensor
    log_probs: Tensor
    proposal: Proposal


class Decoding(NamedTuple):
    """A decoding that is ready to start; a pure function of its fields.

    Attributes:
        logits_fn: predicts the tokens at a step; guidance is already in its logits.
        noise: the noise of this block, with an axis of at least plan.num_steps steps.
        tokens: int64 (B, L), what the predictor sees before the first step.
        hidden: bool (B, L), True where a token is to be filled in.
        first_step: the step of the plan to begin with.
        labels: int64 (B,), which the predictor reads too.
    """

    logits_fn: LogitsFn
    plan: Plan
    noise: Noise
    tokens: Tensor
    hidden: Tensor
    first_step: int = 0
    labels: Tensor | None = None

    @torch.no_grad()
    def steps(self) -> Iterator[Step]:
        """Fill in the hidden tokens, exactly the planned number per step; others never change."""
        plan, noise, tokens, hidden = self.plan, self.noise, self.tokens, self.hidden
        sampler = SAMPLERS[plan.sampler]
        for index in range(self.first_step, plan.num_steps):
            # Predict all tokens; the sampler draws them and scores the positions.
            logits = self.logits_fn(tokens, index).float() * float(plan.logit_scales[index])
            log_probs = logits.log_softmax(-1)  # (B, L, K)
            seen = logits if sampler.sees_logits else log_probs
            del logits  # with a large codebook they take gigabytes
            here = Noise(noise.uniform[index], noise.gumbel[index], noise.order)
            proposal = sampler.propose(seen, here, float(plan.temperatures[index]))
            # Reveal the planned number at the hidden positions with the highest scores.
            count = int(plan.counts[index])
            revealed = hidden & (rank_among(proposal.score, hidden) < count)
            tokens = torch.where(revealed, proposal.tokens, tokens)
            hidden = hidden ^ revealed
            yield Step(tokens, hidden, log_probs, proposal)

    def result(self, advance: Callable[[float], object] = lambda images: None) -> Tensor:
        """Decode to the end: int64 (B, L), an image token at every position that was hidden.

        After each step `advance` gets its share of the work, in images: B over the number of steps.
        """
        tokens = self.tokens
        for step in self.steps():
            tokens = step.tokens
            advance(len(tokens) / (self.plan.num_steps - self.first_step))
        return tokens


def make_plan(num_hidden: int, config: SamplingConfig) -> Plan:
    """Plan the decoding of images with this number of hidden tokens, from 0.

    There are never more steps than hidden tokens.
    """
    num_steps = min(config.num_steps, num_hidden)
    counts = reveal_counts(num_hidden, num_steps, config.schedule)  # (T,)
    # The temperature falls as progress goes from 0 to 1. A single step counts as the last one.
    progress = np.arange(num_steps) / (num_steps - 1) if num_steps > 1 else np.ones(num_steps)
    is_noisy = SAMPLERS[config.sampler].uses_temperature
    temperature = config.choice_temperature if is_noisy else 0.0
    # The guidance schedule sees the share of tokens that is still hidden before each step.
    hidden = counts[::-1].cumsum()[::-1] / num_hidden  # (T,)
    share = GUIDANCE_SCHEDULES[config.guidance_schedule].share(progress, hidden, config)
    logit_scales = np.full(num_steps, float(config.logit_scale))
    logit_scales[:1] *= config.first_logit_scale
    return Plan(
        counts=counts,
        temperatures=temperature * (1 - progress),
        guidance=config.guidance * share,
        logit_scales=logit_scales,
        sampler=config.sampler,
    )


def reveal_counts(num_hidden: int, num_steps: int, schedule: str) -> np.ndarray:
    """Decide how many of N tokens each of T steps reveals; N is at least T.

    With a mask schedule gamma, step t = 0 .. T-1 reveals a share of the N tokens proportional to
    gamma(1 - t / (T - 1)), rounded half to even, at least 1. The last step reveals the rest. If
    that leaves less than 1 for it, the latest steps with more than one token reveal fewer.

    The `-cumulative` schedules are the paper's: after step t, N * gamma((t + 1) / T) tokens stay
    hidden, rounded down as in google-research/maskgit (the paper rounds up). With `arccos-halton`,
    floor(N * (1 - gamma((t + 1) / T))) are revealed by then, as in valeoai/Halton-MaskGIT.

    Returns:
        int64 (T,), each at least 1, with sum N.
    """
    if num_steps <= 1:
        return np.full(num_steps, num_hidden)
    if schedule in CUMULATIVE_SCHEDULES:
        return _cumulative_counts(num_hidden, num_steps, schedule)
    shares = MASK_SCHEDULES[schedule](1 - np.arange(num_steps) / (num_steps - 1))
    wanted = (shares / shares.sum() * num_hidden).round(DIGITS)
    counts = np.maximum(1, np.rint(wanted)).astype(np.int64)
    counts[-1] = num_hidden - counts[:-1].sum()
    while counts[-1] < 1:  # too many shares were rounded up
        latest = np.flatnonzero(counts > 1)[-1]
        counts[[latest, -1]] += [-1, 1]
    return counts


def rank_among(score: Tensor, hidden: Tensor) -> Tensor:
    """Rank the positions of each image, (B, L), from 0: hidden ones first, the highest score first.

    The ranks of an image are a permutation, so equal scores cannot reveal more than was planned.
    """
    order = score.masked_fill(~hidden, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def draw_noise(
    seed: int, image_indices: np.ndarray, num_steps: int, seq_len: int, device: torch.device
) -> Noise:
    """Draw the noise of images with these indices, int (B,), at all steps, without an order.

    The noise of a step does not depend on the number of steps after it. It is drawn on the CPU in
    float64, which keeps the tails of the Gumbel distribution.
    """
    shape = (num_steps, 2, seq_len)
    draws = [rng(seed, "decode", int(index)).random(shape) for index in image_indices]
    # They are below 1. Exclude 0, where a logarithm below is infinite.
    numbers = np.maximum(np.stack(draws, 2), np.finfo(np.float64).tiny)  # (T, 2, B, L)
    arrays = (numbers[:, 0], -np.log(-np.log(numbers[:, 1])))
    return Noise(*(send(a.astype(np.float32), device) for a in arrays))


def _cumulative_counts(num_hidden: int, num_steps: int, schedule: str) -> np.ndarray:
    """Return `reveal_counts` of a plan in the paper's form."""
    plan = CUMULATIVE_SCHEDULES[schedule]
    ratios = MASK_SCHEDULES[plan.schedule](np.arange(1, num_steps + 1) / num_steps)  # (T,)
    if plan.rounds_revealed:
        # They compute in float32, where an integer result, as at u = 1/2, is often just below it.
        revealed = (1 - ratios.astype(np.float32)) * np.float32(num_hidden)
        wanted = num_hidden - np.floor(revealed)
    else:
        wanted = np.floor((num_hidden * ratios).round(DIGITS))
    # Each step reveals at least one token. Only the first would be due less: the ratios fall faster
    # and faster.
    left = np.minimum(wanted, num_hidden - 1 - np.arange(num_steps))
    return -np.diff(left.astype(np.int64), prepend=num_hidden)
