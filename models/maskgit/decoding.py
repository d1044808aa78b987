"""Parallel decoding: a plan, and pure functions that apply it with noise drawn beforehand.

Chang et al. 2022, section 3.3: predict all hidden tokens at once, keep the surest few, repeat. The
ramps of temperature and guidance are those of valeoai/Maskgit-pytorch v1.0; guidance is Muse's
(Chang et al. 2023), here as (1 + w) * conditional - w * unconditional.

Axes: B batch, L tokens of an image, K codebook, T steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.maskgit.config import CUMULATIVE_SCHEDULES, NOISY_SAMPLERS, SamplingConfig
from models.maskgit.masking import mask_ratio
from models.maskgit.samplers import PROPOSALS, Noise
from utils.device import send

LogitsFn = Callable[[Tensor, int], Tensor]
"""(tokens int64 (B, L), step) -> guided logits (B, L, K)."""


@dataclass(frozen=True)
class Plan:
    """What decoding does at each step.

    Attributes:
        counts: int64 (B, T), tokens revealed; a row sums to that image's hidden tokens.
        temperatures: float64 (T,), weight of the Gumbel noise on the confidence.
        guidance: float64 (T,), w of classifier-free guidance.
        logit_scale: factor on the logits before the softmax.
        sampler: key of PROPOSALS.
    """

    counts: np.ndarray
    temperatures: np.ndarray
    guidance: np.ndarray
    logit_scale: float
    sampler: str

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.guidance)

    def table(self) -> str:
        """The plan of the first image, a line per step, for people."""
        lines = ["step  tokens  temperature  guidance"]
        for step in range(self.num_steps):
            lines.append(
                f"{step + 1:4d}  {self.counts[0, step]:6d}  {self.temperatures[step]:11.3f}"
                f"  {self.guidance[step]:8.3f}"
            )
        return "\n".join(lines)


def reveal_counts(num_hidden: int, num_steps: int, schedule: str) -> np.ndarray:
    """Split `num_hidden` tokens over the steps.

    A schedule of this family shapes the increments: step t reveals a share proportional to
    gamma(1 - t / (T - 1)), rounded half to even, at least 1; the last step takes the rest, and
    where too little is left, tokens are taken back from the latest steps that have more than one.
    The `-cumulative` schedules are the paper's: floor(N * gamma((t + 1) / T)) tokens stay hidden
    after step t.

    Args:
        num_hidden: N, at least `num_steps`.
        num_steps: T, at least 1.
        schedule: a key of masking.SCHEDULES or one of CUMULATIVE_SCHEDULES.

    Returns:
        int64 (T,), each at least 1, with sum N.
    """
    if schedule in CUMULATIVE_SCHEDULES:
        return _cumulative_counts(num_hidden, num_steps, schedule.removesuffix("-cumulative"))
    if num_steps == 1:
        return np.array([num_hidden])
    shares = mask_ratio(1 - np.arange(num_steps) / (num_steps - 1), schedule)
    counts = np.maximum(1, np.rint(shares / shares.sum() * num_hidden)).astype(np.int64)
    counts[-1] = num_hidden - counts[:-1].sum()
    while counts[-1] < 1:
        latest = np.flatnonzero(counts[:-1] > 1)[-1]
        taken = min(counts[latest] - 1, 1 - counts[-1])
        counts[latest] -= taken
        counts[-1] += taken
    return counts


def make_plan(num_hidden: Sequence[int] | np.ndarray, config: SamplingConfig) -> Plan:
    """Plan the decoding of a batch.

    The steps are capped at the largest number of hidden tokens; an image with fewer hidden tokens
    than steps reveals none in the first ones and one in each of the last.

    Args:
        num_hidden: int (B,), hidden tokens of each image, 0 allowed.
        config: number of steps, schedule, guidance and temperature.
    """
    num_hidden = np.asarray(num_hidden)
    num_steps = int(min(config.num_steps, num_hidden.max(initial=0)))
    counts = np.zeros((len(num_hidden), num_steps), np.int64)
    for count in np.unique(num_hidden[num_hidden > 0]):
        used = min(num_steps, count)
        counts[num_hidden == count, num_steps - used :] = reveal_counts(
            int(count), int(used), config.schedule
        )
    progress = np.arange(num_steps) / (num_steps - 1) if num_steps > 1 else np.ones(num_steps)
    temperature = config.choice_temperature if config.sampler in NOISY_SAMPLERS else 0.0
    ramp = progress if config.guidance_schedule == "linear" else np.ones(num_steps)
    return Plan(
        counts=counts,
        temperatures=temperature * (1 - progress),
        guidance=config.guidance * ramp,
        logit_scale=config.logit_scale,
        sampler=config.sampler,
    )


def guided_logits(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Extrapolate from the unconditional prediction past the conditional one; 0 is no guidance."""
    return (1 + guidance) * conditional - guidance * unconditional


