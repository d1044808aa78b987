"""The tokens that a model sees at hidden positions before the first step.

They are mask tokens unless the user wants others. A student that samples in few steps starts from a
few sampled tokens (training/distillation.py says why).

Axes: B images of a block, L tokens of an image, K codebook, Y labels of a model.
"""

import numpy as np
import torch
from torch import Tensor

from models.family import Transformer
from models.samplers import draw_tokens
from models.sampling import SamplingConfig
from utils.device import autocast, send
from utils.seeding import rng


def has_same_start(config: SamplingConfig) -> bool:
    """Whether all images start from equal tokens."""
    is_chosen = config.start_token is None or config.start_token >= 0
    return is_chosen and not config.start_share


def start_tokens(
    model: Transformer,
    labels: Tensor,
    image_indices: np.ndarray,
    config: SamplingConfig,
    seed: int,
    precision: torch.dtype,
) -> Tensor:
    """Make the start tokens of a block.

    Args:
        model: the transformer, in evaluation mode.
        labels: int64 (B,), on the model's device.
        image_indices: int (B,); with `seed` they decide what is random.

    Returns:
        int64 (B, L), on the model's device.
    """
    shape, device = model.config, labels.device
    is_random = config.start_token is not None and config.start_token < 0
    token = shape.mask_token if is_random or config.start_token is None else config.start_token
    same = torch.full((len(labels), shape.seq_len), token, device=device)
    if has_same_start(config):
        return same
    # Positions, and the noise of the tokens there: float64 (B, 2, L).
    purpose = "start places" if is_random else "start"
    rows = [rng(seed, purpose, int(index)).random((2, shape.seq_len)) for index in image_indices]
    places, uniform = torch.from_numpy(np.stack(rows)).unbind(1)
    if is_random:
        tokens = [
            rng(seed, "start", int(index)).integers(0, shape.codebook_size, shape.seq_len)
            for index in image_indices
        ]
        drawn = send(np.stack(tokens), device)
    else:
        predicted = predict_empty(model, labels, precision)
        drawn = draw_tokens(predicted.log_softmax(-1), send(uniform.float(), device))
    # The positions with the smallest numbers begin with them.
    count = round((config.start_share or 1) * shape.seq_len)
    return torch.where(send(places.argsort(1).argsort(1) < count, device), drawn, same)


@torch.no_grad()
def predict_empty(model: Transformer, labels: Tensor, precision: torch.dtype) -> Tensor:
    """Predict fully hidden images, without guidance: logits float32 (B, L, K).

    They are computed once per label under the same condition as in `predictors.guided_predictor`.
    """
    all_labels = torch.arange(model.config.num_labels, device=labels.device)  # (Y,)
    once_per_label = len(all_labels) <= len(labels)
    asked = all_labels if once_per_label else labels
    shape = (len(asked), model.config.seq_len)
    empty = torch.full(shape, model.config.mask_token, device=labels.device)
    with autocast(labels.device, precision):
        logits = model(empty, asked).float()
    return logits[labels] if once_per_label else logits
