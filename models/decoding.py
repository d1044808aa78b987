"""Parallel decoding: makes a plan, and fills in hidden tokens step by step as the plan says.

Chang et al. 2022, section 3.3: predict all hidden tokens at once, reveal the most confident ones,
repeat. Temperature and guidance change over the steps as in valeoai/Maskgit-pytorch v1.0. Guidance
is that of Muse (Chang et al. 2023), written as (1 + w) * conditional - w * unconditional. All
functions are pure: noise is drawn before and passed in.

Axes: B batch, L tokens of an image, K codebook, T steps.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from models.masking import mask_ratio
from models.noise import Noise
from models.samplers import SAMPLERS, Proposal
from models.sampling import SamplingConfig
from models.schedules import CUMULATIVE_SCHEDULES, GUIDANCE_SCHEDULES, Course, CumulativePlan
from models.step import Plan, Step
from utils.device import send

LogitsFn = Callable[[Tensor, int], Tensor]
"""(tokens int64 (B, L), number of the step) -> guided logits (B, L, K)."""
Propose = Callable[[Step], Proposal]
"""A sampler's function (models/samplers.py)."""


def reveal_counts(num_hidden: int, num_steps: int, schedule: str) -> np.ndarray:
    """Decide how many tokens each step reveals.

    With a mask schedule gamma, step t = 0 .. T-1 reveals a share of the N tokens proportional to
    gamma(1 - t / (T - 1)), rounded half to even, at least 1. The last step reveals the rest. If
    less than 1 is left for it, the latest steps with more than one token give some back.

    The `-cumulative` schedules are the paper's: after step t, floor(N * gamma((t + 1) / T)) tokens
    stay hidden. With `arccos-halton`, floor(N * (1 - gamma((t + 1) / T))) are revealed by then, as
    in valeoai/Halton-MaskGIT.

    Args:
        num_hidden: N, at least `num_steps`.
        num_steps: T, at least 1.
        schedule: a key of MASK_SCHEDULES or of CUMULATIVE_SCHEDULES.

    Returns:
        int64 (T,), each at least 1, with sum N.
    """
    if schedule in CUMULATIVE_SCHEDULES:
        return _cumulative_counts(num_hidden, num_steps, CUMULATIVE_SCHEDULES[schedule])
    if num_steps == 1:
        return np.array([num_hidden])
    shares = mask_ratio(1 - np.arange(num_steps) / (num_steps - 1), schedule)
    counts = np.maximum(1, np.rint(shares / shares.sum() * num_hidden)).astype(np.int64)
    counts[-1] = num_hidden - counts[:-1].sum()
    while counts[-1] < 1:  # the shares before were rounded up too often
        latest = np.flatnonzero(counts[:-1] > 1)[-1]
        taken = min(counts[latest] - 1, 1 - counts[-1])
        counts[latest] -= taken
        counts[-1] += taken
    return counts


def make_plan(num_hidden: Sequence[int] | np.ndarray, config: SamplingConfig) -> Plan:
    """Plan the decoding of a batch.

    There are never more steps than the largest number of hidden tokens. An image with fewer hidden
    tokens than steps reveals none at first, and then one per step.

    Args:
        num_hidden: int (B,), hidden tokens of each image, 0 allowed.
        config: settings of sampling.

    Returns:
        The plan, without an order of the positions.
    """
    num_hidden = np.asarray(num_hidden)
    num_steps = int(min(config.num_steps, num_hidden.max(initial=0)))
    # How many tokens each image reveals at each step.
    counts = np.zeros((len(num_hidden), num_steps), np.int64)
    for count in np.unique(num_hidden[num_hidden > 0]):
        used = min(num_steps, count)
        counts[num_hidden == count, num_steps - used :] = reveal_counts(
            int(count), int(used), config.schedule
        )
    # Temperature falls with the progress from 0 to 1; a single step is the last.
    progress = np.arange(num_steps) / (num_steps - 1) if num_steps > 1 else np.ones(num_steps)
    is_noisy = SAMPLERS[config.sampler].uses_temperature
    temperature = config.choice_temperature if is_noisy else 0.0
    # Guidance follows its schedule, which sees what is still hidden in all images together.
    revealed = counts.sum(0)  # (T,)
    hidden = revealed[::-1].cumsum()[::-1] / max(1, revealed.sum())  # before each step
    course = Course(progress, hidden, config.guidance_interval)
    ramp = GUIDANCE_SCHEDULES[config.guidance_schedule].share(course, np)
    return Plan(
        counts=counts,
        temperatures=temperature * (1 - progress),
        guidance=config.guidance * ramp,
        logit_scale=config.logit_scale,
        sampler=config.sampler,
    )


