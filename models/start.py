"""The tokens that a model sees at hidden positions before the first step.

They are mask tokens unless the user wants others. A student that samples in few steps starts from a
few sampled tokens (training/distillation.py says why).

Axes: B images of a block, L tokens of an image, K codebook, C labels of a model.
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
    shape, start_token = model.config, config.start_token
    if start_token is None or start_token >= 0:
        token = shape.mask_token if start_token is None else start_token
        tokens = torch.full((len(image_indices), shape.seq_len), token)
    else:
        rows = [
            rng(seed, "start", int(index)).integers(0, shape.codebook_size, shape.seq_len)
            for index in image_indices
        ]
        tokens = torch.from_numpy(np.stack(rows))
        if config.start_share:
            draws = _draws(seed, "start places", image_indices, shape.seq_len)
            shown = _chosen(draws[:, 0], config.start_share)
            tokens = tokens.where(shown, shape.mask_token)
    tokens = send(tokens, labels.device)
    if not config.start_share or start_token is not None:
        return tokens
    predicted = predict_empty(model, labels, precision)
    return _draw_start(predicted, tokens, image_indices, config.start_share, seed)


@torch.no_grad()
def predict_empty(model: Transformer, labels: Tensor, precision: torch.dtype) -> Tensor:
    """Predict fully hidden images, without guidance: logits float32 (B, L, K).

    They are computed once per label under the same condition as in `predictors.guided_predictor`.
    """
    all_labels = torch.arange(model.config.num_labels, device=labels.device)  # (C,)
    once_per_label = len(all_labels) <= len(labels)
    asked = all_labels if once_per_label else labels
    shape = (len(asked), model.config.seq_len)
    empty = torch.full(shape, model.config.mask_token, device=labels.device)
    with autocast(labels.device, precision):
        logits = model(empty, asked).float()
    return logits[labels] if once_per_label else logits


def _draw_start(
    predicted: Tensor, tokens: Tensor, image_indices: np.ndarray, share: float, seed: int
) -> Tensor:
    """Replace a share of the start tokens, at random positions, with sampled ones.

    Each token is drawn independently.
    """
    draws = _draws(seed, "start", image_indices, tokens.shape[1])
    uniform = send(draws[:, 1].float(), tokens.device)
    drawn = draw_tokens(predicted.log_softmax(-1), uniform)
    return torch.where(send(_chosen(draws[:, 0], share), tokens.device), drawn, tokens)


def _draws(seed: int, purpose: str, image_indices: np.ndarray, length: int) -> Tensor:
    """Draw two uniform numbers for each position of each image: float64 (B, 2, L)."""
    rows = [rng(seed, purpose, int(index)).random((2, length)) for index in image_indices]
    return torch.from_numpy(np.stack(rows))


def _chosen(draws: Tensor, share: float) -> Tensor:
    """Choose this share of the positions of each image, those with the smallest draws (B, L)."""
    return draws.argsort(1).argsort(1) < round(share * draws.shape[1])
