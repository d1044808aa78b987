"""The host never waits for the device inside a step: proven on the operations, without a GPU.

A read of a tensor's value (`item`, a branch on a tensor, boolean indexing, a copy to the host)
waits for everything that was queued before it. Under these modes each of them is an error.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from tiny_stages import CLASSES, L, make_distillation, make_stage, token_set
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from metrics.extractor import Extractor
from metrics.likelihood_bound import Bounder
from models.predictors import prepare_decoding
from models.samplers import SAMPLERS
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from training import distillation
from training.config import OPTIMIZERS, LoopConfig, VQGANTrainingConfig
from training.loop import LOG_EVERY, Loop
from training.run_folder import RunFolder
from training.stage import Position
from training.tracking import Trackers
from training.vqgan_stage import VQGANStage

WAITING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


COPIES = (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist)


class NoCopies(TorchFunctionMode):
    """Sees what leaves no operation behind where the device is the host."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in COPIES, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


class NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in WAITING, f"{func} waits for the device"
        indices = args[1] if func is torch.ops.aten.index.Tensor else ()
        boolean = [i for i in indices if i is not None and i.dtype == torch.bool]
        assert not boolean, "boolean indexing waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting():
    with NoReads(), NoCopies():
        yield


@pytest.mark.parametrize("read", [torch.Tensor.item, torch.Tensor.nonzero, bool, *COPIES])
def test_the_modes_catch_reads(read):
    value = torch.ones(1)
    with pytest.raises(AssertionError, match="waits"), no_waiting():
        read(value)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_the_transformer(optimizer):
    stage = make_stage(dropout=0.1, grad_accum=2, optimizer=optimizer)
    stage.train_step(0)
    with no_waiting():
        stage.train_step(1)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("imitation", [0, 100])
def test_distilling(monkeypatch, steps, imitation):
    monkeypatch.setattr(distillation, "IMITATION", imitation)
    stage = make_distillation(make_stage().model, steps)
    stage.train_step(0)
    with no_waiting():
        stage.train_step(1)


def test_the_loop_first_waits_when_it_logs(tmp_path):
    stage = make_stage(token_set(8 * 2 * LOG_EVERY))
    stage.train_step(0)
    position = Position(step=1)  # before the first step a state is saved
    config = LoopConfig(1, stage.images_per_step, 1, keep_checkpoints=0)
    with pytest.raises(AssertionError, match="waits"), no_waiting():
        Loop(stage, config, RunFolder(tmp_path, "toy"), Trackers(), position).train()
    assert position.step == LOG_EVERY


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
        device=torch.device("cpu"), precision=torch.float32, checkpoint_entries={},
    )  # fmt: skip
    stage.train_step(0)
    with no_waiting():
        stage.train_step(1)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("count", [3, 9])
def test_decoding(sampler, count):
    model, config = make_stage().model.eval(), SamplingConfig(num_steps=4, sampler=sampler)
    with no_waiting():
        prepare_decoding(
            model, np.arange(count) % CLASSES, np.arange(count), config, seed=0
        ).result()


def test_bounding_the_likelihood_first_waits_for_its_result():
    stage = make_stage()
    bounder = Bounder(stage.model.eval(), stage.validation_tokens, 2, 0, torch.float32, 4)
    tokens, labels = stage.validation_tokens.take(np.arange(4)), torch.arange(4) % CLASSES
    masks = np.arange(4 * L).reshape(4, L) % 3 == 0
    with no_waiting(), torch.no_grad():
        gain = bounder._gain(tokens, labels, torch.zeros(4, L), masks)
    assert gain.shape == (4,)


def test_starting_the_network_of_features():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 5))
    extractor = Extractor("net", "", lambda pixels: net(pixels.float()), torch.device("cpu"), True)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    with no_waiting():
        read = extractor.start(images)
    assert read().features.equal(extractor(images).features)
