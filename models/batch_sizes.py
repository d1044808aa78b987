"""Few sizes of batch, for functions that are compiled for each size.

Compiling for a size takes up to a minute, and the ninth size is not compiled: torch warns, and runs
the function as it is.

Axes: B rows of a batch, L tokens of an image, K codebook, N hidden tokens.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL_SIZES = (1, 4, 16, 64)  # a new size is filled up to one of these; a GPU needs hardly longer


def in_few_sizes(function: Callable[..., Tensor], most: float) -> Callable[..., Tensor]:
    """Wrap a function of batches so that it gets few sizes of batch; zeros fill them up.

    Args:
        function: tensors (B, ...) -> a tensor (B, ...), row by row.
        most: how many times as large a batch may become to have a size that another had before.
    """
    compiled: set[int] = set()  # for these sizes

    def call(*batches: Tensor) -> Tensor:
        count = len(batches[0])
        fitting = {size for size in compiled if count <= size <= most * count}
        size = min(fitting or {size for size in SMALL_SIZES if size >= count}, default=count)
        compiled.add(size)
        return function(*(_filled(batch, size) for batch in batches))[:count]

    return call


def compiled_for_any(network: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Compile a `Transformer` that is asked for any number of positions.

    Otherwise torch compiles it for the N of the first call, and then once more for any N.
    """
    compiled = torch.compile(network)

    def call(tokens: Tensor, labels: Tensor, at: Tensor) -> Tensor:
        torch._dynamo.maybe_mark_dynamic(at, 0)
        logits: Tensor = compiled(tokens, labels, at)  # (N, K)
        return logits

    return call


def _filled(batch: Tensor, size: int) -> Tensor:
    """Add rows of zeros to a batch (B, ...); the memory layout stays."""
    return F.pad(batch, (0, 0) * (batch.dim() - 1) + (0, size - len(batch)))
