"""Prepares a decoding from labels: start tokens, plan, noise, and a guided predictor.

Guidance is that of Muse (Chang et al. 2023), written as (1 + w) * conditional - w * unconditional.

Axes: B images of a block, L tokens of an image, K codebook, C labels of a model.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.decoding import (
    LogitsFn,
    Noise,
    Plan,
    Step,
    decoding_steps,
    draw_noise,
    halton_orders,
    make_plan,
    parallel_decode,
)
from models.family import Transformer
from models.samplers import SAMPLERS, draw_tokens
from models.sampling import SamplingConfig
from utils.device import autocast, send
from utils.errors import UserError
from utils.seeding import rng


class KnownTokens(NamedTuple):
    """The tokens that an edited image keeps (Chang et al. 2022, section 4.3).

    Attributes:
        tokens: int64 (L,); those at hidden positions are ignored.
        hidden: bool (L,), True where a token is regenerated.
    """

    tokens: Tensor
    hidden: Tensor


class Midway(NamedTuple):
    """An image in the middle of its decoding, where decoding continues.

    Attributes:
        steps: number of finished steps.
        tokens: int64 (L,); those at hidden positions are ignored.
        hidden: bool (L,), True where a token is still hidden.
    """

    steps: int
    tokens: Tensor
    hidden: Tensor


class Decoding(NamedTuple):
    """A decoding that is ready to start; fields as in `decoding_steps`."""

    logits_fn: LogitsFn
    plan: Plan
    noise: Noise
    tokens: Tensor
    hidden: Tensor

    def steps(self) -> Iterator[Step]:
        """Decode step by step."""
        return decoding_steps(*self)

    def result(self) -> Tensor:
        """Decode to the end: int64 (B, L) in [0, K), on the model's device."""
        return parallel_decode(*self)


def prepare_decoding(
    model: Transformer,
    labels: np.ndarray,
    image_indices: np.ndarray,
    config: SamplingConfig,
    seed: int,
    precision: torch.dtype = torch.float32,
    known: KnownTokens | None = None,
    midway: Midway | None = None,
    grid: tuple[int, ...] | None = None,
) -> Decoding:
    """Prepare the decoding of a block of images.

    Args:
        model: the transformer, in evaluation mode.
        labels: int (B,), the class of each image.
        image_indices: int (B,); with `seed` they decide the noise of each image.
        known: tokens that all images keep; None hides all tokens.
        midway: where all images continue, with the remaining steps of the plan.
        grid: the token grid, for samplers with an order of positions; None means a row of tokens.

    Raises:
        UserError: if the number of hidden tokens midway is not the planned one.
    """
    device = next(model.parameters()).device
    seq_len = model.config.seq_len
    device_labels = send(torch.from_numpy(labels), device)
    # The tokens that the model sees at the start, and which of them are hidden.
    tokens = send(start_tokens(model, image_indices, config.start_token, seed), device)
    same_start = config.start_token is None or config.start_token >= 0
    if config.start_share:
        predicted = predict_empty(model, device_labels, precision)  # (B, L, K)
        tokens = draw_start(predicted, tokens, image_indices, config.start_share, seed)
        same_start = False
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    if known is not None:
        hidden = known.hidden.to(device).expand_as(hidden)
        tokens = torch.where(hidden, tokens, known.tokens.to(device))
    # The plan and the noise.
    num_hidden = seq_len if known is None else int(known.hidden.sum())
    plan = make_plan(np.full(len(labels), num_hidden), config)
    noise = draw_noise(seed, image_indices, plan.num_steps, seq_len, device)
    if SAMPLERS[config.sampler].uses_order:
        roll = config.halton_roll == "on"
        order = torch.from_numpy(halton_orders(seed, image_indices, grid or (seq_len,), roll))
        noise = noise._replace(order=send(order, device))
    if midway is not None:
        _check_midway(midway, plan)
        plan, noise = plan.after(midway.steps), noise.after(midway.steps)
        hidden = midway.hidden.to(device).expand_as(tokens)
        tokens = torch.where(hidden, tokens, midway.tokens.to(device))
        same_start = False
    logits_fn = guided_predictor(model, device_labels, plan.guidance, precision, same_start)
    return Decoding(logits_fn, plan, noise, tokens, hidden)


