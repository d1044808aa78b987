"""The optimiser of stage 2, and an optimiser step that a bad gradient cannot spoil."""

import torch
from torch import Tensor, nn

from training.config import TrainingConfig


def make_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """Make an AdamW that decays the weights of linear layers and nothing else."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    groups = [
        {
            "params": [p for p in model.parameters() if (id(p) in decayed) == decay],
            "weight_decay": training.weight_decay if decay else 0.0,
        }
        for decay in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=training.lr, betas=training.betas, fused=True)


def step_if_finite(optimizer: torch.optim.AdamW, learning_rate: float, finite: Tensor) -> None:
    """Make a step and clear the gradients; unless `finite`, weights and moments stay as they are.

    The decision is made on the device: the fused kernel does nothing if its `found_inf` is 1, and
    the host does not wait for the answer. torch.amp.GradScaler uses it in the same way.

    Args:
        optimizer: with `fused=True`.
        learning_rate: of this step, for every group.
        finite: bool scalar on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # The kernel of MPS ignores found_inf, so the host has to wait there.
    decided_here = finite.device.type == "mps"
    if not decided_here:
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
    if not decided_here or finite.item():
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
