"""Distillation, against formulas and by what a student can do that its teacher cannot."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_stages import CLASSES, K, L, make_distillation, make_stage

from data.token_set import TokenSet
from models.maskgit.config import TransformerConfig
from models.predictors import predict_empty, prepare_decoding
from models.sampling import SamplingConfig
from training import distillation
from training.distillation import DistillationStage, student_settings
from training.distillation_losses import (
    Compared,
    Made,
    divergence,
    entropy,
    imitation_loss,
    student_loss,
)

# --- The losses ---


def made_and_compared() -> tuple[Made, Compared]:
    """Two images of three tokens out of four; one token was there before the last step."""
    torch.manual_seed(0)
    at = torch.tensor([0, 2, 4])
    made = Made(
        logits=torch.randn(2, 3, 4, requires_grad=True),
        start=torch.zeros(2, 3, dtype=torch.int64),
        tokens=torch.tensor([[0, 1, 2], [3, 0, 1]]),
        drawn=torch.tensor([[True, True, False], [True, True, True]]),
        labels=torch.tensor([0, 1]),
    )
    auxiliary = torch.randn(3, 4, requires_grad=True).log_softmax(-1)
    teacher = torch.randn(3, 4).log_softmax(-1)
    return made, Compared(at, made.tokens.flatten()[at], teacher, auxiliary)


def test_the_student_gets_the_gradient_that_the_divergence_has_by_the_auxiliary_logits():
    made, compared = made_and_compared()
    student_loss(made, compared).backward()
    logits = compared.auxiliary.detach().clone().requires_grad_()
    F.kl_div(logits.log_softmax(-1), compared.teacher, reduction="sum", log_target=True).backward()
    expected = torch.zeros(6, 4)
    ours = [0, 4]  # of the hidden positions 0, 2 and 4 the second was not drawn at this step
    expected[ours] = logits.grad[[0, 2]] / 2
    assert torch.allclose(made.logits.grad.flatten(0, 1), expected, atol=1e-6)


def test_divergence_is_the_kl_and_zero_for_equal_predictions():
    _, compared = made_and_compared()
    expected = F.kl_div(
        compared.auxiliary.detach(), compared.teacher, reduction="batchmean", log_target=True
    )
    assert divergence(compared).item() == pytest.approx(expected.item(), abs=1e-6)
    assert divergence(compared._replace(auxiliary=compared.teacher)).item() == 0


def test_entropy_is_that_of_the_students_prediction():
    made, _ = made_and_compared()
    expected = torch.distributions.Categorical(logits=made.logits).entropy()[made.drawn].mean()
    assert entropy(made).item() == pytest.approx(expected.item(), abs=1e-6)
    even = made._replace(logits=torch.zeros(2, 3, 4))
    assert entropy(even).item() == pytest.approx(np.log(4), abs=1e-6)
    # Positions that were known before the step do not count.
    sharp = torch.zeros(2, 3, 4)
    sharp[0, 2, 0] = 100
    assert entropy(made._replace(logits=sharp)).item() == pytest.approx(np.log(4), abs=1e-6)


def test_imitation_has_its_lowest_loss_at_the_teachers_answer():
    answer = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    logits = answer.clone().requires_grad_()
    imitation_loss(logits, answer).backward()
    assert logits.grad.abs().max() < 1e-6
    assert imitation_loss(answer + torch.randn_like(answer), answer) > imitation_loss(
        logits, answer
    )


# --- The stage ---


@cache
def teacher() -> torch.nn.Module:
    """A transformer of images that are all of one token: 5 c or 5 c + 1 for class c.

    A model that draws all tokens at once, not knowing of each other, mixes the two.
    """
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 400)
    tokens = (labels * 5 + generator.integers(0, 2, 400))[None, :, None].repeat(L, axis=2)
    images = TokenSet(tokens.astype(np.uint16), labels)
    stage = make_stage(images, epochs=8, label_smoothing=0.0, lr=5e-3)
    for step in range(8 * stage.steps_per_epoch):
        stage.train_step(step)
    return stage.ema.module


def distillation_of(steps: int = 1, **changes: Any) -> DistillationStage:
    return make_distillation(teacher(), steps, **changes)


def tokens_of(network: Any, config: SamplingConfig, count: int = 120) -> tuple[Any, np.ndarray]:
    labels = np.arange(count) % CLASSES
    inputs = prepare_decoding(network.eval(), labels, np.arange(count), config, 0)
    return inputs.result().numpy(), labels


def share_of_whole_images(network: Any, config: SamplingConfig) -> float:
    """The share of images that are all of one token, one of their class."""
    tokens, labels = tokens_of(network, config)
    same = (tokens == tokens[:, :1]).all(1)
    return float((same & (tokens[:, 0] // 5 == labels) & (tokens[:, 0] % 5 < 2)).mean())


def test_a_student_makes_whole_images_where_its_teacher_cannot(monkeypatch):
    monkeypatch.setattr(distillation, "START_SHARE", 1 / 3)
    one_step = SamplingConfig(num_steps=1, guidance=0.0)
    assert share_of_whole_images(teacher(), one_step) < 0.25
    stage = distillation_of(batch_size=64, teacher_logit_scale=1.0, teacher_guidance=0.0)
    for step in range(400):
        assert not stage.train_step(step)["skipped"]
    assert share_of_whole_images(stage.ema.module, stage.sampling) > 0.4
    # Both kinds of images are still made.
    tokens, _ = tokens_of(stage.ema.module, stage.sampling)
    assert 0.2 < (tokens % 5 == 0).mean() < 0.8


def test_the_student_keeps_the_prediction_from_which_it_starts():
    stage = distillation_of(teacher_guidance=0.0, teacher_logit_scale=1.0)
    labels = torch.arange(CLASSES)
    for step in range(100):
        stage.train_step(step)
    student, taught = (
        predict_empty(network, labels, torch.float32).softmax(-1)
        for network in (stage.ema.module, teacher())
    )
    assert (student - taught).abs().sum(-1).max() < 0.5  # of at most 2


@pytest.mark.parametrize(("steps", "hidden_before"), [(1, {L}), (2, {L, 6}), (4, {L, 7, 6, 4})])
def test_every_step_of_a_student_learns(monkeypatch, steps, hidden_before):
    monkeypatch.setattr(distillation, "IMITATION", 0)
    stage, found = distillation_of(steps), set()
    make = stage._make

    def note(*arguments):
        made = make(*arguments)
        found.update(made.drawn.sum(1).tolist())
        return made

    monkeypatch.setattr(stage, "_make", note)
    for step in range(30):
        stage.train_step(step)
    assert found == hidden_before


def test_at_first_the_student_only_learns_its_guided_teachers_answer():
    stage = distillation_of(teacher_guidance=2.0, teacher_logit_scale=1.5, epochs=20)
    labels, seen = torch.arange(CLASSES), torch.full((CLASSES, L), K)
    null = torch.full_like(labels, CLASSES)
    with torch.no_grad():
        guided = 3 * teacher()(seen, labels) - 2 * teacher()(seen, null)
        wanted = (1.5 * guided).softmax(-1)
        far = (teacher()(seen, labels).softmax(-1) - wanted).abs().sum(-1).mean()
        for step in range(100):
            with torch.enable_grad():
                stage.train_step(step)
        near = (stage.model(seen, labels).softmax(-1) - wanted).abs().sum(-1).mean()
    assert near < far / 4


def test_the_teacher_never_changes_and_the_student_begins_as_it(monkeypatch):
    monkeypatch.setattr(distillation, "IMITATION", 4)
    stage = distillation_of(2)
    before = {name: value.clone() for name, value in teacher().state_dict().items()}
    for name, value in stage.ema.module.state_dict().items():
        assert torch.equal(value, before[name])
    for step in range(8):
        stage.train_step(step)
    for name, value in stage._teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    changed = stage.model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in changed.items())


def test_training_goes_on_from_a_state_bit_for_bit(monkeypatch):
    monkeypatch.setattr(distillation, "IMITATION", 2)
    whole, first, second = (distillation_of(2) for _ in range(3))
    for step in range(8):
        expected = whole.train_step(step)
    for step in range(4):
        first.train_step(step)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(4, 8):
        found = second.train_step(step)
    assert {n: v.item() for n, v in found.items()} == {n: v.item() for n, v in expected.items()}
    for ours, theirs in (
        (second.model, whole.model),
        (second.auxiliary, whole.auxiliary),
        (second.ema.module, whole.ema.module),
    ):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


@pytest.mark.parametrize("network", ["model", "auxiliary", "_teacher"])
def test_a_step_that_is_not_finite_changes_nothing(monkeypatch, network):
    monkeypatch.setattr(distillation, "IMITATION", 2)
    stage = distillation_of()
    for step in range(6):
        stage.train_step(step)
    with torch.no_grad():
        getattr(stage, network).token_embedding.weight[0] = torch.nan
    before = copy.deepcopy(stage.state_dict())
    told = stage.train_step(6)
    assert told["skipped"] == 1
    assert not told["loss"].isfinite()
    assert all(value.isfinite() for name, value in told.items() if name != "loss")
    for name in ("model", "auxiliary"):
        for weight, value in stage.state_dict()[name].items():
            assert torch.equal(value.nan_to_num(7), before[name][weight].nan_to_num(7)), weight


def test_a_checkpoint_tells_what_the_student_is_made_for():
    contents = distillation_of(2).checkpoint(5)
    settings = student_settings(2)
    assert settings.num_steps == 2
    assert settings.guidance == 0
    assert settings.start_share > 0
    assert contents["made_for"]["num_steps"] == 2
    assert contents["made_for"]["start_share"] == settings.start_share
    assert contents["step"] == 5
    assert contents["dataset"] == "toy"


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_student_trains_on_the_images_that_it_samples(steps):
    stage = distillation_of(steps)
    labels, count = np.arange(8) % CLASSES, 8
    made = stage._make(stage.model, labels, 3, steps - 1)
    inputs = prepare_decoding(stage.model, labels, np.arange(count), stage.sampling, 3)
    assert made.tokens.equal(inputs.result())


def test_validation_is_of_the_averaged_student_and_changes_nothing():
    stage = distillation_of(2, ema_decay=0.5)
    for step in range(6):
        stage.train_step(step)
    before = copy.deepcopy(stage.state_dict())
    found = stage.validate()
    assert stage.validate() == found
    for name in ("model", "auxiliary", "ema"):
        for weight, value in stage.state_dict()[name].items():
            assert torch.equal(value, before[name][weight]), weight
    with torch.no_grad():
        next(stage.model.parameters()).zero_()
    assert stage.validate() == found
    with torch.no_grad():
        next(stage.ema.module.parameters()).zero_()
    assert stage.validate() != found


def test_a_family_without_a_null_class_is_distilled_without_guidance(monkeypatch):
    monkeypatch.setattr(TransformerConfig, "null_class", None)
    stage = distillation_of(teacher_guidance=0.0)
    assert stage._num_labels == CLASSES
    assert stage.train_step(0)["skipped"] == 0


def test_bfloat16_is_close_to_float32():
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        stage = distillation_of()
        stage.precision = precision
        losses.append(stage.train_step(0)["auxiliary"].item())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_clipping_limits_the_step():
    sizes = {}
    for limit in (0.0, 1e-4):
        stage = distillation_of(grad_clip=limit)
        captured = []
        stage.optimizer.register_step_pre_hook(
            lambda *_, stage=stage, captured=captured: captured.append(
                sum(p.grad.square().sum().item() for p in stage.model.parameters()) ** 0.5
            )
        )
        stage.train_step(0)
        sizes[limit] = captured[0]
    assert sizes[1e-4] == pytest.approx(1e-4, rel=0.01)
    assert sizes[0.0] > 1e-3
