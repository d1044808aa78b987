"""The steps of a GPU without one: fake tensors know their device and shape but hold no values.

An operation whose tensors are on different devices, or that CUDA does not have, is an error here as
it is there, in backward passes too; and a read of a value (`item`) ends in an error of its own.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from fake_gpu import GPU, differentiate, fake_gpu
from tiny_stages import CLASSES, SHAPE, K, L, make_distillation, make_stage, token_set
from torch._subclasses.fake_tensor import DataDependentOutputException

from metrics.extractor import Extractor
from models.maskgit.config import TransformerConfig
from models.open import new_transformer
from models.predictors import prepare_decoding
from models.samplers import SAMPLERS
from models.sampling import SamplingConfig
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from training import distillation
from training.config import VQGANTrainingConfig
from training.transformer_stage import MaskGITStage
from training.vqgan_stage import VQGANStage
from utils.device import (
    autocast,
    check_works,
    choose_device,
    choose_precision,
    copy_to_host,
    send,
    set_up_device,
    settings_of_torch_kept,
)
from utils.errors import UserError
from utils.processes import ALONE

FP32, BF16 = torch.float32, torch.bfloat16
VQGAN = VQGANConfig(
    image_size=8, channels=32, z_channels=4, ch_mult=(1, 1), num_res_blocks=1,
    attn_resolutions=(4,), n_embed=8, embed_dim=4,
)  # fmt: skip


@pytest.fixture
def on_fake_gpu(needs_fake_gpu) -> Iterator[None]:
    with fake_gpu():
        yield


def test_the_mode_catches_what_a_gpu_would(on_fake_gpu):
    with pytest.raises(Exception, match=r"same device|two different devices"):
        torch.ones(3, device=GPU) + torch.ones(3)


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_the_backward_pass_is_that_of_torch(precision):
    model = new_transformer(TransformerConfig(K, CLASSES, L, dropout=0.0, **SHAPE))
    tokens, labels = torch.arange(4 * L).reshape(4, L) % K, torch.arange(4) % CLASSES
    with autocast(torch.device("cpu"), precision):
        loss = model(tokens, labels).square().sum()
    parameters = list(model.parameters())
    expected = torch.autograd.grad(loss, parameters, retain_graph=True)
    found = differentiate([loss], [None], parameters)
    differentiate([loss], [None])  # into `grad`
    for parameter, gradient, theirs in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(gradient, theirs)
        assert gradient.equal(parameter.grad)


def test_one_gpu_is_set_by_its_index(monkeypatch):
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
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
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with torch.backends.cudnn.flags():  # restores them
        set_up_device(GPU, torch.bfloat16, deterministic)
    assert asked == [not deterministic]


def test_a_setting_of_the_environment_that_is_not_deterministic_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: None)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:0:0 is not deterministic"):
        set_up_device(GPU, torch.bfloat16, deterministic=True)


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="before torch 2.9"
)
@pytest.mark.parametrize(
    ("name", "precision"),
    [("cuda.matmul", "tf32"), ("cudnn.conv", "ieee"), ("cudnn", "ieee"), ("", "ieee")],
)
def test_a_caller_may_have_set_tf32_by_its_new_name(monkeypatch, name, precision):
    backends = torch.backends
    owners = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    owner = reduce(getattr, filter(None, name.split(".")), backends)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    owner.fp32_precision = precision
    before = [one.fp32_precision for one in owners]
    try:
        with settings_of_torch_kept():
            torch.set_float32_matmul_precision("high")
            backends.cudnn.allow_tf32 = True
        assert [one.fp32_precision for one in owners] == before
    finally:
        owner.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        backends.cudnn.allow_tf32 = True


def test_a_gpu_whose_driver_is_too_old_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # NVML counts it all the same
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="the driver is too old"):
        choose_device("cuda")


def test_a_gpu_that_does_not_work_is_one_line(monkeypatch):
    text = "CUDA error: no kernel image is available for execution on the device\nIt may be"
    monkeypatch.setattr(torch, "ones", Mock(side_effect=RuntimeError(text)))
    with pytest.raises(UserError) as refused:
        check_works(GPU)
    assert "no kernel image is available for execution on the device)" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_only_modes_that_compute_need_a_device_that_works(run, refused, monkeypatch):
    monkeypatch.setattr("commands.resolve.check_works", Mock(side_effect=UserError("busy")))
    assert "busy" in refused("--sample --checkpoint absent.pt")
    assert "512 codes" in run("--show_plan --dataset fashionmnist")


@pytest.mark.parametrize("as_array", [False, True])
def test_what_is_sent_to_a_gpu_is_in_pinned_memory(on_fake_gpu, monkeypatch, as_array):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    for _ in range(2):
        there = send(np.arange(3) if as_array else torch.arange(3), GPU)
    assert there.device == GPU
    assert send(there, GPU) is there  # only memory of the host can be pinned
    assert len(pinned) == 2


def stage_on_gpu(precision=torch.float32, **training) -> MaskGITStage:
    return make_stage(token_set(views=2), 0.1, device=GPU, precision=precision, **training)


@pytest.mark.parametrize(
    ("grad_accum", "optimizer", "precision"),
    [(1, "adamw", FP32), (2, "adamw", BF16), (1, "muon", BF16)],
)
def test_training_the_transformer(on_fake_gpu, grad_accum, optimizer, precision):
    stage = stage_on_gpu(precision, grad_accum=grad_accum, optimizer=optimizer)
    metrics = stage.train_step(0)
    assert {value.device for value in metrics.values()} == {GPU}
    assert {value.device for value in stage.ema.module.state_dict().values()} == {GPU}


@pytest.mark.parametrize(("start_token", "precision"), [(None, FP32), (-1, BF16)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_decoding(on_fake_gpu, sampler, start_token, precision):
    model = stage_on_gpu().model.eval()
    config = SamplingConfig(num_steps=4, sampler=sampler, start_token=start_token)
    for count in (3, 9):
        labels, indices = np.arange(count) % CLASSES, np.arange(count)
        assert prepare_decoding(model, labels, indices, config, 0, precision).result().device == GPU


@pytest.mark.parametrize(("imitation", "precision"), [(0, BF16), (100, FP32)])
def test_distilling(on_fake_gpu, monkeypatch, imitation, precision):
    monkeypatch.setattr(distillation, "IMITATION", imitation)
    stage = make_distillation(stage_on_gpu().model, 2, device=GPU, precision=precision)
    for step in range(2):
        metrics = stage.train_step(step)
    assert {value.device for value in metrics.values()} == {GPU}


def test_encoding_and_decoding_images(request):
    tokenizer = Tokenizer(VQModel(VQGAN))  # hashed, so it needs its values
    request.getfixturevalue("on_fake_gpu")
    tokenizer.to(GPU)
    tokens = tokenizer.encode_bytes(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert (tokens.device, tokens.shape) == (GPU, (3, 16))
    assert tokenizer.decode_sampled(tokens, FP32).device == GPU


@pytest.mark.parametrize("channels", [1, 3])  # in both layouts one channel is stored alike
def test_the_encoder_has_the_layout_that_is_fast_on_the_device(request, monkeypatch, channels):
    tokenizer = Tokenizer(VQModel(replace(VQGAN, image_channels=channels)))
    encoder, decoder = tokenizer.network.encoder, tokenizer.network.decoder
    are_plain: list[bool] = []
    for name, layer in encoder.named_modules():
        if name.endswith(("conv1", "conv2")):
            layer.register_forward_hook(lambda *args: are_plain.append(args[2].is_contiguous()))
    monkeypatch.setattr(tokenizer.network, "compile_networks", Mock())
    request.getfixturevalue("on_fake_gpu")
    pixels = torch.zeros(3, channels, 8, 8, dtype=torch.uint8)
    tokenizer.to(GPU)
    for is_plain in (True, False):  # without and with the compiler
        tokenizer.encode_bytes(pixels)
        assert set(are_plain) == {is_plain}
        assert encoder.conv_out.weight.is_contiguous() == is_plain
        assert not decoder.conv_in.weight.is_contiguous()
        are_plain.clear()
        tokenizer.compile()


def test_the_features_of_images_come_to_the_host(on_fake_gpu):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 5)).to(GPU)
    extractor = Extractor("net", "", lambda pixels: net(pixels.float()), GPU, needs_color=True)
    read = extractor.start(np.zeros((4, 8, 8, 1), np.uint8))
    with pytest.raises(DataDependentOutputException):  # they have no values that could be finite
        read()
    assert copy_to_host(net(torch.zeros(4, 3, 8, 8, device=GPU)))().device.type == "cpu"


@pytest.mark.parametrize(("grad_accum", "precision"), [(1, FP32), (2, BF16)])
def test_training_the_vqgan(on_fake_gpu, grad_accum, precision):
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
