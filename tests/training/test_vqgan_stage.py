import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_stages import BATCHES_PER_EPOCH, CPU, images_of
from tiny_stages import VQGAN as CONFIG
from tiny_stages import make_vqgan_stage as make_stage
from tiny_stages import vqgan_training as make_training
from torch import Tensor

from models.open import load_tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from training.vqgan_losses import (
    Backward,
    Objective,
    adaptive_weight,
    chroma_loss,
    discriminator_loss,
    generator_loss,
)
from utils.checkpoint import save_checkpoint


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_hinge_loss_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss(real, fake).item() == 0.5 * ((0 + 0.5) / 2 + (0 + 2) / 2)
    assert generator_loss(fake).item() == 1.0


def test_the_chroma_loss_sees_colors_and_no_brightness() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert chroma_loss(images + 0.3, images).item() == pytest.approx(0, abs=1e-6)
    redder = images + torch.tensor([0.3, 0.0, 0.0])[:, None, None]
    # Red minus green grows by 0.3, blue minus yellow falls by half of it.
    assert chroma_loss(redder, images).item() == pytest.approx((0.3 + 0.15) / 2)


def test_the_chroma_weight_adds_to_the_loss() -> None:
    config = replace(CONFIG, image_channels=3)
    images, other = torch.rand(2, 2, 3, 16, 16).unbind()
    plain, colorful = (
        Objective(config, make_training(chroma_weight=weight), CPU).judge(other, images, 1.0, False)
        for weight in (0.0, 0.5)
    )
    expected = plain.metrics["loss"] + 0.5 * chroma_loss(other, images)
    assert colorful.metrics["loss"].item() == pytest.approx(expected.item())
    assert not colorful.reconstruction.equal(plain.reconstruction)


def test_a_linear_start_keeps_the_variance_and_silences_the_blocks() -> None:
    torch.manual_seed(0)
    model = VQModel(replace(CONFIG, channels=64, image_channels=3))
    usual = {name: value.clone() for name, value in model.state_dict().items()}
    model.start_linear()
    block = model.decoder.mid.block_1
    x = torch.randn(1, 64, 4, 4)
    assert block(x).equal(x)
    for name in ("encoder.conv_in", "decoder.up.1.upsample.conv", "post_quant_conv"):
        layer = model.get_submodule(name)
        assert layer.weight.equal(usual[f"{name}.weight"] * 3**0.5)
        out = layer(torch.randn(64, layer.in_channels, 16, 16))[:, :, 1:-1, 1:-1]
        assert 0.6 < out.var().item() < 1.7  # about 0.4 with the usual weights


def test_adaptive_weight_by_hand() -> None:
    reconstruction, generator = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert adaptive_weight(reconstruction, generator).item() == pytest.approx(5 / (2 + 1e-4))
    assert adaptive_weight(reconstruction, torch.zeros(2)).item() == 1e4


def test_gradients_are_those_of_the_whole_loss() -> None:
    """Against the loss as the paper writes it, differentiated in one piece."""
    training = make_training(codebook_weight=0.7, disc_weight=0.6)
    torch.manual_seed(0)
    model, objective = VQModel(CONFIG), Objective(CONFIG, training, CPU)
    images = images_of(6)
    assert objective.discriminator is not None
    last_layer = model.decoder.conv_out.weight

    output = model(images)
    nll = (output.images - images).abs().mean()
    generator = -objective.discriminator(output.images).mean()
    nll_gradient = torch.autograd.grad(nll, last_layer, retain_graph=True)[0]
    generator_gradient = torch.autograd.grad(generator, last_layer, retain_graph=True)[0]
    weight = 0.6 * nll_gradient.norm() / (generator_gradient.norm() + 1e-4)
    loss = nll + weight * generator + 0.7 * output.codebook_loss
    expected = torch.autograd.grad(loss, list(model.parameters()))
    real, fake = (objective.discriminator(x) for x in (images, output.images.detach()))
    judging = 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())
    expected_judge = torch.autograd.grad(judging, list(objective.discriminator.parameters()))

    for parts in (1, 4):  # of 2, 2, 2 images, or 6
        model.zero_grad()
        objective.discriminator.zero_grad()
        backward = Backward(model, training, accumulate=parts > 1)
        for part in images.chunk(parts):
            share = len(part) / len(images)
            output = model(part)
            backward.add(output, objective.judge(part, output.images, share, True), share)
        metrics = backward.finish()
        torch.testing.assert_close(metrics["adaptive_weight"], weight)
        torch.testing.assert_close(metrics["loss"], loss.detach())
        found = [parameter.grad for parameter in model.parameters()]
        torch.testing.assert_close(found, list(expected), rtol=1e-3, atol=1e-6)
        judge = [parameter.grad for parameter in objective.discriminator.parameters()]
        torch.testing.assert_close(judge, list(expected_judge), rtol=1e-3, atol=1e-6)


