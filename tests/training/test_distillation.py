"""Distillation, against formulas and a slow loop over images and tokens."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_stages import CLASSES, K, L, make_distillation, make_stage

from models.maskgit.config import TransformerConfig
from models.masking import masks_of_ratio
from models.modern.config import ModernConfig
from models.open import new_transformer
from models.predictors import prepare_decoding
from models.schedules import MASK_SCHEDULES
from training import distillation
from training.distillation import (
    DistillationStage,
    Predictions,
    StudentImages,
    divergence,
    entropy,
    imitation_loss,
    student_loss,
    student_settings,
)
from utils.errors import FieldError
from utils.plain import to_plain
from utils.seeding import derive_seed, rng

# --- The losses ---


def made_and_compared() -> tuple[StudentImages, Predictions]:
    """Two images of three tokens out of four; one token was there before the last step."""
    torch.manual_seed(0)
    at = torch.tensor([0, 2, 4])
    made = StudentImages(
        logits=torch.randn(2, 3, 4, requires_grad=True),
        start=torch.zeros(2, 3, dtype=torch.int64),
        tokens=torch.tensor([[0, 1, 2], [3, 0, 1]]),
        drawn=torch.tensor([[True, True, False], [True, True, True]]),
        labels=torch.tensor([0, 1]),
    )
    auxiliary = torch.randn(3, 4, requires_grad=True).log_softmax(-1)
    teacher = torch.randn(3, 4).log_softmax(-1)
    return made, Predictions(at, made.tokens.flatten()[at], teacher, auxiliary)


def test_the_student_gets_the_gradient_that_the_divergence_has_by_the_auxiliary_logits():
    made, compared = made_and_compared()
    student_loss(made, compared).backward()
    logits = compared.auxiliary.detach().clone().requires_grad_()
    F.kl_div(logits.log_softmax(-1), compared.teacher, reduction="sum", log_target=True).backward()
    expected = torch.zeros(6, 4)
    ours = [0, 4]  # of the hidden positions 0, 2 and 4 the second was not drawn at this step
    expected[ours] = logits.grad[[0, 2]] / 2
    assert torch.allclose(made.logits.grad.flatten(0, 1), expected, atol=1e-6)


def test_a_student_that_drew_none_of_the_hidden_tokens_learns_nothing_of_them():
    made, compared = made_and_compared()
    loss = student_loss(made._replace(drawn=torch.zeros_like(made.drawn)), compared)
    loss.backward()
    assert loss.item() == 0
    assert not made.logits.grad.any()


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
    """A transformer that has learned something, so that guidance changes its predictions."""
    stage = make_stage()
    for step in range(40):
        stage.train_step(step)
    return stage.ema.module


def distillation_of(steps: int = 1, **changes: Any) -> DistillationStage:
    return make_distillation(teacher(), steps, **changes)


Gradients = dict[str, dict[str, torch.Tensor]]


def gradients_of_a_step(stage: DistillationStage) -> tuple[Gradients, dict[str, torch.Tensor]]:
    """Train one step: the gradients that both optimizers saw, by network and name; its metrics."""
    captured: Gradients = {}
    for kind, optimizer in (
        ("model", stage.optimizers["optimizer"]),
        ("auxiliary", stage.optimizers["auxiliary_optimizer"]),
    ):
        parameters = dict(getattr(stage, kind).named_parameters())
        optimizer.register_step_pre_hook(
            lambda *_, kind=kind, parameters=parameters: captured.update(
                {kind: {name: p.grad.clone() for name, p in parameters.items()}}
            )
        )
    return captured, stage.train_step(0)


def losses_by_hand(stage: DistillationStage, imitates: bool) -> tuple[torch.Tensor, ...]:
    """The losses of student and auxiliary model, and their divergence, at step 0, token by token.

    Equal draws, then one image and one position after the other, as the paper states them.
    """
    training, count = stage.training, stage.training.batch_size
    draws = rng(training.seed, "student", 0)
    labels = draws.integers(0, CLASSES + 1, count)
    steps_before = int(draws.integers(training.num_steps))
    series = derive_seed(training.seed, "student's noise", 0)
    made = stage._make(stage.model, labels, series, 0 if imitates else steps_before)
    progress = draws.random(count)
    masks = masks_of_ratio(draws, MASK_SCHEDULES["arccos"](progress), L)
    empty_labels = draws.integers(0, CLASSES + 1, count // 8)

    def predict(network: torch.nn.Module, tokens: torch.Tensor, label: int) -> torch.Tensor:
        return network(tokens[None], torch.tensor([label]))[0].double()

    def teach(tokens: torch.Tensor, label: int, so_far: float) -> torch.Tensor:
        weight = training.teacher_guidance * (so_far if training.guidance_rises else 1)
        with torch.no_grad():
            plain, null = (predict(teacher(), tokens, of) for of in (label, CLASSES))
            guided = plain + weight * (plain - null)
            return (training.teacher_logit_scale * guided).softmax(-1)

    def imitation(tokens: torch.Tensor, label: int, so_far: float) -> torch.Tensor:
        student = predict(stage.model, tokens, label).log_softmax(-1)
        return -(teach(tokens, label, so_far) * student).sum(-1).mean()

    of_student, of_auxiliary, apart = [], [], []
    images = zip(made.tokens, labels, torch.from_numpy(masks), progress, strict=True)
    for image, label, mask, so_far in images:
        seen = torch.where(mask, K, image)
        judged = predict(stage.auxiliary, seen, label).log_softmax(-1)
        taught = teach(seen, label, so_far)
        push = judged.detach().exp() - taught
        apart.append((taught * (taught.log() - judged))[mask].sum())
        index = len(of_auxiliary)
        of_auxiliary.append(-judged[mask].gather(1, image[mask][:, None]).sum())
        ours = mask & made.drawn[index]
        of_student.append((made.logits[index][ours] * push[ours]).sum())
    hidden = torch.from_numpy(masks)
    empty = torch.full((L,), K)
    loss = torch.stack([imitation(empty, label, 0) for label in empty_labels]).mean()
    if imitates:
        starts = zip(made.start, labels, strict=True)
        answers = [imitation(start, label, training.start_share) for start, label in starts]
        loss = loss + torch.stack(answers).mean()
    else:
        loss = loss + torch.stack(of_student).sum() / (hidden & made.drawn).sum()
    return loss, *(torch.stack(each).sum() / hidden.sum() for each in (of_auxiliary, apart))


@pytest.mark.parametrize("imitates", [True, False])
@pytest.mark.parametrize(("steps", "rises"), [(1, False), (1, True), (2, False)])
def test_a_step_has_the_gradients_of_the_losses_by_hand(monkeypatch, steps, rises, imitates):
    monkeypatch.setattr(distillation, "IMITATION", int(imitates))
    teaching = {"teacher_guidance": 1.5, "guidance_rises": rises, "teacher_logit_scale": 1.2}
    stage = distillation_of(steps, **teaching, grad_clip=0.0)
    with torch.no_grad():  # so that the auxiliary model is not the teacher
        stage.auxiliary.output_bias.add_(torch.randn(stage.auxiliary.output_bias.shape))
    *losses, apart = losses_by_hand(stage, imitates)
    networks = {"model": stage.model, "auxiliary": stage.auxiliary}
    expected = {
        kind: torch.autograd.grad(loss, list(network.parameters()))
        for loss, (kind, network) in zip(losses, networks.items(), strict=True)
    }
    found, metrics = gradients_of_a_step(stage)
    assert not any(value.requires_grad for value in metrics.values())
    assert metrics["loss"].item() == pytest.approx(apart.item(), rel=1e-4)
    assert metrics["auxiliary"].item() == pytest.approx(losses[1].item(), rel=1e-4)
    for kind, gradients in expected.items():
        for (name, gradient), exact in zip(found[kind].items(), gradients, strict=True):
            assert (gradient - exact).norm() < 1e-4 * largest(gradients), f"{kind} {name}"


def largest(gradients: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return max(gradient.norm() for gradient in gradients)


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


def test_every_step_and_every_seed_has_labels_and_noise_of_its_own(monkeypatch):
    labels, noise = set(), set()
    for seed in (0, 1):
        stage = distillation_of(seed=seed)
        make = stage._make

        def note(student, drawn, series, before, make=make):
            labels.add(tuple(drawn))
            noise.add(series)
            return make(student, drawn, series, before)

        monkeypatch.setattr(stage, "_make", note)
        for step in range(2):
            stage.train_step(step)
    assert len(labels) == len(noise) == 4


@pytest.mark.parametrize(("most", "in_epoch"), [(2, 100), (100, 10)])  # or 5 % of four epochs
def test_at_first_the_student_imitates_at_the_rate_of_the_auxiliary_model(
    monkeypatch, most, in_epoch
):
    monkeypatch.setattr(distillation, "IMITATION", most)
    monkeypatch.setattr(distillation, "UPDATES_PER_EPOCH", in_epoch)
    stage, rates = distillation_of(), []
    for step in range(4):
        stage.train_step(step)
        rates.append([one.param_groups[0]["lr"] for one in stage.optimizers.values()])
    student, auxiliary = stage.training.lr, stage.training.auxiliary_lr
    peaks = [[auxiliary, auxiliary]] * 2 + [[student, auxiliary]] * 2
    shares = [stage.learning_rate(step) / student for step in range(4 * in_epoch)]
    assert rates == pytest.approx(np.multiply(peaks, np.array(shares[:4])[:, None]))
    assert shares.index(1) == 0.05 * len(shares)  # the end of the warm-up
    assert 0 < shares[-1] < 0.01


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
    assert not any(value.requires_grad for value in stage._teacher.parameters())
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
    said = stage.train_step(6)
    assert said["skipped"] == 1
    assert not said["loss"].isfinite()
    assert all(value.isfinite() for name, value in said.items() if name != "loss")
    for name in ("model", "auxiliary"):
        for weight, value in stage.state_dict()[name].items():
            assert torch.equal(value.nan_to_num(7), before[name][weight].nan_to_num(7)), weight


@pytest.mark.parametrize("network", ["model", "auxiliary"])
def test_a_gradient_that_is_not_finite_is_skipped_and_told(network):
    stage = distillation_of()
    assert stage.train_step(0)["skipped"] == 0
    before = copy.deepcopy(stage.state_dict())
    getattr(stage, network).output_bias.register_hook(lambda gradient: gradient * torch.inf)
    said = stage.train_step(1)
    assert said["skipped"] == 1
    assert said["gradient_norm"] == 0
    assert all(said[name].isfinite() and said[name] > 0 for name in ("loss", "auxiliary"))
    for name in ("model", "auxiliary"):
        for weight, value in stage.state_dict()[name].items():
            assert torch.equal(value, before[name][weight]), weight


def test_a_loss_that_is_not_finite_is_skipped_though_the_gradients_are(monkeypatch):
    stage = distillation_of()
    before = copy.deepcopy(stage.model.state_dict())
    monkeypatch.setattr(distillation, "divergence", lambda compared: torch.tensor(torch.inf))
    said = stage.train_step(0)
    assert said["skipped"] == 1
    assert {name for name, value in said.items() if not value.isfinite()} == {"loss"}
    assert all(value.equal(before[name]) for name, value in stage.model.state_dict().items())


def test_a_checkpoint_tells_what_the_student_is_made_for():
    contents = distillation_of(2).checkpoint(5)
    settings = student_settings(2)
    assert settings.num_steps == 2
    assert settings.guidance == 0
    assert settings.start_share > 0
    assert contents["made_for"] == to_plain(settings)
    share = distillation_of(2, start_share=0.5).checkpoint(5)["made_for"]["start_share"]
    assert share == 0.5
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


def test_validation_is_the_mean_over_batches_of_whole_images(monkeypatch):
    stage, made, compared = distillation_of(2), [], []
    for name, kept in (("_make", made), ("_compare", compared)):
        call = getattr(stage, name)
        monkeypatch.setattr(
            stage, name, lambda *a, call=call, kept=kept: kept.append(call(*a)) or kept[-1]
        )
    found = stage.validate()
    for drawn in ("labels", "tokens"):
        assert len({tuple(getattr(one, drawn).flatten().tolist()) for one in made}) == len(made) > 1
    assert {count for one in made for count in one.drawn.sum(1).tolist()} == {6}  # the last step
    assert {label for one in made for label in one.labels.tolist()} == {*range(CLASSES + 1)}
    assert not any(one.auxiliary.requires_grad for one in compared)
    assert found["loss"] == pytest.approx(np.mean([divergence(one).item() for one in compared]))
    assert found["entropy"] == pytest.approx(np.mean([entropy(one).item() for one in made]))


def test_averaged_weights_follow_the_formula():
    stage = distillation_of(ema_decay=0.15)
    expected = copy.deepcopy(stage.model.state_dict())
    for step in range(3):
        stage.train_step(step)
        decay = min(0.15, (1 + step) / (10 + step))
        for name, value in stage.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in stage.ema.module.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_no_network_drops_anything():
    stage = make_distillation(make_stage(dropout=0.5).model)
    for network in (stage.model, stage.auxiliary, stage._teacher, stage.ema.module):
        assert not any(module.training for module in network.modules())


def test_a_family_without_a_null_class_is_distilled_without_guidance(monkeypatch):
    monkeypatch.setattr(TransformerConfig, "null_class", None)
    stage = distillation_of(teacher_guidance=0.0)
    assert stage.config.num_labels == CLASSES
    assert stage.train_step(0)["skipped"] == 0


def test_bfloat16_is_close_to_float32():
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        stage = distillation_of()
        stage.precision = precision
        losses.append(stage.train_step(0)["auxiliary"].item())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_logits_are_float32_in_every_family():
    modern = new_transformer(ModernConfig(K, CLASSES, (3, 3), hidden_dim=8, depth=1, mlp_dim=8))
    stage = make_distillation(modern, precision=torch.bfloat16)
    assert stage._make(stage.model, np.arange(3), 0, 0).logits.dtype == torch.float32


def test_clipping_limits_the_step():
    sizes = {}
    for limit in (0.0, 1e-4):
        stage = distillation_of(grad_clip=limit)
        captured = []
        stage.optimizers["optimizer"].register_step_pre_hook(
            lambda *_, stage=stage, captured=captured: captured.append(
                sum(p.grad.square().sum().item() for p in stage.model.parameters()) ** 0.5
            )
        )
        stage.train_step(0)
        sizes[limit] = captured[0]
    assert sizes[1e-4] == pytest.approx(1e-4, rel=0.01)
    assert sizes[0.0] > 1e-3


def test_an_unknown_optimizer_is_named_by_the_setting_of_distillation():
    with pytest.raises(FieldError, match=r"^`DistillConfig\.optimizer` sgd: .*adamw, muon"):
        distillation_of(optimizer="sgd")
