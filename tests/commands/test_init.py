"""--init and --freeze on the real command line: what is taken, what stays, what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BOTH, TINY_CODES, TINY_TRANSFORMER, TINY_VQGAN, write_images

from MaskGIT import main
from models.fine_tuning import Change
from models.open import load_model, load_tokenizer
from training.run_folder import RunFolder
from training.run_record import MADE_FROM, read_config
from utils.checkpoint import load_checkpoint

DECODER_ALONE = "encoder.*,quantize.*,quant_conv.*"
ONE_EPOCH = "--n_epochs 1 --batch_size 16"
STAGE_1 = "--train_vae --n_epochs_vae 1 --batch_size_vae 16 --perceptual_weight 0 --disc_weight 0"
STILL = "--lr 1e-30 --weight_decay 0"  # the weights stay where they start


@pytest.fixture
def model_file(trained: Path) -> Path:
    return trained / "MaskGIT_mnist.pt"


def test_a_new_run_starts_from_the_averaged_weights_and_the_shape_of_another(
    run, trained, model_file, tmp_path
):
    printed = run(f"--train {ONE_EPOCH} {STILL} --init {model_file}")
    assert "100.0% of the new network" in printed
    made = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    first = load_checkpoint(model_file, "maskgit")
    assert made["config"] == first["config"]  # no option of the shape was given
    for name, weight in first["ema"].items():
        assert torch.equal(made["ema"][name], weight), name
    made_from = read_config(RunFolder(tmp_path / "mnist", "mnist"))["maskgit"][MADE_FROM]
    assert len(made_from["init"]) == 16


def test_a_run_goes_on_without_the_file_that_it_started_from(run, model_file, tmp_path):
    copied = Path(shutil.copy(model_file, tmp_path / "first.pt"))
    run(f"--train {ONE_EPOCH} --init {copied}")
    before = read_config(RunFolder(tmp_path / "mnist", "mnist"))["maskgit"]
    copied.unlink()
    run("--train --n_epochs 2 --resume")
    after = read_config(RunFolder(tmp_path / "mnist", "mnist"))["maskgit"]
    assert after == {**before, "n_epochs": 2}
    assert after["init"] == str(copied)
    assert load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")["step"] == 6


def test_a_transformer_of_another_program_is_a_start_too(
    run, trained, model_file, tokenizer_file, tmp_path
):
    """Its file has no names of classes; as many classes of the same dataset are the same ones."""
    run(f"--export {tmp_path}/theirs.pt --checkpoint {model_file}")
    both = f"--checkpoint_vae {tokenizer_file} --heads 2"
    run(f"--train {ONE_EPOCH} {STILL} --init {tmp_path}/theirs.pt {both}")
    made = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    first = load_checkpoint(model_file, "maskgit")
    name = "blocks.0.attention.qkv.weight"
    assert torch.equal(made["ema"][name], first["ema"][name])
    assert made["config"]["embed_dim"] == made["config"]["hidden_dim"]  # the file has no map
    assert load_model(tmp_path / "mnist" / "MaskGIT_mnist.pt").transformer.config.num_classes == 10


def test_more_blocks_start_at_random_and_are_named(run, model_file):
    printed = run(f"--train {ONE_EPOCH} --init {model_file} --depth 2")
    assert "new       blocks.1.attention_norm.weight" in printed


def test_a_wider_network_is_refused_with_the_options_that_differ(model_file, refused):
    said = refused(f"--train --init {model_file} --hidden_dim 64")
    assert "--hidden_dim 64, there 16" in said


def test_old_classes_keep_their_rows_and_new_ones_are_the_mean(tmp_path, capsys):
    """The rows are found by name: the new class comes between the two old ones."""
    write_images(tmp_path / "two", ("cat", "dog"))
    write_images(tmp_path / "three", ("cat", "cow", "dog"))
    common = f"--dataset folder --output_dir {tmp_path} --no_wandb"
    main(
        f"--train_vae --train {common} --data_dir {tmp_path}/two --run_name two --n_epochs 1 "
        f"--n_epochs_vae 1 {BOTH}".split()
    )
    first = tmp_path / "two" / "MaskGIT_folder.pt"
    main(
        f"--train {common} --data_dir {tmp_path}/three --run_name three --n_epochs 1 "
        f"--batch_size 4 {STILL} --init {first}".split()
    )
    (defaults,) = re.findall("defaults for .*", capsys.readouterr().out.split(str(first))[0])[-1:]
    assert "--depth" not in defaults  # the file decides it
    old, new = (
        load_model(tmp_path / name / "MaskGIT_folder.pt").transformer.state_dict()
        for name in ("two", "three")
    )
    for name, axis in (("token_embedding.weight", 0), ("output_bias", 1)):
        rows, mine = (w[name].movedim(axis, 0)[17:] for w in (old, new))
        cat, dog, null = rows
        assert torch.allclose(mine, torch.stack([cat, (cat + dog) / 2, dog, null])), name
    # Without --checkpoint_vae the tokenizer comes with the model, and the run has its own.
    assert (tmp_path / "three" / "VQGAN_folder.pt").is_file()


def test_a_start_from_another_family_has_the_defaults_that_are_said(tmp_path, capsys):
    """Those of the family in the file, for the number of images."""
    write_images(tmp_path / "images", ("cat", "dog"))
    common = (
        f"--train --dataset folder --data_dir {tmp_path}/images --output_dir {tmp_path} --size 8"
    )
    modern = "--hidden_dim 16 --heads 2 --mlp_dim 16 --depth 1"
    main(f"{common} --transformer modern {modern} --n_epochs 1 --no_wandb".split())
    capsys.readouterr()
    main(f"{common} --run_name two --init {tmp_path}/folder/MaskGIT_folder.pt --dry_run".split())
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (said,) = [row[4:] for row in rows if row[:2] == ["defaults", "for"]]
    shown = {row[0]: row[1] for row in rows if len(row) == 2}
    names = [name.removeprefix("--") for name in said[::2]]
    options = dict(zip(names, said[1::2], strict=True))
    assert options.keys() == {"batch_size", "n_epochs", "publish"}
    assert options.items() <= shown.items()
    assert [shown[name] for name in ("optimizer", "lr", "depth")] == ["muon", "0.008", "1"]


@pytest.mark.parametrize(("size", "grid"), [("16", (8, 8)), ("8x32", (4, 16))])
def test_another_size_of_images_interpolates_the_positions(size, grid, tmp_path):
    """A tokenizer without attention is the same at every size, and so are its tokens.

    The number of tokens, here 64, does not say the grid.
    """
    write_images(tmp_path / "images", ("cat", "dog"))
    common = f"--dataset folder --data_dir {tmp_path}/images --output_dir {tmp_path} --no_wandb"
    both = f"{BOTH} --size {size} --no_middle_attention --n_epochs 1 --n_epochs_vae 1"
    main(f"--train_vae --train {common} --run_name small {both}".split())
    first = tmp_path / "small" / "MaskGIT_folder.pt"
    more = f"--size 32 --n_epochs 1 --batch_size 4 {STILL}"
    main(f"--train {common} --run_name large {more} --init {first}".split())
    old, new = (
        load_model(tmp_path / name / "MaskGIT_folder.pt").transformer.state_dict()
        for name in ("small", "large")
    )
    change = Change(None, None, (), (grid, (16, 16)))
    expected = change.positions(old["position_embedding"][:-1])
    assert torch.allclose(new["position_embedding"][:-1], expected)
    assert torch.equal(new["token_embedding.weight"], old["token_embedding.weight"])


def test_frozen_parameters_do_not_change_and_have_no_moments(run, model_file, tmp_path):
    run(f"--train {ONE_EPOCH} --lr 1e-2 --init {model_file} --freeze blocks.*,first.*")
    made = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    first = load_checkpoint(model_file, "maskgit")
    for part in ("weights", "ema"):
        for name, weight in first["ema"].items():
            is_frozen = name.startswith(("blocks.", "first."))
            assert torch.equal(made[part][name], weight) == is_frozen or not weight.any(), name
    state = load_checkpoint(tmp_path / "mnist" / "resume_maskgit.pt", "maskgit-resume")["stage"]
    trained = [name for name in first["ema"] if not name.startswith(("blocks.", "first."))]
    assert len(state["optimizer"]["state"]) == len(trained)


@pytest.mark.parametrize("more", ["", "--optimizer muon", "--precision bf16", "--grad_accum 2"])
def test_every_kind_of_training_can_freeze(run, model_file, tmp_path, more):
    run(f"--train {ONE_EPOCH} --init {model_file} --freeze first.*,*norm* {more}")
    made = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")["weights"]
    first = load_checkpoint(model_file, "maskgit")["ema"]
    assert torch.equal(made["first.2.weight"], first["first.2.weight"])
    assert not torch.equal(made["last.2.weight"], first["last.2.weight"])


@pytest.fixture
def fine_tuned(run, tokenizer_file, tmp_path) -> Path:
    """The tokenizer with a decoder that was trained further."""
    run(
        f"{STAGE_1} --lr_vae 1e-2 --run_name tuned --init {tokenizer_file} --freeze {DECODER_ALONE}"
    )
    return tmp_path / "tuned" / "VQGAN_mnist.pt"


def test_a_decoder_alone_changes_no_token(fine_tuned, tokenizer_file):
    old, new = load_tokenizer(tokenizer_file), load_tokenizer(fine_tuned)
    assert new.encoder_fingerprint == old.encoder_fingerprint
    assert new.fingerprint != old.fingerprint
    images = torch.rand(8, 1, 32, 32) * 2 - 1
    tokens = old.encode(images)
    assert torch.equal(new.encode(images), tokens)
    assert not torch.equal(new.decode(tokens), old.decode(tokens))


def test_a_transformer_and_its_token_cache_serve_the_new_decoder(
    run, fine_tuned, tokenizer_file, model_file, tmp_path
):
    train = f"--train {ONE_EPOCH} {TINY_TRANSFORMER} --dataset mnist"
    assert "tokenizing" in run(f"{train} --run_name old --checkpoint_vae {tokenizer_file}")
    assert "tokenizing" not in run(f"{train} --run_name new --checkpoint_vae {fine_tuned}")
    printed = run(f"--sample --step 2 --checkpoint {model_file} --checkpoint_vae {fine_tuned}")
    assert "with the same tokens" in printed
    assert "tokenizing" not in run(
        f"{train} --run_name further --init {model_file} --checkpoint_vae {fine_tuned}"
    )


def test_both_stages_start_from_files_in_one_command(run, tokenizer_file, model_file, tmp_path):
    both = f"{STAGE_1} --init_vae {tokenizer_file} --train {ONE_EPOCH} --init {model_file}"
    run(f"{both} --freeze_vae {DECODER_ALONE}")
    model = load_model(tmp_path / "mnist" / "MaskGIT_mnist.pt")
    fingerprint = load_tokenizer(tokenizer_file).encoder_fingerprint
    assert model.tokenizer.encoder_fingerprint == fingerprint
    assert (
        model.tokenizer.fingerprint
        == load_tokenizer(tmp_path / "mnist" / "VQGAN_mnist.pt").fingerprint
    )


def test_other_tokens_are_refused(run, tokenizer_file, model_file, tmp_path, refused):
    both = f"{STAGE_1} --init_vae {tokenizer_file} --train {ONE_EPOCH} --init {model_file}"
    assert "makes new tokens" in refused(both)
    run(f"{STAGE_1} --run_name other {TINY_VQGAN} {TINY_CODES}")
    other = tmp_path / "other" / "VQGAN_mnist.pt"
    said = refused(f"{both} --freeze_vae {DECODER_ALONE} --norm_groups 16")
    assert "makes new tokens" in said  # of the same weights
    said = refused(f"--train --init {model_file} --checkpoint_vae {other}")
    assert "learned the tokens of another tokenizer" in said
    assert f"--checkpoint_vae {model_file}" in said


def test_a_codebook_of_the_file_is_not_placed_again(run, tokenizer_file, tmp_path):
    run(f"{STAGE_1} --lr_vae 1e-30 --init {tokenizer_file}")
    old, new = load_tokenizer(tokenizer_file), load_tokenizer(tmp_path / "mnist" / "VQGAN_mnist.pt")
    assert new.fingerprint == old.fingerprint


def test_an_option_of_a_new_vqgan_counts_more_than_the_file_or_is_said_to_have_no_effect(
    run, tokenizer_file, tmp_path
):
    said = "no effect here: --linear_start"
    assert said in run(f"{STAGE_1} --init {tokenizer_file} --linear_start --n_embed 20 --dry_run")
    more = f"{STAGE_1} --init {tokenizer_file} --linear_start --num_res_blocks 2 --dry_run"
    assert said not in run(more)  # the new blocks start as it says
    first = tokenizer_file
    for name, used in (("a", [0, 1, 2, 3]), ("b", [3, 1, 7, 9])):
        np.save(tmp_path / "used.npy", used)
        run(f"{STAGE_1} --init {first} --run_name {name} --remap {tmp_path}/used.npy")
        first = tmp_path / name / "VQGAN_mnist.pt"
        assert load_tokenizer(first).network.quantize.used.tolist() == used


def test_wrong_files_and_patterns_are_one_line(run, trained, tokenizer_file, tmp_path, refused):
    model = trained / "MaskGIT_mnist.pt"
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(model.read_bytes()[:-500])
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    for arguments, said in (
        (f"--train --init {tokenizer_file}", "is a trained VQ-GAN"),
        (f"--train --init {damaged}", "damaged"),
        (f"--train --init {text}", "text.pt"),
        (f"--train --init {tmp_path}/none.pt", "none.pt"),
        (f"--train --init {trained}/resume_maskgit.pt", "the state of a training"),
        (f"--train --init {model} --freeze nothing.*", "--freeze nothing.*: no parameter has"),
        (f"--train --init {model} --freeze *", "--freeze *: leaves nothing to train"),
        (f"{STAGE_1} --init {text}", "text.pt"),
        (f"{STAGE_1} --init {model} --init_vae {model}", "--init and --init_vae are the same"),
        (f"{STAGE_1} --init {model} --freeze decoders.*", "--freeze_vae decoders.*"),
        (
            f"{STAGE_1} --init {model} --freeze decoder.conv_out.* --disc_weight 0.5",
            "--disc_weight 0.5",
        ),
    ):
        assert said in refused(arguments), arguments
    assert not (tmp_path / "mnist").exists()


def test_init_of_a_run_that_continues_is_refused(run, model_file, trained, tmp_path, refused):
    shutil.copytree(trained, tmp_path / "mnist")
    said = refused(f"--train --resume --init {model_file}")
    assert "--init" in said
    assert "was started without it; leave it out, or start" in said
