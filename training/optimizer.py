"""The optimizers of transformers, and an optimizer step that skips bad gradients."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.family import Transformer
from training.config import OPTIMIZERS, DistillConfig, TrainingConfig, VQGANTrainingConfig
from training.muon import MOMENTS, Muon
from utils.errors import FieldError, check_choice
from utils.weights import load_moments

Training = TrainingConfig | DistillConfig


def make_optimizers(
    model: Transformer, training: Training, precision: torch.dtype
) -> dict[str, torch.optim.Optimizer]:
    """Make the optimizers; they decay the weights of linear layers and nothing else.

    Parameters without gradients are left out.

    Returns:
        By their names in a saved state: "optimizer", an AdamW of all weights; or, with "muon", an
        AdamW of the other weights, and "muon", a Muon of the weights of linear layers.

    Raises:
        FieldError: if the optimizer is unknown, or is "muon" but the model has no linear layers.
    """
    check_choice(_setting(training), training.optimizer, OPTIMIZERS)
    by_muon = training.optimizer == "muon"
    linear = {id(layer.weight) for layer in linear_layers(model).values()}
    groups = [
        {
            "params": [
                p for p in model.parameters() if p.requires_grad and (id(p) in linear) == decay
            ],
            "weight_decay": training.weight_decay if decay else 0.0,
        }
        for decay in ((False,) if by_muon else (True, False))
    ]
    adamw = torch.optim.AdamW(groups, lr=training.lr, betas=training.betas, fused=True)
    muon = {"muon": _make_muon(model, training, precision)} if by_muon else {}
    return {"optimizer": adamw, **muon}


def _make_muon(model: Transformer, training: Training, precision: torch.dtype) -> Muon:
    """Make a Muon for the weights of linear layers; errors as in `make_optimizers`."""
    weights = {
        layer.weight: model.joined.get(name.rpartition(".")[2], 1)
        for name, layer in linear_layers(model).items()
        if layer.weight.requires_grad
    }
    if not weights:
        reason = "this transformer has no linear layers to train; use adamw"
        raise FieldError(_setting(training), "muon", reason)
    return Muon(weights, training.lr, training.weight_decay, precision)


def _setting(training: Training | VQGANTrainingConfig) -> str:
    """Name the setting of the optimizer for a message."""
    return f"{type(training).__name__}.optimizer"


def load_optimizers(
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    training: Training | VQGANTrainingConfig,
) -> None:
    """Load the moments of the optimizers, AdamW or Muon, from the saved state of a stage.

    Raises:
        ValueError: if they do not fit, or the stage was trained with another optimizer.
    """
    used = "muon" if "muon" in state else "adamw"
    if used != training.optimizer:
        text = f"it was trained with `{_setting(training)}` {used}, not {training.optimizer}"
        raise ValueError(text)
    for name, optimizer in optimizers.items():
        if isinstance(optimizer, Muon):
            load_moments(optimizer, state[name], MOMENTS, counts=())
        else:
            load_moments(optimizer, state[name])


def count_moments(model: nn.Module, training: TrainingConfig) -> int:
    """Count the float32 moments of the optimizers: two per weight with AdamW, one with Muon."""
    trained = [p for p in model.parameters() if p.requires_grad]
    of_muon = linear_layers(model).values() if training.optimizer == "muon" else ()
    by_muon = {id(layer.weight) for layer in of_muon}
    return sum(p.numel() * (1 if id(p) in by_muon else 2) for p in trained)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of a network by their names."""
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


def step_unless(skip: Tensor, optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Make a step and clear the gradients; if `skip` is 1, weights and moments do not change.

    The decision is made on the device, without waiting for it: the fused kernel, or Muon, does
    nothing if its `found_inf` is 1. torch.amp.GradScaler uses it in the same way.

    Args:
        skip: float32 scalar on the device, 1 or 0.
        optimizer: an AdamW with `fused=True`, or a Muon.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # The kernel of MPS ignores found_inf, so the host has to wait there.
    decided_here = skip.device.type == "mps"
    if not decided_here:
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.grad_scale = None  # type: ignore[attr-defined]
    if not decided_here or not skip.item():
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
