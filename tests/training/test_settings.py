"""Every setting of a training changes it: the weights after a few steps are others."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
from tiny_stages import VQGAN, make_distillation, make_stage, make_vqgan_stage
from torch import Tensor

from training import distillation
from training.config import DistillConfig, TrainingConfig, VQGANTrainingConfig

STEPS = 4


@cache
def teacher() -> Any:
    return make_stage().model


def distill(num_steps: int = 1, **changes: Any) -> Any:
    return make_distillation(teacher(), num_steps, **changes)


def vqgan(*config: Any, **changes: Any) -> Any:
    return make_vqgan_stage(*config, **{"warmup_epochs": 0, "revive_below": 3.0, **changes})


STAGES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "transformer": (
        make_stage,
        TrainingConfig,
        {
            "epochs": 8, "batch_size": 4, "optimizer": "muon", "lr": 1e-3, "betas": (0.5, 0.6),
            "weight_decay": 30, "warmup_epochs": 1, "label_drop": 0.9, "schedule": "root",
            "label_smoothing": 0.5, "grad_clip": 1e-4, "ema_decay": 0.0, "seed": 5,
            "decay": "trapezoid",
        },
    ),
    "vqgan": (
        vqgan,
        VQGANTrainingConfig,
        {
            "epochs": 30, "lr": 1e-2, "betas": (0.1, 0.2), "warmup_epochs": 1, "ema_decay": 0.0,
            "codebook_weight": 20.0, "optimizer": "muon", "disc_start": 1, "disc_weight": 0.1,
            "disc_channels": 16, "disc_layers": 2, "linear_start": True, "revive_every": 3,
            "revive_below": 0.0, "seed": 5,
        },
    ),
    "student": (
        distill,
        DistillConfig,
        {
            "num_steps": 2, "epochs": 30, "batch_size": 8, "optimizer": "muon", "lr": 1e-2,
            "auxiliary_lr": 1e-2, "teacher_guidance": 3.0, "teacher_logit_scale": 2.0,
            "guidance_rises": True, "grad_clip": 1e-4, "ema_decay": 0.0, "start_share": 0.5,
            "seed": 5,
        },
    ),
}  # fmt: skip
# The images of a batch come from outside; the other settings are tested where they act.
ELSEWHERE = {
    "transformer": {"grad_accum", "init", "freeze"},
    "vqgan": {
        "batch_size",
        "grad_accum",
        "chroma_weight",
        "perceptual_weight",
        "perceptual_vgg",
        "init",
        "freeze",
    },
    "student": set(),
}


def weights_after(stage: Any) -> list[Tensor]:
    """The weights, and their averages, after a few steps."""
    for step in range(STEPS):
        stage.train_step(step)
    return [*stage.model.state_dict().values(), *stage.ema.module.state_dict().values()]


@cache
def usual_weights(name: str) -> list[Tensor]:
    return weights_after(STAGES[name][0]())


@pytest.mark.parametrize(
    ("name", "setting"), [(name, setting) for name, row in STAGES.items() for setting in row[2]]
)
def test_a_setting_changes_the_weights(monkeypatch, name, setting):
    monkeypatch.setattr(distillation, "IMITATION", 1)
    make, _, changes = STAGES[name]
    found, usual = weights_after(make(**{setting: changes[setting]})), usual_weights(name)
    assert not all(map(Tensor.equal, found, usual))


@pytest.mark.parametrize("name", STAGES)
def test_no_setting_is_left_out(name):
    _, config, changes = STAGES[name]
    assert changes.keys() | ELSEWHERE[name] == {field.name for field in fields(config)}


@pytest.mark.parametrize("name", STAGES)
def test_a_decay_of_zero_averages_nothing(name):
    weights = weights_after(STAGES[name][0](ema_decay=0.0))
    half = len(weights) // 2
    assert all(map(Tensor.equal, weights[:half], weights[half:]))


@pytest.mark.parametrize("name", ["transformer", "vqgan"])
def test_dropout_changes_the_weights(name):
    config = replace(VQGAN, dropout=0.5)
    stage = make_stage(dropout=0.5) if name == "transformer" else vqgan(config)
    assert not all(map(Tensor.equal, weights_after(stage), usual_weights(name)))
