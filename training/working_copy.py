"""A bfloat16 copy of the network for the training step.

Autocast casts the weights and biases of linear layers one by one, and their gradients back. In a
step of the default model that is a quarter of its kernel launches. Here all are cast at once.
"""

import torch
from torch import Tensor, nn

from utils.processes import Processes
from utils.weights import with_linear_weights_in


class WorkingCopy:
    """A copy of a network whose linear layers have another dtype; it shares all other parameters.

    Under autocast in that dtype the copy computes the same as the original, bit for bit, also in
    backward passes. The original is used in float32, and with several processes, which would
    exchange the gradients of the copy.

    Attributes:
        network: the copy, or the original.
    """

    def __init__(self, original: nn.Module, dtype: torch.dtype, processes: Processes) -> None:
        """Copy a network, whose parameter tensors must never be replaced."""
        needs_copy = dtype != torch.float32 and processes.size == 1
        self.network = with_linear_weights_in(dtype, original) if needs_copy else original
        pairs = zip(original.parameters(), self.network.parameters(), strict=True)
        copied = [(theirs, mine) for theirs, mine in pairs if theirs is not mine]
        self._originals: list[Tensor] = [theirs for theirs, _ in copied]
        self._copies: list[Tensor] = [mine for _, mine in copied]
        self._trained = [(theirs, mine) for theirs, mine in copied if mine.requires_grad]

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the weights of the original."""
        if self._copies:
            torch._foreach_copy_(self._copies, self._originals)

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """Add the copy's gradients to those of the original, and clear them."""
        if not self._trained:
            return
        gradients = [copy.grad for _, copy in self._trained if copy.grad is not None]
        assert len(gradients) == len(self._trained)
        sums = [weight.grad for weight, _ in self._trained if weight.grad is not None]
        if sums:
            torch._foreach_add_(sums, gradients)
        else:
            sums = [torch.empty_like(weight) for weight, _ in self._trained]
            torch._foreach_copy_(sums, gradients)
        for (weight, _), total in zip(self._trained, sums, strict=True):
            weight.grad = total
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Forget the gradients of the copy."""
        for _, copy in self._trained:
            copy.grad = None
