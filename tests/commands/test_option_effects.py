"""Every option that shapes a network or a training reaches its place.

The real command line is resolved to Jobs; nothing is trained. What a stage does with each setting
is tested in tests/training/test_settings.py.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_CODES, TINY_TRANSFORMER, TINY_VQGAN
from PIL import Image

from commands.options import OPTIONS
from commands.parser import parse
from commands.resolve import resolved
from models.open import new_transformer
from models.vqgan.network import VQModel
from training.config import DistillConfig, LoopConfig, TrainingConfig, VQGANTrainingConfig
from utils.checkpoint import load_checkpoint
from utils.errors import UserError

TRAIN = f"--train --dataset mnist --n_epochs 1 --batch_size 4 {TINY_TRANSFORMER}"
TRAIN_VAE = f"--train_vae --dataset mnist --n_epochs_vae 1 {TINY_VQGAN} {TINY_CODES}"

Jobs = dict[str, Any]


@pytest.fixture
def resolve(data_dir, tokenizer_file, trained, tmp_path) -> Callable[[str], Jobs]:
    """Resolve a command line; returns its Jobs by the names of their modes."""
    commands = {
        "train": f"{TRAIN} --checkpoint_vae {tokenizer_file}",
        "train_vae": TRAIN_VAE,
        "distill": f"--distill 1 --checkpoint {trained}/MaskGIT_mnist.pt",
        "both": f"{TRAIN_VAE} {TRAIN}",
        "edit": f"--edit --checkpoint {trained}/MaskGIT_mnist.pt --init_image mnist:0",
    }

    def call(command: str, options: str) -> Jobs:
        common = f"--data_dir {data_dir} --output_dir {tmp_path} --no_wandb"
        line = parse(f"{commands[command]} {common} {options}".split())
        with resolved(line) as jobs:
            return {mode.name: job for mode, job in jobs.items()}

    return call


SETTINGS = [
    ("train", "--n_epochs 3", "epochs", 3),
    ("train", "--batch_size 8", "batch_size", 8),
    ("train", "--optimizer muon", "optimizer", "muon"),
    ("train", "--lr 1e-2", "lr", 1e-2),
    ("train", "--betas 0.5 0.6", "betas", (0.5, 0.6)),
    ("train", "--weight_decay 30", "weight_decay", 30),
    ("train", "--warmup 0", "warmup_epochs", 0),
    ("train", "--drop-label 0.9", "label_drop", 0.9),
    ("train", "--sched_mode root", "schedule", "root"),
    ("train", "--label_smoothing 0.5", "label_smoothing", 0.5),
    ("train", "--grad_clip 1e-4", "grad_clip", 1e-4),
    ("train", "--grad_accum 2", "grad_accum", 2),
    ("train", "--ema_decay 0", "ema_decay", 0),
    ("train", "--seed 5", "seed", 5),
    ("train_vae", "--n_epochs_vae 2", "epochs", 2),
    ("train_vae", "--batch_size_vae 8", "batch_size", 8),
    ("train_vae", "--optimizer_vae muon", "optimizer", "muon"),
    ("train_vae", "--linear_start", "linear_start", True),
    ("train_vae", "--lr_vae 1e-2", "lr", 1e-2),
    ("train_vae", "--betas_vae 0.1 0.2", "betas", (0.1, 0.2)),
    ("train_vae", "--warmup_vae 0", "warmup_epochs", 0),
    ("train_vae", "--grad_accum 2", "grad_accum", 2),
    ("train_vae", "--ema_decay 0", "ema_decay", 0),
    ("train_vae", "--codebook_weight 20", "codebook_weight", 20),
    ("train_vae", "--perceptual_weight 0.5", "perceptual_weight", 0.5),
    ("train_vae", "--perceptual_vgg vgg.pth", "perceptual_vgg", "vgg.pth"),
    ("train_vae", "--disc_weight 0.7", "disc_weight", 0.7),
    ("train_vae", "--disc_start 1", "disc_start", 1),
    ("train_vae", "--seed 5", "seed", 5),
    ("distill", "--distill 2", "num_steps", 2),
    ("distill", "--n_epochs_distill 2", "epochs", 2),
    ("distill", "--batch_size_distill 5", "batch_size", 5),
    ("distill", "--lr_distill 1e-2", "lr", 1e-2),
    ("distill", "--teacher_cfg_w 3", "teacher_guidance", 3),
    ("distill", "--grad_clip 1e-4", "grad_clip", 1e-4),
    ("distill", "--ema_decay 0", "ema_decay", 0),
    ("distill", "--seed 5", "seed", 5),
]
CONFIGS = {"train": TrainingConfig, "train_vae": VQGANTrainingConfig, "distill": DistillConfig}


@pytest.mark.parametrize("mode", CONFIGS)
def test_options_reach_the_settings_of_their_training(resolve, mode):
    settings = [setting for other, *setting in SETTINGS if other == mode]
    training = resolve(mode, " ".join(option for option, *_ in settings))[mode].training
    for option, field, value in settings:
        assert getattr(training, field) == value, option
        assert getattr(CONFIGS[mode](), field) != value, option
        name = option.split()[0].removeprefix("--").replace("-", "_")
        assert name in CONFIGS or mode in OPTIONS[name].modes  # else it would be "no effect here"


@pytest.mark.parametrize(("mode", "config"), CONFIGS.items())
def test_no_option_of_a_training_is_left_out_above(mode, config):
    filled = {f.field for option in OPTIONS.values() for f in option.fills if f.config is config}
    tried = {field for other, _, field, _ in SETTINGS if other == mode}
    tried |= {"chroma_weight"} if mode == "train_vae" else set()  # these images have no colors
    tried |= {"init", "freeze"} if mode != "distill" else set()  # in test_init.py
    assert tried - {"num_steps"} == filled & {field.name for field in fields(config)}


LOOP = "--sample_and_save_freq 2 --keep_checkpoints 1 --publish both --early_stop 7"


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("train", "--n_epochs 5 --batch_size 12"),
        ("train_vae", "--n_epochs_vae 5 --batch_size_vae 12"),
        ("distill", "--n_epochs_distill 5 --batch_size_distill 12"),
    ],
)
def test_options_reach_the_loop_of_every_training(resolve, mode, options):
    loop = resolve(mode, f"{options} {LOOP}")[mode].loop
    assert replace(loop, picture_at=inf) == LoopConfig(5, 12, 2, 1, "both", 7, use_wandb=False)


@pytest.mark.parametrize(
    ("option", "weight", "shape"),
    [
        ("--embed_dim_t 12", "token_embedding.weight", (28, 12)),
        ("--embed_dim_t 16", "first.2.weight", (16, 16)),
        ("--hidden_dim 32", "position_embedding", (65, 32)),
        ("--mlp_dim 24", "blocks.0.mlp.0.weight", (24, 16)),
        ("--depth 2", "blocks.1.attention.qkv.weight", (48, 16)),
    ],
)
def test_options_of_the_transformer_shape_its_weights(resolve, option, weight, shape):
    network = new_transformer(resolve("train", option)["train"].config)
    assert network.state_dict()[weight].shape == shape
    assert ("embedding_map.weight" in network.state_dict()) == (option != "--embed_dim_t 16")


def test_heads_dropout_and_precision_reach_their_place(resolve):
    job = resolve("train", "--heads 4 --dropout_t 0.5 --precision bf16")["train"]
    assert (job.config.heads, job.config.dropout) == (4, 0.5)
    assert job.machine.precision == torch.bfloat16


@pytest.mark.parametrize(
    ("option", "weight", "shape"),
    [
        ("--channels 64", "encoder.conv_in.weight", (64, 1, 3, 3)),
        ("--z_channels 12", "encoder.conv_out.weight", (12, 32, 3, 3)),
        ("--double_z", "encoder.conv_out.weight", (16, 32, 3, 3)),
        ("--double_z", "quant_conv.weight", (8, 16, 1, 1)),
        ("--ch_mult 1,2,1", "encoder.down.1.block.0.conv1.weight", (64, 32, 3, 3)),
        ("--num_res_blocks 2", "encoder.down.2.block.1.conv1.weight", (32, 32, 3, 3)),
        ("--attn_resolutions 8", "encoder.down.2.attn.0.q.weight", (32, 32, 1, 1)),
        ("--n_embed 24", "quantize.embedding.weight", (24, 8)),
        ("--embed_dim 4", "quantize.embedding.weight", (16, 4)),
        ("--size 48", "encoder.conv_in.weight", (32, 1, 3, 3)),
        ("--colorize_nlabels 1", "colorize", (3, 1, 1, 1)),
    ],
)
def test_options_of_the_vqgan_shape_its_weights(resolve, option, weight, shape):
    network = VQModel(resolve("train_vae", option)["train_vae"].config)
    assert network.state_dict()[weight].shape == shape


def test_a_vqgan_without_middle_attention_has_none(resolve):
    with_it, without = (
        VQModel(resolve("train_vae", option)["train_vae"].config).state_dict()
        for option in ("", "--no_middle_attention")
    )
    lacking = {name.split(".attn_1.")[0] for name in with_it.keys() - without.keys()}
    assert lacking == {"encoder.mid", "decoder.mid"}


@pytest.mark.parametrize("groups", [32, 4])
def test_every_normalization_has_the_groups_asked_for(resolve, groups):
    network = VQModel(resolve("train_vae", f"--norm_groups {groups}")["train_vae"].config)
    layers = [layer for layer in network.modules() if isinstance(layer, torch.nn.GroupNorm)]
    assert {layer.num_groups for layer in layers} == {groups}


def test_the_chroma_weight_needs_colors(resolve):
    with pytest.raises(UserError, match=r"`chroma_weight` 0\.5: only images of 3 channels have"):
        resolve("train_vae", "--chroma_weight 0.5")


def test_dropout_and_index_shape_reach_the_vqgan(resolve):
    config = resolve("train_vae", "--dropout 0.5 --sane_index_shape")["train_vae"].config
    assert (config.dropout, config.sane_index_shape) == (0.5, True)


def test_the_size_decides_the_tokens_of_an_image(resolve):
    assert resolve("both", "--size 48")["train"].config.seq_len == 144


def test_the_threshold_of_a_mask_reaches_the_edit(resolve, tmp_path):
    levels = np.tile(np.arange(0, 256, 8, np.uint8), (32, 1))
    Image.fromarray(levels).save(tmp_path / "mask.png")
    mask = resolve("edit", f"--mask_image {tmp_path}/mask.png --mask_threshold 80")["edit"].mask
    assert np.array_equal(mask, levels >= 80)


def test_workers_read_the_same_images(run, tokenizer_file, tmp_path):
    stored = []
    for workers in (0, 2):
        run(
            f"{TRAIN} --checkpoint_vae {tokenizer_file} --run_name w{workers} "
            f"--num_workers {workers} --cache_dir {tmp_path}/cache{workers}"
        )
        (folder,) = (tmp_path / f"cache{workers}").glob("mnist-train-*")
        stored.append(np.load(folder / "tokens.npy"))
    assert (stored[0] == stored[1]).all()


def test_tokens_do_not_depend_on_the_precision(run, tokenizer_file, tmp_path):
    for precision in ("fp32", "bf16"):
        options = f"--run_name {precision} --precision {precision}"
        run(f"{TRAIN} --checkpoint_vae {tokenizer_file} {options}")
    assert len(list((tmp_path / "tokens").glob("mnist-train-*"))) == 1


def test_remap_shrinks_the_alphabet_end_to_end(run, tokenizer_file, tmp_path):
    used = np.array([3, 5, 8, 9, 11])
    np.save(tmp_path / "used.npy", used)
    run(f"{TRAIN} --sample --checkpoint_vae {tokenizer_file} --remap {tmp_path}/used.npy")
    contents = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert contents["config"]["codebook_size"] == 5
    assert contents["weights"]["token_embedding.weight"].shape[0] == 5 + 1 + 10 + 1
    (folder,) = (tmp_path / "tokens").glob("mnist-train-*")
    assert np.load(folder / "tokens.npy").max() < 5
