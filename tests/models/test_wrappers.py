"""Weights are found in whatever programs wrap them in."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from models.wrappers import unwrapped

NAMES = ("a.weight", "b.weight")
WEIGHTS = {"a.weight": torch.tensor([1.0]), "b.weight": torch.tensor([2.0]), "c": torch.ones(1)}
MODULES = ("module.", "_orig_mod.", "model.")
CONTAINERS = ("state_dict", "model", "ema", "params", "net", "model_state_dict")


def wrap(weights: dict[str, Any], *wrappers: str) -> dict[str, Any]:
    """Put weights into modules (a name with a dot) and dictionaries, from the innermost out."""
    for wrapper in wrappers:
        if wrapper.endswith("."):
            weights = {f"{wrapper}{name}": value for name, value in weights.items()}
        else:
            weights = {wrapper: weights, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}
    return weights


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_modules_and_dictionaries_in_any_order(depth: int) -> None:
    for modules in itertools.permutations(MODULES, depth):
        for containers in itertools.permutations(CONTAINERS, depth):
            stored = wrap(WEIGHTS, *modules, *containers)
            assert unwrapped(stored, NAMES).weights == WEIGHTS, (modules, containers)


def test_other_modules_and_modules_around_parts() -> None:
    assert unwrapped(wrap(WEIGHTS, "net.", "module.", "ema", "params"), NAMES).weights == WEIGHTS
    parts = {"enc.module.a.weight": torch.ones(1), "enc._orig_mod.b.weight": torch.ones(1)}
    assert unwrapped(parts, ("enc.a.weight",)).weights.keys() == {"enc.a.weight", "enc.b.weight"}


def test_what_is_in_unknown_wrappers_is_not_taken() -> None:
    for wrapper in ("teacher", "teacher.", "other_"):
        assert unwrapped(wrap(WEIGHTS, wrapper), NAMES).weights == {}
    assert unwrapped(wrap(WEIGHTS, "teacher."), NAMES, more=["teacher"]).weights == WEIGHTS
    for stored in (None, [WEIGHTS], 3, {}, {"model": 3}, {3: WEIGHTS}):
        assert unwrapped(stored, NAMES).weights == {}


def test_whole_weights_before_parts_and_averaged_ones_before_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    averaged = {name: value + 1 for name, value in WEIGHTS.items()}
    part = {"a.weight": torch.zeros(1)}
    path = Path("a.pt")
    both = {"model": WEIGHTS, "ema": averaged, "state_dict": part}
    with caplog.at_level("INFO"):
        assert unwrapped(both, NAMES, path).weights == averaged
    assert caplog.messages == ["a.pt holds 3 sets of weights: ema are taken"]
    assert unwrapped({**both, "ema": part}, NAMES).weights == WEIGHTS
    assert unwrapped({**WEIGHTS, **wrap(averaged, "ema.")}, NAMES).weights == averaged
    found = unwrapped({"model": wrap(WEIGHTS, "module.", "model_state_dict")}, NAMES)
    assert found.wrappers == ("model", "model_state_dict")
