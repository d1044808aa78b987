"""The steps of a GPU without one: fake tensors know their device and shape but hold no values.

An operation whose tensors are on different devices, or that CUDA does not have, is an error here as
it is there. Backward passes alone need the driver, so that gradients of the right device and shape
stand in for theirs; and a graph of values (`item`) ends in an error of its own.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny_stages import CLASSES, SHAPE, K, L, token_set
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.generate import sample_tokens
from models.maskgit.config import TransformerConfig
from models.samplers import SAMPLERS
from models.sampling import SamplingConfig
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from training.config import TrainingConfig, VQGANTrainingConfig
from training.transformer import MaskGITStage
from training.vqgan import VQGANStage
from utils.device import choose_device, choose_precision, set_up_device
from utils.processes import ALONE

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

GPU = torch.device("cuda", 0)
PRECISIONS = pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
VQGAN = VQGANConfig(
    image_size=8, channels=32, z_channels=4, ch_mult=(1, 1), num_res_blocks=1,
    attn_resolutions=(4,), n_embed=8, embed_dim=4,
)  # fmt: skip


def moved(module: nn.Module, change, recurse=True) -> nn.Module:
    """As Module._apply, which cannot exchange fake parameters."""
    for child in module.children():
        moved(child, change)
    for name, value in module._parameters.items():
        if value is not None:
            module._parameters[name] = nn.Parameter(change(value.detach()), value.requires_grad)
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = change(value)
    return module


def backward(tensors, gradients=None, *_, **__) -> None:
    """Give every parameter that takes part a gradient."""
    for tensor in tensors if isinstance(tensors, list) else [tensors]:
        waiting, seen = [tensor.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                node.variable.grad = torch.zeros_like(node.variable)
            waiting += [following for following, _ in node.next_functions]


def grad(outputs, inputs, *_, **__) -> list[torch.Tensor]:
    return [torch.zeros_like(i) for i in ([inputs] if isinstance(inputs, torch.Tensor) else inputs)]


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if torch.__version__ < (2, 10):
        pytest.skip("before torch 2.10 fake tensors of a GPU need its driver")
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 10**10))
    monkeypatch.setattr(nn.Module, "_apply", moved)
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch.autograd, "backward", backward)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def test_the_mode_catches_what_a_gpu_would(fake_gpu):
    with pytest.raises(Exception, match=r"same device|two different devices"):
        torch.ones(3, device=GPU) + torch.ones(3)


def test_one_gpu_is_set_by_its_index(monkeypatch):
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    with torch.backends.cudnn.flags():  # restores them
        device = ALONE.own_device(choose_device("auto"))
        precision = choose_precision("auto", device)
        set_up_device(device, precision, deterministic=False)
    assert chosen == [device] == [GPU]  # set_device takes none without an index
    assert precision == torch.bfloat16


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_leaves_out_the_attention_that_is_not(monkeypatch, deterministic):
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", asked.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    with torch.backends.cudnn.flags():  # restores them
        set_up_device(GPU, torch.bfloat16, deterministic)
    assert asked == [not deterministic]


def make_stage(precision=torch.float32, **training) -> MaskGITStage:
    return MaskGITStage(
        TransformerConfig(K, CLASSES, L, dropout=0.1, **SHAPE),
        TrainingConfig(batch_size=8, **training),
        token_set(views=2),
        token_set(seed=1),
        device=GPU,
        precision=precision,
        checkpoint_entries={},
        preview=lambda model, path: None,
    )


@PRECISIONS
@pytest.mark.parametrize(("grad_accum", "optimizer"), [(1, "adamw"), (2, "adamw"), (1, "muon")])
def test_training_the_transformer(fake_gpu, grad_accum, optimizer, precision):
    stage = make_stage(precision, grad_accum=grad_accum, optimizer=optimizer)
    metrics = stage.train_step(0)
    assert {value.device for value in metrics.values()} == {GPU}
    assert {value.device for value in stage.ema.module.state_dict().values()} == {GPU}


@PRECISIONS
@pytest.mark.parametrize("start_token", [None, -1])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_decoding(fake_gpu, sampler, start_token, precision):
    model = make_stage().model.eval()
    config = SamplingConfig(num_steps=4, sampler=sampler, start_token=start_token)
    for count in (3, 9):
        labels, indices = np.arange(count) % CLASSES, np.arange(count)
        assert sample_tokens(model, labels, indices, config, 0, precision).device == GPU


def test_encoding_and_decoding_images(request):
    tokenizer = Tokenizer(VQModel(VQGAN))  # hashed, so it needs its values
    request.getfixturevalue("fake_gpu")
    tokenizer.to(GPU)
    tokens = tokenizer.encode_bytes(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert (tokens.device, tokens.shape) == (GPU, (3, 16))
    assert tokenizer.decode(tokens).device == GPU


@PRECISIONS
@pytest.mark.parametrize("grad_accum", [1, 2])
def test_training_the_vqgan(fake_gpu, grad_accum, precision):
    training = VQGANTrainingConfig(
        epochs=1, batch_size=4, perceptual_weight=0, disc_start=0, revive_every=1,
        disc_channels=32, grad_accum=grad_accum,
    )  # fmt: skip
    images = torch.rand(4, 1, 8, 8, device=GPU) * 2 - 1
    stage = VQGANStage(
        VQGAN, training, lambda epoch, first: iter([images] * 9), lambda: iter([images]), 9,
        device=GPU, precision=precision, checkpoint_entries={},
    )  # fmt: skip
    for step in range(2):
        metrics = stage.train_step(step)
    assert {value.device for value in metrics.values()} == {GPU}
