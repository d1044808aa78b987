"""bfloat16 stays close to float32, in decoding and in training, on real Fashion-MNIST."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_FASHION_MNIST

from data.open_dataset import open_dataset
from data.token_set import TokenSet
from models.maskgit.config import TransformerConfig
from models.open import load_tokenizer
from training.config import TrainingConfig
from training.transformer_stage import MaskGITStage
from utils.device import autocast
from utils.pictures import from_uint8

CPU = torch.device("cpu")
BUNDLED = Path(__file__).parents[1] / "models" / "pretrained" / "VQGAN_fashionmnist.pt"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REAL_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
    ),
]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """The bundled tokenizer and the tokens of the first 500 test images."""
    folder = tmp_path_factory.mktemp("none")
    dataset = open_dataset("fashionmnist", "validation", folder, 32, download=False)
    images = from_uint8(torch.stack([dataset[i][0] for i in range(500)]))
    labels = np.array([int(dataset[i][1]) for i in range(500)])
    tokenizer = load_tokenizer(BUNDLED, 32, 1, {})
    return tokenizer, labels, tokenizer.encode(images).flatten(1)


def test_bfloat16_decodes_the_same_images(encoded):
    tokenizer, _, tokens = encoded
    exact = tokenizer.decode(tokens[:40])
    with autocast(CPU, torch.bfloat16):
        rounded = tokenizer.decode(tokens[:40])
    assert (exact - rounded).abs().mean() < 0.01


def test_bfloat16_learns_as_float32_does(encoded):
    tokenizer, labels, tokens = encoded
    token_set = TokenSet(tokens.numpy().astype(np.uint16)[None], labels)
    config = TransformerConfig(
        tokenizer.codebook_size, 10, 64, hidden_dim=64, heads=4, depth=2, mlp_dim=128, dropout=0
    )
    curves = []
    for precision in (torch.float32, torch.bfloat16):
        stage = MaskGITStage(
            config,
            TrainingConfig(epochs=5, batch_size=25, lr=2e-3, warmup_epochs=1),
            token_set,
            token_set,
            device=CPU,
            precision=precision,
            checkpoint_entries={},
            preview=lambda model, path: None,
        )
        curves.append([stage.train_step(step)["loss"].item() for step in range(100)])
    exact, rounded = np.array(curves)
    assert exact[:20].mean() - exact[-20:].mean() > 0.4
    assert np.abs(exact - rounded).max() < 0.05
    assert abs(exact[-20:].mean() - rounded[-20:].mean()) < 0.01
