"""Prepares a decoding from labels: start tokens, plan, noise, and a guided predictor.

Guidance is that of Muse (Chang et al. 2023), written as (1 + w) * conditional - w * unconditional.

Axes: B images of a block, L tokens of an image, K codebook, Y labels of a model.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.decoding import Decoding, LogitsFn, draw_noise, make_plan
from models.family import Transformer
from models.halton_order import halton_orders
from models.samplers import SAMPLERS
from models.sampling import SamplingConfig
from models.start import has_same_start, start_tokens
from models.steps import KnownTokens, check_known
from utils.device import autocast, send


def prepare_decoding(
    model: Transformer,
    labels: np.ndarray,
    image_indices: np.ndarray,
    config: SamplingConfig,
    seed: int,
    precision: torch.dtype = torch.float32,
    known: KnownTokens | None = None,
    grid: tuple[int, ...] | None = None,
) -> Decoding:
    """Prepare the decoding of a block of images.

    Args:
        model: the transformer, in evaluation mode.
        labels: int (B,), the class of each image.
        image_indices: int (B,); with `seed` they decide the noise of each image.
        known: the tokens that all images have already; None hides all tokens.
        grid: the token grid, for samplers with an order of positions; None means a row of tokens.

    Raises:
        UserError: if the plan does not come to the known tokens after their number of steps.
    """
    device, seq_len = next(model.parameters()).device, model.config.seq_len
    device_labels = send(labels, device)
    # The tokens that the model sees at the start, and which of them are hidden.
    tokens = start_tokens(model, device_labels, image_indices, config, seed, precision)
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    # The plan and the noise.
    num_hidden = seq_len if known is None else known.num_planned
    plan = make_plan(num_hidden, config)
    if known is not None:
        check_known(known, plan)
        hidden = known.hidden.to(device).expand_as(hidden).clone()
        tokens = torch.where(hidden, tokens, known.tokens.to(device))
    noise = draw_noise(seed, image_indices, plan.num_steps, seq_len, device)
    if SAMPLERS[config.sampler].uses_order:
        roll = config.halton_roll == "on"
        order = halton_orders(seed, image_indices, grid or (seq_len,), roll)
        noise = noise._replace(order=send(order, device))
    logits_fn = guided_predictor(
        model, device_labels, plan.guidance, precision, has_same_start(config)
    )
    first_step = known.steps if known else 0
    return Decoding(logits_fn, plan, noise, tokens, hidden, first_step, device_labels)


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
    label. Unused labels are computed too: so an image does not depend on the labels of the other
    images, bit for bit.

    Args:
        labels: int64 (B,), on the model's device.
        guidance: float64 (T,), the weight at each step; 0 where the model has no null class.
        same_start: whether all images start from equal tokens.
    """
    # Where it is None, the guidance is 0 at every step and `unconditional` is not used.
    null_class: Any = model.config.null_class
    once_per_label = same_start and model.config.num_labels <= len(labels)

    @torch.no_grad()
    def logits_fn(tokens: Tensor, step: int) -> Tensor:
        weight = float(guidance[step])
        with autocast(tokens.device, precision):
            if step == 0 and once_per_label:
                # (Y,); a CUDA graph of the steps would not keep it if it was made earlier.
                all_labels = torch.arange(model.config.num_labels, device=labels.device)
                predicted = model(tokens[: len(all_labels)], all_labels).float()  # (Y, L, K)
                conditional, unconditional = predicted[labels], predicted[null_class]
            elif weight == 0:
                return model(tokens, labels)
            else:
                both_labels = torch.cat([labels, torch.full_like(labels, null_class)])
                predicted = model(tokens.repeat(2, 1), both_labels).float()  # (2B, L, K)
                conditional, unconditional = predicted.chunk(2)
        return guided_logits(conditional, unconditional, weight) if weight else conditional

    return logits_fn


def guided_logits(conditional: Tensor, unconditional: Tensor, guidance: float | Tensor) -> Tensor:
    """Extrapolate from the unconditional logits past the conditional ones; 0 turns guidance off.

    Overwrites both logits: with a large codebook each copy takes gigabytes.
    """
    return conditional.mul_(1 + guidance).sub_(unconditional.mul_(guidance))
