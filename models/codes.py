"""Statistics of how often the codes of a tokenizer are used."""

import torch
from torch import Tensor


def count_codes(tokens: Tensor, codebook_size: int) -> Tensor:
    """Count how often each code occurs, without waiting for the device.

    Args:
        tokens: int64, any shape, in [0, K).
        codebook_size: K.

    Returns:
        float32 (K,), on the device of the tokens.
    """
    flat = tokens.flatten()
    counts = torch.zeros(codebook_size, device=tokens.device)
    return counts.index_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))


def codebook_usage(counts: Tensor) -> tuple[float, float]:
    """Measure how well a codebook is used.

    Args:
        counts: (K,), how often each code was chosen (`count_codes`); not all 0.

    Returns:
        The share of the codes that were chosen at all, in (0, 1]; and the perplexity, in [1, K],
        which is K if all codes were chosen equally often.
    """
    counts = counts.cpu().double()  # not every device has float64
    shares = counts / counts.sum()
    entropy = -torch.xlogy(shares, shares).sum()
    return (counts > 0).double().mean().item(), entropy.exp().item()
