"""Flat images are as exact as any: the networks against themselves in float64."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_FASHION_MNIST, write_real_subset

from data.open_dataset import open_dataset
from models.open import load_tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.discriminator import PatchDiscriminator
from models.vqgan.network import GroupNorm, VQModel
from utils.pictures import from_uint8

BUNDLED = Path(__file__).parents[2] / "models" / "pretrained" / "VQGAN_fashionmnist.pt"
SIDE = 32
SMALL = 3e-4  # relative errors of float32 are some 1e-5; torch's own norm makes it 0.1


def flat(level):
    return np.full((SIDE, SIDE), level, np.uint8)


def halves(level):
    return np.where(np.arange(SIDE) < SIDE // 2, level, 255 - level)[None].repeat(SIDE, 0)


def dot(row, column):
    image = flat(0)
    image[row, column] = 255
    return image


IMAGES = {
    "flat": [flat(level) for level in range(0, 256, 51)],
    "half-flat": [halves(level) for level in range(0, 256, 64)],
    "one dot": [dot(row, row) for row in range(4, 30, 9)],
    "noise": list(np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE))),
}
SHAPES = {
    "default": {},
    "no attention": {"attn_resolutions": (), "num_res_blocks": 1, "channels": 32},
    "one level": {"ch_mult": (1,), "channels": 32, "z_channels": 8, "num_res_blocks": 1},
    "wide": {"channels": 96, "ch_mult": (1, 1), "attn_resolutions": (32,)},
}


def pixels(images):
    return from_uint8(torch.from_numpy(np.stack(images).astype(np.uint8))[:, None])


def relative_error(found, exact):
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()


@pytest.fixture(scope="module", params=SHAPES)
def models(request):
    """A network in the layout of the program, and the same in float64."""
    torch.manual_seed(0)
    model = VQModel(VQGANConfig(**SHAPES[request.param])).eval()
    exact = copy.deepcopy(model).double()
    return model.to(memory_format=torch.channels_last), exact


@pytest.mark.parametrize("kind", IMAGES)
@torch.no_grad()
def test_latents_and_reconstructions_are_exact(models, kind):
    model, exact = models
    images = pixels(IMAGES[kind])
    latents = exact.latents(images.double())
    found = model.latents(images.to(memory_format=torch.channels_last))
    # Flat images leave rounding errors alone to be normalized.
    assert relative_error(found, latents) < SMALL
    tokens = exact.quantize.tokens(latents.permute(0, 2, 3, 1))
    assert relative_error(model.decode_tokens(tokens), exact.decode_tokens(tokens)) < SMALL


@pytest.mark.parametrize("kind", ["flat", "one dot"])
def test_training_and_the_discriminator_see_the_exact_values_too(kind):
    torch.manual_seed(0)
    model = VQModel(VQGANConfig(channels=32, num_res_blocks=1, attn_resolutions=()))
    critic = PatchDiscriminator(1, 32, 2)
    images = pixels(IMAGES[kind][:4])
    gradients, judged = [], []
    for dtype in (torch.float64, torch.float32):
        network, judge = copy.deepcopy(model).to(dtype), copy.deepcopy(critic).to(dtype)
        if dtype == torch.float32:  # as training lays them out
            network.to(memory_format=torch.channels_last)
            judge.to(memory_format=torch.channels_last)
        batch = images.to(dtype)
        batch = batch.contiguous(memory_format=torch.channels_last)
        network.latents(batch).square().mean().backward()
        gradients.append(network.encoder.conv_in.weight.grad)
        judged.append(judge(batch).detach())
    assert relative_error(gradients[1], gradients[0]) < SMALL
    assert relative_error(judged[1], judged[0]) < SMALL


def test_a_group_far_from_zero_is_normalized_exactly():
    generator = torch.Generator().manual_seed(0)
    x = 1 + 0.01 * torch.randn(4, 64, 16, 16, generator=generator)
    norm = GroupNorm(32, 64, eps=1e-6)
    exact = copy.deepcopy(norm).double()(x.double())
    laid_out = x.to(memory_format=torch.channels_last)
    found = norm(laid_out)
    assert relative_error(found, exact) < 1e-5
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(torch.nn.functional.group_norm(laid_out, 32, eps=1e-6), exact) > 1e-3


@torch.no_grad()
def test_the_bundled_tokenizer_gives_no_wrong_token_whatever_the_batch(tmp_path):
    tokenizer = load_tokenizer(BUNDLED)
    exact = copy.deepcopy(tokenizer.network).to(memory_format=torch.contiguous_format).double()
    images = [image for kind in ("flat", "half-flat", "one dot") for image in IMAGES[kind]]
    if REAL_FASHION_MNIST.is_dir():
        dataset = open_dataset(
            "fashionmnist", "validation", write_real_subset(tmp_path, 10, 8), SIDE, download=False
        )
        images += [dataset[index][0][0].numpy() for index in range(8)]
    batch = pixels(images)
    latents = exact.latents(batch.double())
    distances = torch.cdist(latents.flatten(2).mT, exact.quantize.codes[None])  # (B, L, K)
    one_by_one = torch.cat([tokenizer.encode(image[None]) for image in batch])
    for tokens in (tokenizer.encode(batch), one_by_one):
        chosen = distances.gather(2, tokens.flatten(1)[..., None])[..., 0]
        # Of two codes that are equally near, rounding chooses.
        assert (chosen - distances.amin(2) < SMALL * latents.abs().max()).all()
    laid_out = batch.contiguous(memory_format=torch.channels_last)
    assert relative_error(tokenizer.network.latents(laid_out), latents) < SMALL
