"""Every option that shapes a network or a training does what its name says.

Each case runs the real command line with one option changed and looks at the files.
"""

import json

import numpy as np
import pytest
from conftest import TINY_CODES, TINY_TRANSFORMER, TINY_VQGAN

from utils.checkpoint import load_checkpoint

# 12 steps, so that a warm-up of a tenth of the run has one.
TRAIN = f"--train --dataset mnist --n_epochs 1 --batch_size 4 {TINY_TRANSFORMER}"
TRAIN_VAE = f"--train_vae --dataset mnist --n_epochs_vae 1 --batch_size_vae 16 {TINY_VQGAN}"


@pytest.fixture
def transformer(run, tokenizer_file, tmp_path):
    def train(options=""):
        run(f"{TRAIN} --checkpoint_vae {tokenizer_file} {options}")
        return load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")

    return train


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
def test_options_of_the_transformer_shape_its_weights(transformer, option, weight, shape):
    assert transformer(option)["weights"][weight].shape == shape


def test_equal_widths_need_no_map(transformer):
    assert "embedding_map.weight" not in transformer("--embed_dim_t 16")["weights"]


@pytest.mark.parametrize(
    "option",
    ["--heads 4", "--dropout_t 0.5", "--lr 1e-2", "--warmup 0", "--betas 0.5 0.6", "--seed 5",
     "--weight_decay 30 --lr 1e-2", "--drop-label 0.9", "--label_smoothing 0.5", "--grad_clip 1e-4",
     "--sched_mode root", "--batch_size 8", "--precision bf16", "--optimizer muon"],
)  # fmt: skip
def test_options_of_the_training_change_the_weights(transformer, trained_fp32, option):
    weights = transformer(f"--precision fp32 {option}")["weights"]
    assert any(not value.equal(trained_fp32[name]) for name, value in weights.items())


@pytest.fixture(scope="module")
def trained_fp32(data_dir, tokenizer_file, tmp_path_factory):
    from MaskGIT import main

    output = tmp_path_factory.mktemp("fp32")
    main(
        f"{TRAIN} --checkpoint_vae {tokenizer_file} --data_dir {data_dir} --output_dir {output} "
        "--no_wandb --precision fp32 --seed 1".split()
    )
    return load_checkpoint(output / "mnist" / "MaskGIT_mnist.pt", "maskgit")["weights"]


def test_averaged_weights_follow_their_decay(transformer):
    contents = transformer("--ema_decay 0")
    assert all(value.equal(contents["ema"][name]) for name, value in contents["weights"].items())


def test_epochs_and_batches_count_the_steps(transformer):
    assert transformer("--n_epochs 3 --batch_size 12")["step"] == 12


def test_grids_at_their_frequency(run, tokenizer_file, tmp_path):
    run(
        f"{TRAIN} --checkpoint_vae {tokenizer_file} --n_epochs 4 --batch_size 16 "
        "--sample_and_save_freq 2"
    )
    names = sorted(path.name for path in (tmp_path / "mnist" / "samples").iterdir())
    assert names == ["maskgit_step_0000006.png", "maskgit_step_0000012.png"]


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


@pytest.fixture
def vqgan(run, tmp_path):
    def train(options=""):
        run(f"{TRAIN_VAE} {TINY_CODES} {options}")
        entry = load_checkpoint(tmp_path / "mnist" / "VQGAN_mnist.pt", "vqgan")["tokenizer"]
        return entry["config"], entry["weights"]

    return train


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
def test_options_of_the_vqgan_shape_its_weights(vqgan, option, weight, shape):
    assert vqgan(option)[1][weight].shape == shape


def test_the_size_decides_the_tokens_of_an_image(run, tmp_path):
    run(f"--train_vae {TRAIN} {TINY_VQGAN} {TINY_CODES} --n_epochs_vae 1 --size 48")
    contents = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert contents["config"]["seq_len"] == 144


def test_remap_shrinks_the_alphabet_end_to_end(run, tokenizer_file, tmp_path):
    used = np.array([3, 5, 8, 9, 11])
    np.save(tmp_path / "used.npy", used)
    run(f"{TRAIN} --sample --checkpoint_vae {tokenizer_file} --remap {tmp_path}/used.npy")
    contents = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert contents["config"]["codebook_size"] == 5
    assert contents["weights"]["token_embedding.weight"].shape[0] == 5 + 1 + 10 + 1
    (folder,) = (tmp_path / "tokens").glob("mnist-train-*")
    assert np.load(folder / "tokens.npy").max() < 5


