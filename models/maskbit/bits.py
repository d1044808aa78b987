"""The bits of tokens, as -1 and 1; the first one has the value 1."""

import torch
from torch import Tensor


def signs(tokens: Tensor, bits: int) -> Tensor:
    """Return the bits of tokens: int64 (...,) -> float32 (..., bits), each -1 or 1."""
    values = 2 ** torch.arange(bits, device=tokens.device)
    return (tokens[..., None] & values).ne(0).float() * 2 - 1


def joined(parts: Tensor, bits: int) -> Tensor:
    """Join numbers of so many bits to one, the lowest bits first: int64 (..., N) -> (...,)."""
    places = bits * torch.arange(parts.shape[-1], device=parts.device)
    return (parts << places).sum(-1)
