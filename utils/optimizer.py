"""An optimiser step that a bad gradient cannot spoil."""

import torch
from torch import Tensor


def step_if_finite(optimizer: torch.optim.AdamW, learning_rate: float, finite: Tensor) -> None:
    """Step and clear the gradients; weights and moments stay as they are unless `finite`.

    The decision is made on the device: the fused kernel does nothing where its `found_inf` is 1
    (torch.amp.GradScaler uses it in the same way), and the host does not wait for the answer.

    Args:
        optimizer: with `fused=True`.
        learning_rate: of this step, for every group.
        finite: bool scalar on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # The kernel of MPS knows no found_inf, so there the host waits.
    decided_here = finite.device.type == "mps"
    if not decided_here:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
    if not decided_here or finite.item():
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
