"""The host never waits for the device inside a step: proven on the operations, without a GPU.

A read of a tensor's value (`item`, a branch on a tensor, boolean indexing) waits for everything
that was queued before it. Under this mode each of them is an error.
"""

import numpy as np
import pytest
import torch
from test_stage2_training import make_stage
from torch.utils._python_dispatch import TorchDispatchMode

from models.maskgit.config import SamplingConfig
from models.maskgit.sampling import sample_tokens
from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from models.vqgan.training import VQGANStage

WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in WAITING, f"{func} waits for the device"
        indices = args[1] if func is torch.ops.aten.index.Tensor else ()
        boolean = [i for i in indices if i is not None and i.dtype == torch.bool]
        assert not boolean, "boolean indexing waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("read", [torch.Tensor.item, torch.Tensor.nonzero, bool])
def test_the_mode_catches_reads(read):
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        read(torch.ones(1))


def test_training_the_transformer():
    stage = make_stage(dropout=0.1, grad_accum=2)
    stage.train_step(0)
    with NoWaiting():
        stage.train_step(1)


def test_training_the_vqgan():
    config = VQGANConfig(
        image_size=8, channels=32, z_channels=4, ch_mult=(1, 1), num_res_blocks=1,
        attn_resolutions=(), n_embed=8, embed_dim=4,
    )  # fmt: skip
    training = VQGANTrainingConfig(
        epochs=1, batch_size=4, perceptual_weight=0, disc_start=0, revive_every=1, disc_channels=32
    )
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    stage = VQGANStage(
        config, training, lambda epoch, first: iter([images] * 9), lambda: iter([images]), 9,
        device=torch.device("cpu"), precision=torch.float32, describe={},
    )  # fmt: skip
    stage.train_step(0)
    with NoWaiting():
        stage.train_step(1)


def test_decoding():
    model = make_stage().model.eval()
    with NoWaiting():
        sample_tokens(model, np.arange(3), np.arange(3), SamplingConfig(num_steps=4), seed=0)
