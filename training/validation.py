"""Validates a transformer: loss and accuracy on the validation split, always with the same masks.

Axes: B images of a part, L tokens of an image, K codebook, N hidden tokens.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.token_set import DeviceTokens
from models.family import Transformer
from models.masking import hide, masks_of_ratio
from models.schedules import MASK_SCHEDULES
from utils.device import autocast
from utils.processes import Processes
from utils.seeding import rng

MOST_IMAGES = 4096
SEED = 0  # the same for all runs, so that all use the same masks
RATIO_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)  # bounds of the bins of mask ratios
SUMS = (3, len(RATIO_BINS) - 1)  # shape of the sums of loss, correct and hidden tokens by bin


def validate(
    network: Transformer,
    tokens: DeviceTokens,
    part_size: int,
    precision: torch.dtype,
    processes: Processes,
) -> dict[str, float]:
    """Measure a transformer; several processes share the images.

    Args:
        network: the transformer, in evaluation mode.
        tokens: the validation split, on the network's device.
        part_size: images computed at once.

    Returns:
        "loss" and "accuracy" over all hidden tokens; "accuracy_0_25" and so on over images with 0
        to 25 percent of their tokens hidden. The loss is the cross-entropy in nats, without label
        smoothing.
    """
    # Choose the images, their labels and their share of hidden tokens.
    count = len(tokens.source)
    chosen = np.linspace(0, count - 1, min(count, MOST_IMAGES), dtype=int)
    labels = tokens.source.classes(chosen, rng(SEED, "labels"))
    uniform = rng(SEED, "validation ratios").random(count)
    ratios = MASK_SCHEDULES["arccos"](uniform)[chosen]
    # Add up this process's share part by part.
    share = processes.share(len(chosen))
    sums = torch.zeros(SUMS, dtype=torch.float64)
    for start in range(share.start, share.stop, part_size):
        part = slice(start, min(start + part_size, share.stop))
        masks = fixed_masks(chosen[part], ratios[part], tokens.source.seq_len)
        batch = hide(tokens.take(chosen[part]), labels[part], masks, network.config.mask_token)
        with torch.no_grad(), autocast(tokens.device, precision):
            logits = network(batch.inputs, batch.labels, batch.at).float()  # (N, K)
        sums += sums_by_ratio(logits, batch.targets, masks)
    processes.add_up(sums)
    # Divide by the number of tokens.
    loss, correct, hidden = sums.tolist()
    result = {"loss": sum(loss) / sum(hidden), "accuracy": sum(correct) / sum(hidden)}
    for low, high, right, all_ in zip(RATIO_BINS, RATIO_BINS[1:], correct, hidden, strict=False):
        if all_:
            result[f"accuracy_{100 * low:.0f}_{100 * high:.0f}"] = right / all_
    return result


def fixed_masks(images: np.ndarray, ratios: np.ndarray, seq_len: int) -> np.ndarray:
    """Choose the hidden tokens of validation images; they depend only on the image's index.

    Args:
        images: int (B,), indices in the split.
        ratios: float64 (B,), the share of tokens to hide in each.
        seq_len: L.

    Returns:
        bool (B, L), True where a token is hidden.
    """
    rows = [
        masks_of_ratio(rng(SEED, "validation masks", int(image)), ratio[None], seq_len)
        for image, ratio in zip(images, ratios, strict=True)
    ]
    return np.concatenate(rows)


def sums_by_ratio(logits: Tensor, targets: Tensor, masks: np.ndarray) -> Tensor:
    """Add up loss, correct tokens and hidden tokens by bin of the mask ratio.

    Args:
        logits: float32 (N, K).
        targets: int64 (N,).
        masks: bool (B, L), with N hidden positions in total.

    Returns:
        float64 (3, bins), on the CPU.
    """
    losses = F.cross_entropy(logits, targets, reduction="none")
    correct = logits.argmax(-1) == targets
    values = torch.stack([losses, correct.float(), torch.ones_like(losses)]).cpu().double()
    bins = np.digitize(masks.mean(1), RATIO_BINS, right=True) - 1  # some are hidden in each image
    bin_of = torch.from_numpy(bins.repeat(masks.sum(1)))  # (N,)
    return torch.zeros(SUMS, dtype=torch.float64).index_add_(1, bin_of, values)