def guided_predictor(
    model: Transformer,
    labels: Tensor,
    guidance: np.ndarray,
    precision: torch.dtype,
    same_start: bool,
) -> LogitsFn:
    """Wrap a model as a `LogitsFn` with classifier-free guidance.

    At a step with guidance 0, only the conditional half is computed. If all images start from equal
    tokens and there are at least as many images as labels, the first step is computed once per
    label. Unused labels are computed too, so that an image does not depend on the labels of the
    other images, bit for bit.

    Args:
        model: the transformer, in evaluation mode.
        labels: int64 (B,), on the model's device.
        guidance: float64 (T,), the weight at each step; 0 where the model has no null class.
        same_start: whether all images start from equal tokens.
    """
    null_class: Any = model.config.null_class
    all_labels = labels_of(model, labels.device)  # (C,)
    once_per_label = same_start and len(all_labels) <= len(labels)

    @torch.no_grad()
    def logits_fn(tokens: Tensor, step: int) -> Tensor:
        weight = float(guidance[step])
        with autocast(tokens.device, precision):
            if step == 0 and once_per_label:
                predicted = model(tokens[: len(all_labels)], all_labels).float()  # (C, L, K)
                if weight == 0:
                    return predicted[labels]
                return guided_logits(predicted[labels], predicted[null_class], weight)
            if weight == 0:
                return model(tokens, labels)
            both_labels = torch.cat([labels, torch.full_like(labels, null_class)])
            predicted = model(tokens.repeat(2, 1), both_labels).float()  # (2B, L, K)
        conditional, unconditional = predicted.chunk(2)
        return guided_logits(conditional, unconditional, weight)

    return logits_fn


def guided_logits(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Extrapolate from the unconditional logits past the conditional ones; 0 turns guidance off."""
    return (1 + guidance) * conditional - guidance * unconditional


def labels_of(model: Transformer, device: torch.device) -> Tensor:
    """Return all labels of a model, with the null class if it has one: int64 (C,)."""
    return torch.arange(model.config.num_labels, device=device)


@torch.no_grad()
def predict_empty(model: Transformer, labels: Tensor, precision: torch.dtype) -> Tensor:
    """Predict fully hidden images, without guidance.

    They are computed once per label under the same condition as in `guided_predictor`.

    Args:
        model: the transformer, in evaluation mode.
        labels: int64 (B,), on the model's device.

    Returns:
        Logits float32 (B, L, K).
    """
    all_labels = labels_of(model, labels.device)
    once_per_label = len(all_labels) <= len(labels)
    asked = all_labels if once_per_label else labels
    shape = (len(asked), model.config.seq_len)
    empty = torch.full(shape, model.config.mask_token, device=labels.device)
    with autocast(labels.device, precision):
        logits = model(empty, asked).float()
    return logits[labels] if once_per_label else logits


def start_tokens(
    model: Transformer, image_indices: np.ndarray, start_token: int | None, seed: int
) -> Tensor:
    """Make the tokens that the model sees at hidden positions before the first step.

    Args:
        model: its config has L, K and the mask token.
        image_indices: int (B,); with `seed` they decide random tokens.
        start_token: the token; None for the mask token, negative for random image tokens.

    Returns:
        int64 (B, L), on the CPU.
    """
    config = model.config
    shape = (len(image_indices), config.seq_len)
    if start_token is None or start_token >= 0:
        return torch.full(shape, config.mask_token if start_token is None else start_token)
    rows = [
        rng(seed, "start", int(index)).integers(0, config.codebook_size, config.seq_len)
        for index in image_indices
    ]
    return torch.from_numpy(np.stack(rows))


def draw_start(
    predicted: Tensor, tokens: Tensor, image_indices: np.ndarray, share: float, seed: int
) -> Tensor:
    """Replace the start tokens at random positions with sampled ones.

    Args:
        predicted: logits float32 (B, L, K); each token is drawn independently.
        tokens: int64 (B, L), the start tokens; they stay at the other positions.
        image_indices: int (B,); with `seed` they decide positions and tokens.
        share: share of the L positions to replace, from 0 to 1.

    Returns:
        int64 (B, L).
    """
    length = tokens.shape[1]
    draws = np.stack([rng(seed, "start", int(i)).random((2, length)) for i in image_indices])
    shown = draws[:, 0].argsort(1).argsort(1) < round(share * length)  # (B, L)
    uniform = send(torch.from_numpy(draws[:, 1].astype(np.float32)), tokens.device)
    drawn = draw_tokens(predicted.log_softmax(-1), uniform)
    return torch.where(send(torch.from_numpy(shown), tokens.device), drawn, tokens)


def _check_midway(midway: Midway, plan: Plan) -> None:
    """Refuse a point that this plan never reaches; errors as in `prepare_decoding`."""
    if not 0 <= midway.steps <= plan.num_steps:
        raise UserError(f"the decoding has {plan.num_steps} steps, so none after {midway.steps}")
    found, planned = int(midway.hidden.sum()), int(plan.counts[0, midway.steps :].sum())
    if found != planned:
        raise UserError(
            f"{found} tokens are hidden after {midway.steps} steps; the plan leaves {planned}"
        )