def parallel_decode(
    logits_fn: LogitsFn, plan: Plan, noise: Noise, tokens: Tensor, hidden: Tensor
) -> Tensor:
    """Fill in the hidden tokens; see `decoding_steps`.

    Returns:
        int64 (B, L), image tokens at every position that was hidden.
    """
    for decoded, _ in decoding_steps(logits_fn, plan, noise, tokens, hidden):
        tokens = decoded
    return tokens


@torch.no_grad()
def decoding_steps(
    logits_fn: LogitsFn, plan: Plan, noise: Noise, tokens: Tensor, hidden: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Fill in the hidden tokens, the planned number at each step.

    Args:
        logits_fn: predicts from the tokens at a step; guidance is its business.
        plan: of this batch.
        noise: of this batch, at least plan.num_steps steps.
        tokens: int64 (B, L), what the predictor sees at the start.
        hidden: bool (B, L), True where a token is to be filled in.

    Yields:
        After each step the tokens, int64 (B, L), and what is still hidden, bool (B, L).
    """
    counts = send(torch.from_numpy(plan.counts), tokens.device)
    for step in range(plan.num_steps):
        logits = logits_fn(tokens, step).float() * plan.logit_scale  # (B, L, K)
        temperature = float(plan.temperatures[step])
        tokens, hidden = decode_step(
            plan.sampler, logits, noise.at(step), temperature, counts[:, step], tokens, hidden
        )
        yield tokens, hidden


def decode_step(
    sampler: str,
    logits: Tensor,
    noise: Noise,
    temperature: float,
    counts: Tensor,
    tokens: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    """Reveal tokens where the sampler scores them highest; known tokens are never touched.

    Args:
        sampler: key of PROPOSALS: proposes a token and a score for every hidden position.
        logits: float32 (B, L, K).
        noise: of this step.
        temperature: weight of the Gumbel noise.
        counts: int64 (B,), how many to reveal.
        tokens: int64 (B, L).
        hidden: bool (B, L).

    Returns:
        The tokens, int64 (B, L), and what is still hidden, bool (B, L).
    """
    proposed, score = PROPOSALS[sampler](logits.log_softmax(-1), noise, temperature)  # (B, L) each
    revealed = hidden & (rank_among(score, hidden) < counts[:, None])
    return torch.where(revealed, proposed, tokens), hidden & ~revealed


def rank_among(score: Tensor, hidden: Tensor) -> Tensor:
    """Rank positions by falling score, hidden ones first.

    Ranks are a permutation, so that ties cannot reveal more than was planned.

    Args:
        score: float32 (B, L).
        hidden: bool (B, L).

    Returns:
        int64 (B, L), 0 for the hidden position with the highest score.
    """
    # A token of probability 0 is still surer than a known position, which is not in the running.
    finite = score.clamp(min=torch.finfo(score.dtype).min)
    order = finite.masked_fill(~hidden, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)


def _cumulative_counts(num_hidden: int, num_steps: int, schedule: str) -> np.ndarray:
    ratios = mask_ratio(np.arange(1, num_steps + 1) / num_steps, schedule)
    counts = []
    left = num_hidden
    for step, ratio in enumerate(ratios):
        steps_after = num_steps - step - 1
        # gamma(1) is 0 up to rounding; every step reveals at least one and leaves one to the others
        kept = np.clip(np.floor(num_hidden * ratio), steps_after, left - 1) if steps_after else 0
        counts.append(left - int(kept))
        left = int(kept)
    return np.array(counts)