def test_the_discriminator_s_loss_does_not_reach_the_decoder() -> None:
    model, objective = VQModel(CONFIG), Objective(CONFIG, make_training(), CPU)
    images = images_of(2)
    feedback = objective.judge(images, model(images).images, 1.0, True)
    assert objective.discriminator is not None
    assert feedback.generator is not None
    assert all(p.grad is not None for p in objective.discriminator.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_nothing_adversarial_before_disc_start() -> None:
    stage, without = make_stage(), make_stage(disc_weight=0)
    assert stage.objective.discriminator is not None
    assert without.objective.discriminator is None
    judge = weights(stage.objective.discriminator)
    for step in range(2):
        metrics = stage.train_step(step)
        without.train_step(step)
        assert "generator" not in metrics
    assert equal(judge, weights(stage.objective.discriminator))
    assert equal(weights(stage.model), weights(without.model))
    metrics = stage.train_step(2)
    assert metrics["adaptive_weight"] > 0
    assert not equal(judge, weights(stage.objective.discriminator))


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    config = VQGANConfig(**{**vars(CONFIG), "dropout": 0.1})
    whole, first, second = (make_stage(config) for _ in range(3))
    for step in range(7):
        whole.train_step(step)
    for step in range(4):
        first.train_step(step)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for step in range(4, 7):  # from the middle of an epoch
        second.train_step(step)
    for part, network in whole.networks.items():
        assert equal(weights(network), weights(second.networks[part]))
    assert torch.equal(whole.codebook.usage, second.codebook.usage)
    assert str(whole.state_dict()) == str(second.state_dict())


def test_a_broken_batch_changes_no_weight() -> None:
    stage = make_stage()
    for step in range(3):
        stage.train_step(step)
    assert stage.objective.discriminator is not None
    model, judge = weights(stage.model), weights(stage.objective.discriminator)
    stage._images = lambda step: torch.full((4, 1, 16, 16), torch.nan)  # type: ignore[method-assign]
    metrics = stage.train_step(3)  # one that revives codes
    assert metrics["loss"].isnan()
    assert metrics["skipped"] == 1
    assert equal(model, weights(stage.model))
    assert equal(judge, weights(stage.objective.discriminator))


def test_it_learns_and_uses_its_codes() -> None:
    stage = make_stage(lr=2e-3, epochs=20, disc_weight=0, warmup_epochs=0, ema_decay=0.9)
    before = stage.validate()
    for step in range(20 * BATCHES_PER_EPOCH):
        stage.train_step(step)
    after = stage.validate()
    assert after["l1"] < 0.5 * before["l1"]
    assert after["psnr"] > before["psnr"]
    assert after["codebook_usage"] > 0.5
    assert 1 < after["codebook_perplexity"] <= 16
    assert after["loss"] == after["l1"]


def test_the_rate_warms_up_and_falls() -> None:
    stage = make_stage(epochs=10, warmup_epochs=1.0, lr=1.0)
    rates = [stage.learning_rate(step) for step in range(10 * BATCHES_PER_EPOCH)]
    assert rates[0] < rates[2] < rates[3] == 1.0
    assert rates[-1] < 0.01


def test_the_checkpoint_is_the_averaged_tokenizer(tmp_path: Path) -> None:
    stage = make_stage()
    for step in range(3):
        stage.train_step(step)
    path = tmp_path / "VQGAN_waves.pt"
    save_checkpoint(path, "vqgan", stage.checkpoint(3))
    tokenizer = load_tokenizer(path, 16, 1)
    images = images_of(5)
    with torch.no_grad():
        expected = stage.ema.module(images)
    assert torch.equal(tokenizer.encode(images), expected.tokens)
    torch.testing.assert_close(tokenizer.decode(expected.tokens), expected.images.clamp(-1, 1))


def test_the_preview_shows_images_above_reconstructions(tmp_path: Path) -> None:
    make_stage().preview(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (8 * 66 + 2, 2 * 66 + 2)
