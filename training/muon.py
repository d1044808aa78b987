"""Muon: steps along orthogonalized momentum, for the weights of linear layers and convolutions.

A gradient of a weight matrix has few large singular values. Muon makes all of them about equal, so
that a step moves the weight in every direction. Jordan et al. 2024, "Muon: An optimizer for hidden
layers in neural networks"; the size of the step is that of Liu et al. 2025, "Muon is Scalable for
LLM Training", so that AdamW's learning rate and weight decay fit.

Axes: n matrices of one shape, r rows, c columns, r <= c.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor

MOMENTUM = 0.95
# a x + b x^3 + c x^5, Jordan et al.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAMW_RMS = 0.2  # root mean square of an update by AdamW, Liu et al.
LEAST_NORM = 1e-7  # a smaller gradient counts as 0
MOMENTS = ("momentum",)  # entries in the state of a weight
# Matrix elements that are computed at once. This bounds the memory of a step, 28 bytes per element;
# a GPU gains little from more.
MOST_AT_ONCE = 2**22
Matrix = tuple[Tensor, Tensor, Tensor]  # views (r, c) of a matrix, its momentum and its gradient


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Matrices of one shape, or of its transpose, are computed together. A step never waits for the
    device: if `found_inf`, a float scalar on the device, is 1, weights and moments do not change.
    torch's fused optimizers have this attribute too.

    Attributes:
        found_inf: 1 to skip the next steps, otherwise 0; None means 0.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        weights: Mapping[Tensor, int],
        lr: float,
        weight_decay: float,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """Start without momentum.

        Args:
            weights: weights (rows, columns), or (out, in, height, width) in channels_last, each
                with the number of matrices that it stacks. These are orthogonalized one by one.
            lr: learning rate, on the scale of AdamW's.
            precision: dtype for orthogonalization.
        """
        super().__init__(list(weights), {"lr": lr, "weight_decay": weight_decay})
        self._joined = dict(weights)
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Make a step with the gradients of the weights; `closure` is not used."""
        moves = None if self.found_inf is None else self.found_inf == 0
        for batch in self._batches():
            self._move(batch, moves)

    def _move(self, batch: list[Matrix], moves: Tensor | None) -> None:
        """Update matrices of one shape, unless `moves`, a bool scalar, is False."""
        (group,) = self.param_groups
        weights, momenta, gradients = map(list, zip(*batch, strict=True))
        # The momentum, and Nesterov's look ahead.
        gradient, old = torch.stack(gradients), torch.stack(momenta)  # (n, r, c)
        momentum = old.lerp(gradient, 1 - MOMENTUM)
        direction = orthogonalize(gradient.lerp_(momentum, MOMENTUM), self._precision)
        _write(momenta, old, momentum, moves)
        # The weights. The root mean square of an orthogonal matrix is c^-0.5.
        rate = group["lr"] * ADAMW_RMS * direction.shape[-1] ** 0.5
        old = torch.stack(weights)
        decayed = old * (1 - group["lr"] * group["weight_decay"])
        _write(weights, old, decayed.sub_(direction, alpha=rate), moves)

    def _batches(self) -> Iterator[list[Matrix]]:
        """Yield all matrices grouped by shape, at most MOST_AT_ONCE elements at once."""
        by_shape: defaultdict[torch.Size, list[Matrix]] = defaultdict(list)
        for matrix in chain.from_iterable(map(self._matrices, self._joined)):
            by_shape[matrix[0].shape].append(matrix)
        for shape, matrices in by_shape.items():
            size = max(1, MOST_AT_ONCE // shape.numel())
            for start in range(0, len(matrices), size):
                yield matrices[start : start + size]

    def _matrices(self, weight: Tensor) -> Iterator[Matrix]:
        """Yield the matrices that a weight holds."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = weight.grad
        assert gradient is not None
        if weight.dim() == 4:  # a loaded state and a gradient need not have the weight's layout
            state["momentum"] = state["momentum"].contiguous(memory_format=torch.channels_last)
            gradient = gradient.contiguous(memory_format=torch.channels_last)
        tensors = (weight, state["momentum"], gradient)
        return zip(*(_views(tensor, self._joined[weight]) for tensor in tensors), strict=True)


def _views(tensor: Tensor, joined: int) -> list[Tensor]:
    """View the matrices, each (r, c), that a weight stacks; a convolution is in channels_last."""
    rows = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
    matrices = rows.view(len(rows), -1).chunk(joined)
    return [m if m.shape[0] <= m.shape[1] else m.mT for m in matrices]


def _write(places: list[Tensor], old: Tensor, new: Tensor, moves: Tensor | None) -> None:
    """Write new values (n, r, c) into the n places, or the old ones if `moves` is False."""
    kept = new if moves is None else torch.where(moves, new, old)
    torch._foreach_copy_(places, list(kept.unbind()))


def orthogonalize(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Bring the singular values of matrices near 1, by Newton-Schulz iterations.

    With M = U S V^T the result is U p(S / |M|) V^T, where |M| is the Frobenius norm and p applies
    QUINTIC ITERATIONS times. It maps 0.01 .. 1 to between 0.68 and 1.14.

    Args:
        matrices: (n, r, c), r <= c; 0 stays 0.

    Returns:
        (n, r, c), in the dtype of the matrices.
    """
    a, b, c = QUINTIC
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)  # (n, 1, 1)
    x = (matrices / norms.clamp(min=LEAST_NORM)).to(precision)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (n, r, r)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)
