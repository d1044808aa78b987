"""Datasets of every kind, from their true files through the real command line to samples.

tests/data/test_datasets.py reads the images of all of them.
"""

import numpy as np
import pytest
import torch
import toy_families
from conftest import TINY_TRANSFORMER
from dataset_files import WRITERS, class_names, palette, trust_tiny_files
from toy_families import GrayConfig, GrayNetwork

from data.datasets import DATASETS
from data.open_dataset import open_dataset
from data.spec import VIEWS
from data.token_cache import cached_tokens
from MaskGIT import main
from models.tokenizer import Tokenizer
from utils.checkpoint import save_checkpoint

PER_CLASS = 2
# Gray; several findings or none; under two and four flips; one file for each image.
KINDS = ("mnist", "chestmnist", "cifar10", "bloodmnist", "celeba")


@pytest.fixture(params=KINDS)
def dataset(request, tmp_path, monkeypatch):
    """The name of a dataset whose tiny files lie in `tmp_path / "data"`."""
    trust_tiny_files(monkeypatch)
    WRITERS[request.param](tmp_path / "data", PER_CLASS)
    return request.param


def test_every_cached_row_shows_the_color_of_its_label(dataset, tmp_path):
    """The cache is decoded by a tokenizer that any eye could check: a token is a color."""
    spec = DATASETS[dataset]
    names = class_names(dataset)
    colors = torch.tensor(palette(len(names), spec.channels)).view(len(names), -1)

    def encode(pixels):
        middle = pixels[:, :, pixels.shape[2] // 2, pixels.shape[3] // 2]  # (B, C)
        return torch.cdist(middle.double(), colors.double()).argmin(1, keepdim=True)

    for split in ("train", "validation"):
        images = open_dataset(dataset, split, tmp_path / "data", download=False)
        tokens = cached_tokens(
            images, split, encode, 1, {"dataset": dataset}, tmp_path / "cache",
            codebook_size=len(names), batch_size=16, num_workers=0,
        )  # fmt: skip
        assert tokens.num_views == (VIEWS[spec.flips] if split == "train" else 1)
        every = np.arange(len(tokens))
        labels = tokens.classes(every, np.random.default_rng(0))
        shown = [names[token] for token in tokens.tokens[0, every, 0]]
        assert shown == [images.class_names[label] for label in labels]
        assert split == "validation" or set(shown) == set(names)


@pytest.mark.slow
def test_training_and_sampling_every_class_at_the_default_size(dataset, tmp_path, monkeypatch):
    spec = DATASETS[dataset]
    toy_families.register(monkeypatch)
    config = GrayConfig((spec.size, spec.size), spec.channels)
    tokenizer = tmp_path / "toy.pt"
    save_checkpoint(tokenizer, "vqgan", {"tokenizer": Tokenizer(GrayNetwork(config)).entry()})
    num_classes = len(class_names(dataset))
    main(
        f"--train --sample --dataset {dataset} --checkpoint_vae {tokenizer} --no_wandb "
        f"--data_dir {tmp_path / 'data'} --output_dir {tmp_path / 'runs'} --n_epochs 1 "
        f"--batch_size 50 --num_samples {num_classes} --step 2 {TINY_TRANSFORMER}".split()
    )
    with np.load(tmp_path / "runs" / dataset / "samples" / "samples.npz") as stored:
        assert stored["arr_0"].shape == (num_classes, spec.size, spec.size, spec.channels)
        assert stored["arr_1"].tolist() == list(range(num_classes))