def test_index_shape_is_kept_with_the_model(vqgan):
    assert vqgan("--sane_index_shape")[0]["sane_index_shape"] is True


@pytest.mark.parametrize(
    "option",
    ["--dropout 0.5", "--codebook_weight 20", "--lr_vae 1e-2", "--warmup_vae 0 --n_epochs_vae 2",
     "--betas_vae 0.1 0.2", "--disc_weight 0.8 --disc_start 1", "--batch_size_vae 8"],
)  # fmt: skip
def test_options_of_vqgan_training_change_the_weights(vqgan, tiny_vqgan_weights, option):
    _, weights = vqgan(f"--precision fp32 {option}")
    assert any(not value.equal(tiny_vqgan_weights[name]) for name, value in weights.items())


@pytest.fixture(scope="module")
def tiny_vqgan_weights(data_dir, tmp_path_factory):
    from MaskGIT import main

    output = tmp_path_factory.mktemp("vqgan")
    main(
        f"{TRAIN_VAE} {TINY_CODES} --data_dir {data_dir} --output_dir {output} --no_wandb "
        "--precision fp32 --seed 1".split()
    )
    return load_checkpoint(output / "mnist" / "VQGAN_mnist.pt", "vqgan")["tokenizer"]["weights"]


@pytest.mark.parametrize(("start", "takes_part"), [(0, True), (2, True), (3, False)])
def test_the_discriminator_starts_at_its_step(run, tmp_path, start, takes_part):
    run(f"{TRAIN_VAE} {TINY_CODES} --disc_weight 0.8 --disc_start {start}")
    lines = (tmp_path / "mnist" / "metrics_vqgan.jsonl").read_text().splitlines()
    (row,) = (json.loads(line) for line in lines if "train/loss" in line)
    if takes_part:
        # Near its start the hinge loss is 1; a mean over the steps without it would be 1/3.
        assert row["train/discriminator"] == pytest.approx(1, abs=0.4)
    else:
        assert "train/discriminator" not in row


@pytest.fixture
def student(run, trained, tmp_path):
    def distill(options=""):
        teacher = trained / "MaskGIT_mnist.pt"
        run(
            f"--distill 1 --checkpoint {teacher} --precision fp32 --n_epochs_distill 1 "
            f"--batch_size_distill 4 --run_name few {options}"
        )
        return load_checkpoint(tmp_path / "few" / "MaskGIT_mnist.pt", "maskgit")

    return distill


@pytest.fixture(scope="module")
def distilled(data_dir, trained, tmp_path_factory):
    from MaskGIT import main

    output = tmp_path_factory.mktemp("distilled")
    main(
        f"--distill 1 --checkpoint {trained}/MaskGIT_mnist.pt --output_dir {output} --seed 1 "
        "--precision fp32 --n_epochs_distill 1 --batch_size_distill 4 --no_wandb".split()
    )
    return load_checkpoint(output / "mnist_1_step" / "MaskGIT_mnist.pt", "maskgit")["weights"]


@pytest.mark.parametrize(
    "option",
    ["--batch_size_distill 5", "--lr_distill 1e-2", "--lr_auxiliary 1e-2", "--teacher_cfg_w 3",
     "--teacher_sm_temp 2", "--grad_clip 1e-4", "--seed 5", "--n_epochs_distill 2"],
)  # fmt: skip
def test_options_of_a_distillation_change_the_weights(student, distilled, option):
    weights = student(option)["weights"]
    assert any(not value.equal(distilled[name]) for name, value in weights.items())


def test_a_distillation_averages_and_saves_as_a_training_does(student, distilled, tmp_path):
    contents = student("--ema_decay 0 --keep_checkpoints 1 --n_epochs_distill 2")
    assert contents["step"] == 200
    assert all(value.equal(contents["ema"][name]) for name, value in contents["weights"].items())
    assert (tmp_path / "few" / "MaskGIT_mnist_step_0000200.pt").is_file()


def test_the_share_to_begin_with_changes_the_images(run, trained, tmp_path):
    images = []
    for share in (0, 0.5):
        run(f"--sample --checkpoint {trained}/MaskGIT_mnist.pt --start_share {share} --run_name s")
        with np.load(tmp_path / "s" / "samples" / "samples.npz") as samples:
            images.append(samples["arr_0"])
    assert (images[0] != images[1]).any()
