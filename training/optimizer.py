"""What of a stage is trained, its optimizers, and an optimizer step that skips bad gradients."""

import fnmatch
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.family import Transformer
from training.config import OPTIMIZERS, Training, TrainingConfig
from training.muon import MOMENTS, Muon
from utils.errors import FieldError, check_choice
from utils.weights import load_moments

SHOWN = 6  # names in a message


def freeze(network: nn.Module, patterns: Sequence[str], field: str) -> None:
    """Turn off the gradients of the parameters whose names match a pattern.

    Without a gradient a parameter gets no state of an optimizer and no weight decay, and its
    average never changes.

    Args:
        patterns: shell patterns, such as "encoder.*".
        field: names the setting that holds the patterns.

    Raises:
        FieldError: if a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        matching = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            some = ", ".join([*parameters][:: len(parameters) // SHOWN + 1])
            raise FieldError(field, pattern, f"no parameter has such a name; some are {some}")
        for name in matching:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise FieldError(field, ",".join(patterns), "leaves nothing to train")


def make_optimizers(
    network: nn.Module, matrices: Mapping[Tensor, int], training: Training, precision: torch.dtype
) -> dict[str, torch.optim.Optimizer]:
    """Make the optimizers of a network; parameters without gradients are left out.

    Args:
        matrices: the weights that are decayed, and that "muon" trains, each with the number of
            matrices that it stacks.

    Returns:
        By their names in a saved state: "optimizer", an AdamW of all weights; or, with "muon", an
        AdamW of the other weights, and "muon", a Muon of the matrices.

    Raises:
        FieldError: if the optimizer is unknown, or is "muon" but has no matrices to train.
    """
    check_choice(_setting(training), training.optimizer, OPTIMIZERS)
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = {p: matrices[p] for p in trained if p in matrices}
    decayed: dict[str, Any] = {"params": [*matrices], "weight_decay": training.weight_decay}
    rest = [p for p in trained if p not in matrices]
    others: dict[str, Any] = {"params": rest, "weight_decay": 0.0}
    adamw = partial(torch.optim.AdamW, lr=training.lr, betas=training.betas, fused=True)
    if training.optimizer == "adamw":
        return {"optimizer": adamw([decayed, others])}
    if not matrices:
        reason = "this network has no matrices for muon to train; use adamw"
        raise FieldError(_setting(training), "muon", reason)
    muon = Muon(matrices, training.lr, training.weight_decay, precision)
    return {"optimizer": adamw([others]), "muon": muon}


def _setting(training: Training) -> str:
    """Name the setting of the optimizer for a message."""
    return f"{type(training).__name__}.optimizer"


def load_optimizers(
    optimizers: Mapping[str, torch.optim.Optimizer],
    state: Mapping[str, Any],
    training: Training,
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


def count_moments(model: Transformer, training: TrainingConfig) -> int:
    """Count the float32 moments of the optimizers: two per weight with AdamW, one with Muon."""
    by_muon = linear_weights(model) if training.optimizer == "muon" else {}
    trained = [p for p in model.parameters() if p.requires_grad]
    return sum(p.numel() * (1 if p in by_muon else 2) for p in trained)


def linear_weights(model: Transformer) -> dict[Tensor, int]:
    """Return the weights of linear layers, each with the number of matrices that it stacks."""
    return {
        layer.weight: model.joined.get(name.rpartition(".")[2], 1)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }


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
    if not decided_here or not skip.item():
        optimizer.step()
    optimizer.zero_grad()
