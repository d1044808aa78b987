"""The steps of a decoding, as `Model.decode_steps` shows them, and how it continues from one.

Axes: B images, h w token grid, L tokens of an image.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.decoding import Plan
from models.shapes import TransformerShape
from models.tokenizer import check_codes
from utils.errors import FieldError, UserError, counted


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


class KnownTokens(NamedTuple):
    """An image of which some tokens are known, because it is edited or partly decoded.

    An edited image keeps its known tokens (Chang et al. 2022, section 4.3).

    Attributes:
        tokens: int64 (L,); those at hidden positions are ignored.
        hidden: bool (L,), True where a token is still to be made.
        steps: number of steps of its decoding that are done.
        planned: number of tokens that its decoding makes in all steps; None: those that are hidden
            before the first step, and all tokens after it, as of an image that is not edited.
    """

    tokens: Tensor
    hidden: Tensor
    steps: int = 0
    planned: int | None = None

    @property
    def num_planned(self) -> int:
        """The number of tokens that were hidden before the first step."""
        usual = self.hidden.numel() if self.steps else int(self.hidden.sum())
        return usual if self.planned is None else self.planned


def check_tokens(known: KnownTokens, shape: TransformerShape) -> None:
    """Refuse known tokens that a transformer cannot read.

    Raises:
        FieldError: if they are something else, or a known token is not in the codebook.
    """
    parts = known[:2] if isinstance(known, KnownTokens) else (known,)
    of_image = all(isinstance(one, Tensor) and one.shape == (shape.seq_len,) for one in parts)
    if len(parts) < 2 or not of_image or known.hidden.dtype != torch.bool:
        reason = f"must be the KnownTokens of one image, int64 and bool ({shape.seq_len},)"
        raise FieldError("known", f"of type {type(known).__name__}", reason)
    check_codes("known", known.tokens[~known.hidden], shape.codebook_size)


def check_known(known: KnownTokens, plan: Plan) -> None:
    """Refuse an image that no decoding with this plan comes to.

    Raises:
        UserError: if the number of hidden tokens is not the planned one.
    """
    steps, found = known.steps, int(known.hidden.sum())
    need = "an image goes on with the `num_steps` and `schedule` that it began with"
    if not 0 <= steps <= plan.num_steps:
        all_steps = counted(plan.num_steps, "step")
        raise UserError(f"the decoding has {all_steps}, so none after {steps}: {need}")
    planned = int(plan.counts[steps:].sum())
    if found != planned:
        raise UserError(
            f"hidden tokens after {counted(steps, 'step')}: {found}, but {planned} with these "
            f"settings: {need}"
        )