def guided_logits(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Extrapolate from the unconditional logits past the conditional ones; guidance 0 is none."""
    return (1 + guidance) * conditional - guidance * unconditional


def parallel_decode(
    logits_fn: LogitsFn,
    plan: Plan,
    noise: Noise,
    tokens: Tensor,
    hidden: Tensor,
    propose: Propose | None = None,
) -> Tensor:
    """Fill in all hidden tokens; arguments as in `decoding_steps`.

    Returns:
        int64 (B, L), with an image token at every position that was hidden.
    """
    for decoded, _ in decoding_steps(logits_fn, plan, noise, tokens, hidden, propose):
        tokens = decoded
    return tokens


@torch.no_grad()
def decoding_steps(
    logits_fn: LogitsFn,
    plan: Plan,
    noise: Noise,
    tokens: Tensor,
    hidden: Tensor,
    propose: Propose | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fill in the hidden tokens, the planned number at each step.

    Args:
        logits_fn: predicts the tokens at a step; guidance is already in its logits.
        plan: the plan of this batch.
        noise: the noise of this batch, for at least plan.num_steps steps.
        tokens: int64 (B, L), what the predictor sees before the first step.
        hidden: bool (B, L), True where a token is to be filled in.
        propose: a sampler's function, for example one with a critic; None takes the plan's sampler.

    Yields:
        After each step the tokens, int64 (B, L), and bool (B, L), True where still hidden.
    """
    propose = propose or SAMPLERS[plan.sampler].propose
    # The plan, on the device.
    counts = send(torch.from_numpy(plan.counts), tokens.device)  # (B, T)
    places = None
    if plan.orders is not None:
        places = send(torch.from_numpy(plan.orders), tokens.device)  # (B, L)
    # Each step: predict, let the sampler choose, reveal as many tokens as planned.
    start, editable = tokens, hidden
    for index in range(plan.num_steps):
        logits = logits_fn(tokens, index).float() * plan.logit_scale  # (B, L, K)
        uniform = noise.uniform[index]  # (B, L)
        step = Step(
            index=index,
            plan=plan,
            tokens=tokens,
            hidden=hidden,
            editable=editable,
            log_probs=logits.log_softmax(-1),
            uniform=uniform,
            gumbel=noise.gumbel[index],
            draw=partial(draw_tokens, uniform=uniform),
            places=places,
        )
        tokens, hidden = apply_proposal(step, propose(step), counts[:, index], start)
        yield tokens, hidden


def apply_proposal(
    step: Step, proposal: Proposal, counts: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Reveal the tokens with the highest scores, and hide those again that the sampler asks for.

    After the step exactly `counts` fewer tokens are hidden than before. Tokens that the user gave
    never change.

    Args:
        step: the step that the sampler saw.
        proposal: its answer.
        counts: int64 (B,), how many hidden tokens there are to be less.
        start: int64 (B, L), the tokens that stand at hidden positions.

    Returns:
        The tokens, int64 (B, L), and bool (B, L), True where still hidden.
    """
    tokens, hidden = step.tokens, step.hidden
    # Which tokens are hidden again; as many more are revealed below.
    again = None
    if proposal.hide_again is not None:
        room = hidden.sum(1) - counts  # (B,), hidden tokens that the plan leaves
        again = proposal.hide_again & step.editable & ~hidden
        again &= again.cumsum(1) <= room[:, None]
        counts = counts + again.sum(1)
    # Which tokens are revealed.
    revealed = hidden & (rank_among(proposal.score, hidden) < counts[:, None])
    tokens, hidden = torch.where(revealed, proposal.tokens, tokens), hidden ^ revealed
    if again is None:
        return tokens, hidden
    return torch.where(again, start, tokens), hidden | again


def rank_among(score: Tensor, hidden: Tensor) -> Tensor:
    """Rank the positions of each image: hidden ones first, the highest score first.

    The ranks of an image are a permutation, so equal scores cannot reveal more than was planned.

    Args:
        score: float32 (B, L).
        hidden: bool (B, L).

    Returns:
        int64 (B, L), 0 for the hidden position with the highest score.
    """
    # A hidden token of probability 0 (score -inf) must still come before every known position.
    finite = score.clamp(min=torch.finfo(score.dtype).min)
    order = finite.masked_fill(~hidden, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def draw_tokens(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw one token per position, by inverting the cumulative distribution (CDF).

    Args:
        log_probs: float32 (B, L, K).
        uniform: float32 (B, L) in [0, 1], the noise.

    Returns:
        Tokens int64 (B, L) in [0, K).
    """
    cdf = log_probs.exp().cumsum(-1)  # (B, L, K)
    total = cdf[..., -1:]
    # Rounding must not raise the threshold to the total: tokens of probability 0 lie beyond it.
    threshold = (uniform[..., None] * total).minimum(total.nextafter(torch.zeros_like(total)))
    drawn = torch.searchsorted(cdf, threshold, right=True)  # (B, L, 1)
    return drawn.clamp_(max=log_probs.shape[-1] - 1).squeeze(-1)


def _cumulative_counts(num_hidden: int, num_steps: int, plan: CumulativePlan) -> np.ndarray:
    """Return `reveal_counts` of a plan in the paper's form."""
    ratios = mask_ratio(np.arange(1, num_steps + 1) / num_steps, plan.schedule)
    if plan.rounds_revealed:
        # Theirs is computed in float32, where a whole number, as at u = 1/2, comes out just below.
        wanted = num_hidden - np.floor((1 - ratios) * num_hidden - 1e-9)
    else:
        wanted = np.floor(num_hidden * ratios)
    counts = []
    left = num_hidden
    for step, kept in enumerate(wanted):
        # Each step reveals at least one token and leaves at least one for each later step. The last
        # leaves none; gamma(1) would be 0 only up to rounding.
        steps_after = num_steps - step - 1
        still_hidden = int(np.clip(kept, steps_after, left - 1)) if steps_after else 0
        counts.append(left - still_hidden)
        left = still_hidden
    return np.array(counts)
