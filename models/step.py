"""What a sampler sees: the plan of a decoding, and one step of it.

This file imports nothing slow, so that a sampler's file may import it.

Axes: B images of a batch, L tokens of an image, K codebook, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """What decoding does at each step.

    Attributes:
        counts: int64 (B, T), tokens that each step reveals; a row sums to the hidden tokens of its
            image.
        temperatures: float64 (T,), weight of the Gumbel noise on the confidence.
        guidance: float64 (T,), weight w of classifier-free guidance.
        logit_scale: factor on the logits before the softmax.
        sampler: name of the sampler, a key of SAMPLERS.
        orders: float32 (B, L), place of each position in the order of its image, from 0; None if
            the sampler needs no order.
    """

    counts: np.ndarray
    temperatures: np.ndarray
    guidance: np.ndarray
    logit_scale: float
    sampler: str
    orders: np.ndarray | None = None

    @property
    def num_steps(self) -> int:
        """The number of steps T."""
        return len(self.guidance)

    def after(self, steps: int) -> Plan:
        """Return the plan of what is left after the first `steps` steps."""
        return replace(
            self,
            counts=self.counts[:, steps:],
            temperatures=self.temperatures[steps:],
            guidance=self.guidance[steps:],
        )

    def table(self) -> str:
        """Format the plan of the first image as a table with one line per step."""
        lines = ["step  tokens  temperature  guidance"]
        for step in range(self.num_steps):
            lines.append(
                f"{step + 1:4d}  {self.counts[0, step]:6d}  {self.temperatures[step]:11.3f}"
                f"  {self.guidance[step]:8.3f}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Step:
    """What a sampler sees at a step of decoding.

    Attributes:
        index: number of the step, from 0.
        plan: the plan of the batch.
        tokens: int64 (B, L), the tokens that the predictor saw at this step.
        hidden: bool (B, L), True where a token is hidden.
        editable: bool (B, L), True where decoding makes the token; the user gave the others.
        log_probs: float32 (B, L, K), the prediction.
        uniform: float32 (B, L) in [0, 1], the step's noise for drawing tokens.
        gumbel: float32 (B, L), the step's Gumbel noise for choosing positions.
        draw: draws a token for every position with `uniform`: log-probabilities (B, L, K) -> int64
            (B, L).
        places: `Plan.orders` on the device; see `order`.
    """

    index: int
    plan: Plan
    tokens: Tensor
    hidden: Tensor
    editable: Tensor
    log_probs: Tensor
    uniform: Tensor
    gumbel: Tensor
    draw: Callable[[Tensor], Tensor]
    places: Tensor | None = None

    @property
    def temperature(self) -> float:
        """Weight of the Gumbel noise at this step."""
        return float(self.plan.temperatures[self.index])

    @property
    def order(self) -> Tensor:
        """The place of each position in the order of its image, from 0: float32 (B, L)."""
        assert self.places is not None, "the plan has no order; see Sampler.uses_order"
        return self.places
