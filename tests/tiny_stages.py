"""Stages, token sets and images that are trained on or read in milliseconds."""

import copy
import math
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.spec import AS_IT_IS
from data.token_set import TokenSet
from models.maskgit.config import TransformerConfig
from models.vqgan.config import VQGANConfig
from training.config import DistillConfig, TrainingConfig, VQGANTrainingConfig
from training.distillation import DistillationStage
from training.transformer_stage import MaskGITStage
from training.vqgan_stage import VQGANStage
from utils.processes import ALONE

CPU = torch.device("cpu")
K, L, CLASSES = 16, 9, 3
SHAPE = {"embed_dim": 12, "hidden_dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}


def token_set(count=40, views=1, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    tokens = (labels[None, :, None] * 5 + generator.integers(0, 2, (views, count, L))).astype(
        np.uint16
    )
    return TokenSet(tokens, labels)


def make_stage(
    train=None,
    dropout=0.0,
    processes=ALONE,
    device=CPU,
    precision=torch.float32,
    classes="abc",
    compile_model=False,
    cuda_graphs=False,
    **training,
):
    options = {"epochs": 4, "batch_size": 8, "lr": 1e-2, "warmup_epochs": 0, **training}
    return MaskGITStage(
        TransformerConfig(K, len(classes), L, dropout=dropout, **SHAPE),
        TrainingConfig(**options),
        train or token_set(),
        token_set(seed=1),
        device=device,
        precision=precision,
        checkpoint_entries={"dataset": "toy", "class_names": classes},
        preview=lambda model, path: path.write_text("picture"),
        compile_model=compile_model,
        cuda_graphs=cuda_graphs,
        processes=processes,
    )


def make_distillation(
    teacher: Any, steps: int = 1, device=CPU, precision=torch.float32, **changes: Any
) -> DistillationStage:
    """The distillation of a student from a transformer, which stays as it is."""
    options = {"epochs": 4, "batch_size": 16, "lr": 1e-3, "auxiliary_lr": 3e-3, **changes}
    return DistillationStage(
        copy.deepcopy(teacher),
        DistillConfig(num_steps=steps, **options),
        device=device,
        precision=precision,
        checkpoint_entries={"dataset": "toy"},
        preview=lambda model, path: path.write_text("picture"),
    )


class Images:
    """Gray 4 x 4 images whose only bright column tells their index."""

    class_names, size, preparation = ("a", "b"), (4, 4), AS_IT_IS

    def __init__(self, count=30, num_views=1, fingerprint="v1", findings=False):
        self.count, self.num_views, self.fingerprint = count, num_views, fingerprint
        self.num_flips, self.num_copies = num_views, 1
        self.findings = findings
        self.read = []

    def __len__(self):
        return self.count

    def stamps(self):
        return None

    @property
    def source(self):
        items = SimpleNamespace(labels=[self.label(index) for index in range(self.count)])
        return SimpleNamespace(items=items)

    def label(self, index):
        return [index % 2, 1, 0] if self.findings else index % 7

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        self.read.append(index)
        image = torch.zeros(1, 4, 4, dtype=torch.uint8)
        image[:, :, 0] = index
        return image, self.label(index)

    def copies(self, index, numbers):
        image, label = self[index]
        return image[None], label


VQGAN = VQGANConfig(
    image_size=16,
    channels=32,
    ch_mult=(1, 1),
    num_res_blocks=1,
    attn_resolutions=(),
    z_channels=8,
    embed_dim=4,
    n_embed=16,
)
BATCHES_PER_EPOCH = 3


def images_of(count: int) -> Tensor:
    """Smooth pictures: sums of a few waves."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 4, 4, generator=random)
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear").tanh()


def vqgan_training(**changes: Any) -> VQGANTrainingConfig:
    values = {"perceptual_weight": 0.0, "disc_channels": 8, "disc_start": 2, "epochs": 4}
    return VQGANTrainingConfig(**{**values, "revive_every": 2, **changes})


def make_vqgan_stage(config: VQGANConfig = VQGAN, **changes: Any) -> VQGANStage:
    images = images_of(20)  # the last batch is smaller

    def batches(epoch: int, first_batch: int) -> Iterator[Tensor]:
        torch.rand(1)  # a DataLoader that starts draws from the global generator too
        order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch))
        return iter(images[order].split(8)[first_batch:])

    return VQGANStage(
        config,
        vqgan_training(**changes),
        batches,
        lambda: iter(images.split(8)),
        BATCHES_PER_EPOCH,
        device=CPU,
        precision=torch.float32,
        checkpoint_entries={"dataset": "waves"},
    )


class CountingStage:
    """Adds the step's number to its only weight; can be made to go wrong."""

    name = kind = "maskgit"
    steps_per_epoch = 4
    previews_are_generated = True

    def __init__(self, bad_step=None, signal_step=None, signal_number=signal.SIGTERM, skipped=()):
        self.total = 0
        self.bad_step, self.skipped = bad_step, skipped
        self.signal_step, self.signal_number = signal_step, signal_number
        self.validations, self.losses = 0, {}

    def train_step(self, step):
        if step == self.signal_step:
            os.kill(os.getpid(), self.signal_number)
        is_skipped = step == self.bad_step or step in self.skipped
        self.total += 0 if is_skipped else step
        return {
            "loss": torch.tensor(math.nan if step == self.bad_step else float(step)),
            "skipped": torch.tensor(float(is_skipped)),
        }

    def learning_rate(self, step):
        return 1 / (1 + step)

    def validate(self):
        self.validations += 1
        return {"loss": self.losses.get(self.validations, 10.0 - self.validations)}

    def preview(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("picture")

    def checkpoint(self, step):
        return {"step": step, "total": self.total}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]
