"""Continues a training with more classes than its saved state has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.family import Transformer
from models.fine_tuning import Change, same_classes, start_from


def grown_state(
    state: Mapping[str, Any],
    model: Transformer,
    optimizers: Mapping[str, torch.optim.Optimizer],
    former: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Fit the saved state of a training to a model with more classes.

    What belongs to a class of the state stays, in the weights, their average and the moments.

    Args:
        state: it has the entries "model" and "ema", and an entry for each optimizer.
        model: the model with random weights, which stay where the state has none that fit.
        optimizers: its optimizers, by their names in the state.
        former: names of the classes of the state, in the order of their labels.
        classes: those of the model.
    """
    config, grid = model.config, (model.config.seq_len,)
    old = replace(config, num_classes=len(former))  # type: ignore[type-var]
    change = Change(old, config, same_classes(former, classes), (grid, grid))

    def carry(name: str, weight: Tensor) -> Tensor:  # also a moment of the weight
        return model.carry(name, weight, change)

    fresh = model.state_dict()
    weights = {
        part: {**fresh, **start_from(state[part], fresh, carry).weights}
        for part in ("model", "ema")
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moments: dict[str, Any] = {}
    for key, optimizer in optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found = {
            number: {
                kind: _grown_moment(value, parameters[number], names[id(parameters[number])], carry)
                for kind, value in of_weight.items()
            }
            for number, of_weight in state[key]["state"].items()
        }
        moments[key] = {**state[key], "state": found}
    return {**state, **weights, **moments}


def _grown_moment(
    moment: Tensor, weight: Tensor, name: str, carry: Callable[[str, Tensor], Tensor]
) -> Tensor:
    """Fit a moment of a weight; counts of steps stay, and what does not fit starts at 0."""
    if moment.ndim == 0:
        return moment
    carried = carry(name, moment)
    return carried if carried.shape == weight.shape else torch.zeros_like(weight)
