"""The real command line on real file formats: what it writes, and how it refuses."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import TINY_CODES, TINY_TRANSFORMER, TINY_VQGAN, TRAIN_TINY
from PIL import Image

from commands.parser import parse
from commands.request import Machine, Request
from commands.resolve import idle_options
from MaskGIT import main
from utils.checkpoint import load_checkpoint
from utils.errors import UserError


def samples_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder / "mnist" / "samples" / "samples.npz", allow_pickle=False) as stored:
        return stored["arr_0"], stored["arr_1"]


def test_training_leaves_a_complete_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"MaskGIT_mnist.pt", "resume_maskgit.pt", "metrics.jsonl", "config.json"} <= names
    contents = load_checkpoint(trained / "MaskGIT_mnist.pt", "maskgit")
    assert contents["dataset"] == "mnist"
    assert contents["class_names"] == list("0123456789")
    assert contents["step"] == 6
    assert contents["config"]["codebook_size"] == 16
    assert contents["weights"].keys() == contents["ema"].keys()
    assert contents["tokenizer"]["config"]["n_embed"] == 16
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "train/lr", "val/loss", "val/accuracy"} <= set().union(*rows)
    config = json.loads((trained / "config.json").read_text())["maskgit"]
    assert config["depth"] == 1
    assert config["n_epochs"] == 2


def test_sampling_finds_the_run_and_writes_everything(trained, capsys):
    main(f"--sample --dataset mnist --output_dir {trained.parent} --num_samples 12".split())
    said = capsys.readouterr().out
    images, labels = samples_of(trained.parent)
    assert images.shape == (12, 32, 32, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    folder = trained / "samples"
    for index in (0, 11):
        with Image.open(folder / "images" / f"{index:06d}.png") as single:
            assert (np.asarray(single) == images[index, :, :, 0]).all()
    assert len(list((folder / "images").iterdir())) == 12
    with Image.open(folder / "grid.png") as grid:
        assert grid.size[0] > 10 * 32
    assert str(folder / "grid.png") in said
    assert "temperature" not in said  # --show_plan prints the steps


def test_sampling_needs_nothing_but_the_checkpoint(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained / "MaskGIT_mnist.pt", tmp_path / "a.pt")
    main(["--sample", "--checkpoint", "a.pt", "--num_samples", "3"])
    assert samples_of(tmp_path / "runs")[0].shape == (3, 32, 32, 1)


def test_a_folder_in_place_of_the_checkpoint_is_not_recommended(refusal, tmp_path):
    (tmp_path / "mnist" / "MaskGIT_mnist.pt").mkdir(parents=True)
    said = refusal(lambda: main(["--sample", "--output_dir", str(tmp_path)]))
    assert "no trained model" in said
    assert "so give" not in said


def test_nothing_slow_is_loaded_to_sample(trained, tmp_path):
    """torch's compiler alone takes seconds."""
    code = (
        "import sys, MaskGIT\n"
        "MaskGIT.main(sys.argv[1:])\n"
        "heavy = {'torch._dynamo', 'torchvision', 'scipy', 'wandb'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    sample = f"--sample --checkpoint {trained}/MaskGIT_mnist.pt --output_dir {tmp_path}".split()
    command = [sys.executable, "-c", code, *sample, "--num_samples", "1"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def test_python_may_be_kept_from_looking_in_the_folder_of_a_script(tmp_path):
    program = Path(__file__).parents[1] / "MaskGIT.py"
    subprocess.run([sys.executable, "-I", program, "--version"], cwd=tmp_path, check=True)


def test_samples_of_a_checkpoint_go_to_its_run(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "elsewhere" / "mnist")
    checkpoint = "elsewhere/mnist/MaskGIT_mnist.pt"
    main(["--sample", "--checkpoint", checkpoint, "--num_samples", "3"])
    assert samples_of(tmp_path / "elsewhere")[0].shape == (3, 32, 32, 1)
    main(["--sample", "--checkpoint", checkpoint, "--num_samples", "3", "--output_dir", "out"])
    assert samples_of(tmp_path / "out")[0].shape == (3, 32, 32, 1)


def test_image_i_is_the_same_from_wherever_one_starts(trained, tmp_path):
    everything = sample(trained, tmp_path, "--batch_size 4", count=12)
    later = sample(trained, tmp_path / "later", "--batch_size 4 --first_image 7", count=5)
    assert (later == everything[7:]).all()
    folder = tmp_path / "later" / "mnist" / "samples" / "images"
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{i:06d}.png" for i in range(7, 12)]


def sample(trained, tmp_path, extra="", count=12):
    main(
        f"--sample --checkpoint {trained / 'MaskGIT_mnist.pt'} --output_dir {tmp_path} "
        f"--precision fp32 --num_samples {count} {extra}".split()
    )
    return samples_of(tmp_path)[0]


@pytest.fixture(scope="module")
def usual(trained, tmp_path_factory):
    """Samples at the default settings."""
    return sample(trained, tmp_path_factory.mktemp("usual"))


def test_samples_repeat_with_the_seed_alone(trained, usual, tmp_path):
    assert (sample(trained, tmp_path) == usual).all()
    assert (sample(trained, tmp_path, "--seed 1") != usual).any()


def test_an_image_does_not_depend_on_how_many_are_made(trained, tmp_path):
    many = sample(trained, tmp_path, "--batch_size 5")
    few = sample(trained, tmp_path, "--batch_size 5", count=7)
    assert (many[:7] == few).all()


@pytest.mark.parametrize(
    "option",
    ["--step 2", "--sched_mode root", "--sched_mode cosine-cumulative", "--cfg_w 0", "--r_temp 0",
     "--sm_temp 3", "--mask-value -1", "--mask-value 3"],
)  # fmt: skip
def test_every_sampling_option_changes_the_images(trained, usual, tmp_path, option):
    assert (sample(trained, tmp_path, option) != usual).any()


def test_labels_choose_classes(trained, tmp_path):
    main(
        f"--sample --checkpoint {trained / 'MaskGIT_mnist.pt'} --output_dir {tmp_path} "
        "--labels 3,3,7".split()
    )
    assert samples_of(tmp_path)[1].tolist() == [3, 3, 7]


def test_more_steps_than_tokens_are_capped_and_said(trained, tmp_path, capsys):
    sample(trained, tmp_path, "--step 1000", count=2)
    assert capsys.readouterr().out.count("has only 64 tokens") == 1


def test_the_token_cache_is_made_once(run, tokenizer_file, tmp_path):
    command = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}"
    assert "tokenizing mnist (train)" in run(command)
    assert "tokenizing" not in run(f"{command} --run_name again")
    assert len(list((tmp_path / "tokens").glob("mnist-*"))) == 2


@pytest.fixture(scope="module")
def finished(data_dir, tokenizer_file, tmp_path_factory):
    """The output folder of a finished run of 6 steps."""
    folder = tmp_path_factory.mktemp("finished")
    main(
        f"--train {TRAIN_TINY} --precision fp32 --checkpoint_vae {tokenizer_file} --seed 1 "
        f"--data_dir {data_dir} --output_dir {folder} --no_wandb".split()
    )
    return folder


@pytest.fixture
def resumable(finished, tmp_path):
    """A copy of it as the output folder of `run`; gives the options that go on with it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return "--train --resume --dataset mnist"


def test_training_twice_is_refused_and_resuming_a_finished_run_trains_nothing(
    run, resumable, refusal, tokenizer_file, tmp_path
):
    command = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}"
    before = (tmp_path / "mnist" / "MaskGIT_mnist.pt").read_bytes()
    error = refusal(lambda: run(command))
    assert all(name in error for name in ("--resume", "--run_name", "--output_dir"))
    assert "already been trained" in run(f"{command} --resume")
    assert (tmp_path / "mnist" / "MaskGIT_mnist.pt").read_bytes() == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"PK damaged")])
def test_resuming_a_finished_run_mends_its_checkpoint(harm, run, resumable, tmp_path):
    model = tmp_path / "mnist" / "MaskGIT_mnist.pt"
    before = model.read_bytes()
    harm(model)
    said = run(resumable)
    assert "written again from the saved state" in said
    assert model.read_bytes() == before


def test_resuming_takes_the_options_of_the_run(run, resumable, refusal, tmp_path):
    contents = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert contents["config"]["depth"] == 1
    for another in (
        "--depth 2", "--heads 4", "--n_epochs 1", "--batch_size 8", "--lr 1", "--seed 2",
        "--dropout_t 0", "--ema_decay 0", "--sched_mode root", "--size 64", "--precision bf16",
        "--weight_decay 0", "--label_smoothing 0", "--betas 0 0",
    ):  # fmt: skip
        error = refusal(lambda another=another: run(f"{resumable} --n_epochs 2 {another}"))
        assert another.split()[0] in error
        assert ": the run in" in error
    assert "already been trained" in run(resumable)


def test_a_finished_model_whose_state_is_gone_is_not_overwritten(
    run, resumable, refusal, tokenizer_file, tmp_path
):
    command = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}"
    model = tmp_path / "mnist" / "MaskGIT_mnist.pt"
    before = model.read_bytes()
    (tmp_path / "mnist" / "resume_maskgit.pt").unlink()
    error = refusal(lambda: run(f"{command} --resume --n_epochs 3"))
    assert all(name in error for name in (str(model), "resume_maskgit.pt", "--run_name"))
    assert model.read_bytes() == before


def test_resuming_keeps_the_habits_of_the_run(run, tokenizer_file, data_dir, tmp_path):
    """--no_wandb, what to keep, how to preview, where the data is: no need to say it again."""
    run(
        f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --keep_checkpoints 3 "
        "--sample_and_save_freq 1 --num_samples 2"
    )
    main(f"--train --resume --dataset mnist --output_dir {tmp_path} --n_epochs 4".split())
    folder = tmp_path / "mnist"
    assert not (folder / "wandb").exists()
    assert len(list(folder.glob("MaskGIT_mnist_step_*.pt"))) == 3
    assert len(list((folder / "samples").glob("*.png"))) == 4
    with Image.open(folder / "samples" / "maskgit_step_0000012.png") as picture:
        assert picture.height < 2 * 64  # one row


def test_a_tokenizer_decides_the_size_of_images(run, tmp_path):
    train_vae = f"--train_vae --dataset mnist --n_epochs_vae 1 --batch_size_vae 16 {TINY_VQGAN}"
    run(f"{train_vae} {TINY_CODES} --size 16")
    run(f"--reconstruct --train {TRAIN_TINY}")
    contents = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert contents["config"]["seq_len"] == 16


def test_more_epochs_recompute_the_schedule_from_here_on(run, resumable, tmp_path):
    out = run(f"{resumable} --n_epochs 4")
    before, after = (0.5 * (1 + np.cos(np.pi * part)) * 1e-4 for part in (6 / 6, 5 / 11))
    # 12 steps with a warm-up of one, of which the seventh comes next.
    assert "continues after step 6" in out
    said = (
        f"4 epochs instead of 2: the learning rate is now {after:.3g}, before it was {before:.3g}"
    )
    assert said in out
    assert "instead of" not in run(f"{resumable} --n_epochs 4")
    folder = tmp_path / "mnist"
    assert load_checkpoint(folder / "MaskGIT_mnist.pt", "maskgit")["step"] == 12
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["train/lr"] for row in rows if "train/lr" in row}
    assert rates[12] == pytest.approx(0.5 * (1 + np.cos(np.pi * 10 / 11)) * 1e-4, rel=1e-4)
    assert json.loads((folder / "config.json").read_text())["maskgit"]["n_epochs"] == 4


def test_resuming_takes_harmless_options_and_files_that_moved(
    run, resumable, tokenizer_file, tmp_path
):
    moved = tmp_path / "moved.pt"
    moved.write_bytes(tokenizer_file.read_bytes())
    out = run(
        f"{resumable} --n_epochs 3 --checkpoint_vae {moved} --num_workers 1 --device cpu "
        f"--cache_dir {tmp_path}/elsewhere --sample_and_save_freq 1 "
        "--num_samples 2 --grad_accum 2 --size 32"
    )
    assert "continues after step 6" in out
    assert load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")["step"] == 9


def test_resuming_with_another_tokenizer_or_other_images_is_refused(
    run, resumable, refusal, tmp_path, data_dir
):
    run(
        f"--train_vae --dataset mnist --run_name other --n_epochs_vae 1 --batch_size_vae 16 "
        f"{TINY_VQGAN} {TINY_CODES}"
    )
    other = tmp_path / "other" / "VQGAN_mnist.pt"
    command = f"{resumable} --n_epochs 3"
    said = refusal(lambda: run(f"{command} --checkpoint_vae {other}"))
    assert "the tokenizer of the run" in said
    raw = tmp_path / "fewer" / "MNIST" / "raw"
    shutil.copytree(data_dir / "MNIST" / "raw", raw)
    for kind in ("images-idx3", "labels-idx1"):
        shutil.copy(raw / f"t10k-{kind}-ubyte.gz", raw / f"train-{kind}-ubyte.gz")
    said = refusal(lambda: run(f"{command} --data_dir {tmp_path}/fewer"))
    assert "the images of the run" in said


def test_every_mode_goes_on_with_the_options_of_the_run(run, tokenizer_file, tmp_path):
    run(
        f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --run_name here --num_samples 3 "
        f"--cache_dir {tmp_path}/caches"
    )
    out = run("--train --sample --resume --run_name here --n_epochs 3")
    assert "continues after step 6" in out
    with np.load(tmp_path / "here" / "samples" / "samples.npz") as stored:
        assert len(stored["arr_0"]) == 3


def test_a_pipeline_that_stops_in_its_first_stage_keeps_the_options_of_the_second(
    run, tmp_path, monkeypatch
):
    def stopped(session):
        raise KeyboardInterrupt

    stopped.__name__ = "train"
    command = f"--train_vae --train {TRAIN_TINY} --n_epochs_vae 1 --batch_size_vae 16"
    with monkeypatch.context() as patch:
        patch.setattr("MaskGIT.train", stopped)
        with pytest.raises(SystemExit):
            run(f"{command} {TINY_VQGAN} {TINY_CODES}")
    run("--train_vae --train --resume --dataset mnist --lr 1e-3")
    model = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert (model["config"]["depth"], model["step"]) == (1, 6)
    config = json.loads((tmp_path / "mnist" / "config.json").read_text())["maskgit"]
    assert (config["lr"], config["n_epochs"]) == (1e-3, 2)


def test_the_tokenizer_in_a_model_can_be_measured(run, trained, tmp_path):
    said = run(f"--reconstruct --checkpoint {trained}/MaskGIT_mnist.pt --run_name here")
    assert "ssim" in said
    stored = json.loads((tmp_path / "here" / "reconstruction.json").read_text())
    assert stored["images"] == 20


def test_a_models_own_tokenizer_may_be_named(run, tokenizer_file, tmp_path):
    bare = tmp_path / "bare.pt"  # as taming's, which does not tell the size of its images
    torch.save(load_checkpoint(tokenizer_file, "vqgan")["tokenizer"]["weights"], bare)
    run(f"--train {TRAIN_TINY} --size 16 --checkpoint_vae {bare}")
    model = tmp_path / "mnist" / "MaskGIT_mnist.pt"
    run(f"--sample --checkpoint {model} --checkpoint_vae {bare} --num_samples 2")
    assert samples_of(tmp_path)[0].shape == (2, 16, 16, 1)


def test_a_kept_checkpoint_can_be_sampled_from(run, tokenizer_file, tmp_path):
    run(
        f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --sample_and_save_freq 1 "
        "--keep_checkpoints 2"
    )
    earlier = tmp_path / "mnist" / "MaskGIT_mnist_step_0000003.pt"
    assert load_checkpoint(earlier, "maskgit")["step"] == 3
    run(f"--sample --checkpoint {earlier} --num_samples 2")
    assert samples_of(tmp_path)[0].shape == (2, 32, 32, 1)


def test_the_whole_pipeline_in_one_command(run, tmp_path):
    out = run(
        f"--train_vae --reconstruct --train --sample {TRAIN_TINY} --n_epochs_vae 1 "
        f"--batch_size_vae 16 {TINY_VQGAN} {TINY_CODES} --num_samples 4"
    )
    folder = tmp_path / "mnist"
    result = json.loads((folder / "reconstruction.json").read_text())
    assert result["images"] == 20
    assert 0 < result["codebook_usage"] <= 1
    with np.load(folder / "reconstructions.npz") as stored:
        assert stored["arr_0"].shape == (20, 32, 32, 1)
        assert stored["arr_1"].tolist() == [i % 10 for i in range(20)]
        shown = (stored["arr_0"] / 127.5 - 1).astype(np.float64)
    assert shown.std() > 0
    assert "ssim" in out
    assert samples_of(tmp_path)[0].shape == (4, 32, 32, 1)


def test_fewer_images_than_a_batch_is_said_once(run, tokenizer_file):
    command = f"--train --dataset mnist --checkpoint_vae {tokenizer_file} {TINY_TRANSFORMER}"
    out = run(f"{command} --n_epochs 1 --batch_size 500")
    assert out.count("only 48 images") == 1
    assert "step 1 " in out


def test_dry_run_tells_and_writes_nothing(run, tokenizer_file, tmp_path):
    out = run(f"--train --dry_run {TRAIN_TINY} --checkpoint_vae {tokenizer_file}")
    assert "48 train, 20 validation" in out
    assert "64, codebook of 16" in out
    assert "optimizer steps        6" in out
    shown = {line.split()[0] for line in out.splitlines() if line}
    assert {"r_temp", "cfg_schedule"} <= shown
    assert not {"labels", "resume"} & shown  # which are off
    # Of the scores of --evaluate_every, of other samplers and of other guidance schedules.
    assert not {"protocol", "halton_roll", "cfg_interval", "cfg_power"} & shown
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_names_former_options_and_shows_what_acts(run, tokenizer_file):
    command = f"--train --dry_run {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --evaluate_every 1"
    out = run(f"{command} --feature_net {tokenizer_file} --save_every_minutes 3")
    assert "the next version refuses --feature_net; now: --features\n" in out
    assert "refuses --save_every_minutes; now: the state is saved at least" in out
    assert f"\nfeatures               {tokenizer_file}  (given)\n" in out
    assert "\nprotocol " in out


# --- Refusals: one line, code 2, nothing written ---


@pytest.fixture
def refused(run, refusal, tmp_path):
    def call(arguments: str) -> str:
        before = {path for path in tmp_path.rglob("*") if path.name != ".lock"}
        error = refusal(lambda: run(arguments))
        assert error.startswith("MaskGIT.py: error: ")
        files = {p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
        assert files <= before, "something was written"
        return error

    return call


def test_several_processes(refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "--train_vae uses one process" in refused("--train_vae --dataset mnist")
    assert "without RANK" in refused("--train --dataset mnist")
    monkeypatch.setenv("RANK", "first")
    assert "RANK=first" in refused("--train --dataset mnist")


def test_no_tokenizer(refused):
    assert "--train_vae" in refused("--train --dataset mnist")


@pytest.mark.parametrize("option", ["--checkpoint", "--checkpoint_vae"])
def test_bad_checkpoint_files(refused, trained, tmp_path, option):
    mode = "--sample --dataset mnist" if option == "--checkpoint" else "--train --dataset mnist"
    assert "none.pt" in refused(f"{mode} {option} {tmp_path}/none.pt")
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    assert "text.pt" in refused(f"{mode} {option} {text}")
    whole = (trained / "MaskGIT_mnist.pt").read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "cut.pt" in refused(f"{mode} {option} {cut}")
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.ones(2)}, other)
    assert "other.pt" in refused(f"{mode} {option} {other}")


def test_wrong_kind_of_checkpoint(refused, tokenizer_file):
    assert "is a trained VQ-GAN (--checkpoint_vae) where a trained transformer" in refused(
        f"--sample --dataset mnist --checkpoint {tokenizer_file}"
    )


def test_nothing_trained_yet(refused):
    assert "--train" in refused("--sample --dataset mnist")


def test_a_tokenizer_that_is_not_the_models(refused, trained, tokenizer_file, tmp_path):
    contents = load_checkpoint(tokenizer_file, "vqgan")
    contents["tokenizer"]["weights"]["encoder.conv_in.bias"] += 1
    from models.open import tokenizer_of
    from utils.checkpoint import save_checkpoint, weights_digest

    entry = contents["tokenizer"]
    entry["fingerprint"] = weights_digest(entry["config"], entry["weights"])
    assert tokenizer_of(entry, "a.pt").codebook_size == 16
    other = tmp_path / "other_vqgan.pt"
    save_checkpoint(other, "vqgan", contents)
    model = trained / "MaskGIT_mnist.pt"
    error = refused(f"--sample --dataset mnist --checkpoint {model} --checkpoint_vae {other}")
    assert "not the tokenizer" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--hidden_dim 30 --heads 4", "--hidden_dim 30"),
        ("--n_classes 7", "--n_classes 7"),
        ("--n_embed 99", "99"),
        ("--ch_mult 1,1", "--ch_mult 1 1 "),
        ("--size 64", "64"),
        ("--mask-value 17", "--mask-value 17"),
        ("--device tpu", "tpu"),
        ("--device cuda:99", "cuda:99"),
    ],
)
def test_options_that_contradict(refused, tokenizer_file, options, said):
    command = f"--train --dataset mnist --checkpoint_vae {tokenizer_file} {options}"
    assert said in refused(command)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--labels 10", "--labels 10"),
        ("--depth 3", "--depth 3"),
        ("--channels 64", "--channels 64"),
        ("--n_classes 3", "--n_classes 3"),
        ("--dataset fashionmnist", "fashionmnist"),
        ("--mask-value 400", "--mask-value 400"),
    ],
)
def test_sampling_options_that_contradict(refused, trained, options, said):
    assert said in refused(f"--sample --checkpoint {trained / 'MaskGIT_mnist.pt'} {options}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--train_vae --checkpoint_vae a.pt", "--checkpoint_vae"),
        ("--train --grad_accum 300", "--grad_accum 300"),
        ("--train_vae --train --heads 3", "--heads 3"),
        ("--train_vae --train --labels typo", "typo"),
        ("--train_vae --train --mask-value 999", "999"),
        ("--train --edit", "--init_image"),
        ("--train --edit --init_image mnist:1", "--mask_box"),
        ("--train --edit --init_image absent.png --mask_box 0,0,8,8", "absent.png"),
        ("--train --export {folder}/there.pt", "there.pt"),
        ("--train --export new.onnx", "--export new.onnx: name a folder, "),
        ("--train --export new.H5", "or a file that ends in .pt, .pth or .bin"),
        ("--train_vae --train --export NEW.PT --transformer modern", "reads the family"),
        ("--train --evaluate --features absent.pt", "absent.pt"),
        ("--train --sweep step=4,8 --step 4", "--step"),
        ("--show_plan --checkpoint absent.pt", "absent.pt"),
        ("--train --run_name a/b", "a/b"),
        ("--train --run_name tokens", "tokens"),
        ("--sample --checkpoint=", "--checkpoint"),
        ("--sample --num_samples 99999999999", "--num_samples"),
        ("--sample --first_image 99999999999999999999", "--first_image"),
        ("--train_vae --size 100000", "--size"),
        ("--edit --outpaint top=4 --outpaint top=8", "--outpaint"),
        ("--sample --checkpoint {name}.pt", "File name too long"),
    ],
)
def test_mistakes_are_found_before_anything_is_done(refused, tmp_path, options, said):
    (tmp_path / "there.pt").write_text("")
    command = f"--dataset mnist --perceptual_weight 0 {options}"
    assert said in refused(command.format(folder=tmp_path, name="x" * 300))


def test_an_option_that_contradicts_a_mode_is_not_called_idle_too(run, capsys):
    with pytest.raises(SystemExit):
        run("--train --dataset mnist --checkpoint there.pt")
    out, error = capsys.readouterr()
    assert "--checkpoint names a trained model and --train trains one" in error
    assert "no effect" not in out


def test_options_without_effect_are_named_before_a_mistake(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("--sample --dataset mnist --init there.pt --lr 1 --checkpoint_vae there.pt")
    out, error = capsys.readouterr()
    assert f"no trained model at {tmp_path}/mnist/MaskGIT_mnist.pt" in error
    assert out == "no effect here: --data_dir, --init, --lr, --no_wandb\n"
    with pytest.raises(SystemExit):
        run("--sample --init_vae there.pt --checkpoint there.pt --data_dir here")
    assert capsys.readouterr().out == "no effect here: --data_dir, --init_vae, --no_wandb\n"


def test_options_that_nothing_looks_at_are_named(run, trained):
    out = run(
        f"--sample --checkpoint {trained}/MaskGIT_mnist.pt --lr 1 --mask_grow 2 --batch_size 4"
    )
    assert "no effect here: --data_dir, --lr, --mask_grow, --no_wandb\n" in out
    out = run(f"--show_plan --checkpoint {trained}/MaskGIT_mnist.pt --r_temp 9 --sampler halton")
    assert "no effect here: --data_dir, --no_wandb, --r_temp, --seed\n" in out
    of_model = f"--checkpoint {trained}/MaskGIT_mnist.pt --num_samples 20"
    out = run(f"--sweep sampler=random,halton --dry_run {of_model} --r_temp 9 --halton_roll off")
    assert "no effect here: --no_wandb, --r_temp\n" in out
    out = run(f"--sample --dry_run {of_model} --halton_roll off")
    assert "no effect here: --data_dir, --halton_roll, --no_wandb\n" in out
    out = run("--show_plan --dataset fashionmnist --save_steps --keep_checkpoints 2 --step 4")
    said = "--data_dir, --keep_checkpoints, --no_wandb, --save_steps, --seed"
    assert f"no effect here: {said}\n" in out


def test_options_of_losses_without_weight_and_of_no_mask_are_named():
    given = "--disc_start 5 --perceptual_vgg vgg.pth"
    line = parse(f"--train_vae --disc_weight 0 --perceptual_weight 0 {given}".split())
    assert idle_options(line) == {"disc_start", "perceptual_vgg"}
    assert idle_options(parse(f"--train_vae {given}".split())) == set()
    edit = ["--edit", "--mask_threshold", "9"]
    assert idle_options(parse([*edit, "--mask_box", "1,2,3,4"])) == {"mask_threshold"}
    assert idle_options(parse([*edit, "--mask_image", "mask.png"])) == set()


def test_the_folder_of_a_model_that_is_not_there_is_looked_at(refused, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "other")
    (tmp_path / "other" / "resume_maskgit.pt").unlink()
    assert "MaskGIT_mnist.pt" in refused("--sample --dataset cifar10 --run_name other")
    shutil.copytree(trained, tmp_path / "stopped")
    (tmp_path / "stopped" / "MaskGIT_mnist.pt").unlink()
    assert "--train --resume" in refused("--sample --dataset mnist --run_name stopped")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (f"--train_vae {TINY_VQGAN} {TINY_CODES}", "0.29 M parameters"),
        (
            f"--train --checkpoint_vae {{tokenizer}} {TINY_TRANSFORMER}",
            "optimizer steps        100",
        ),
        (f"--train_vae --train {TINY_VQGAN} {TINY_CODES} {TINY_TRANSFORMER}", "codebook of 16"),
        ("--sample --checkpoint {model} --labels 3,3", "images                 2"),
        ("--evaluate --checkpoint {model}", "trained on             mnist, 10 classes"),
    ],
)
def test_a_dry_run_tells_what_would_be_done(run, trained, tokenizer_file, tmp_path, options, said):
    model = trained / "MaskGIT_mnist.pt"
    options = options.format(tokenizer=tokenizer_file, model=model)
    assert said in run(f"--dry_run --dataset mnist {options}")
    assert not any(tmp_path.iterdir())


def test_a_dry_run_of_an_edit_plans_the_hidden_tokens(run, trained):
    box = "--init_image mnist:0 --mask_box 0,0,32,16"
    out = run(f"--edit --dry_run --checkpoint {trained}/MaskGIT_mnist.pt --step 4 {box}")
    rows = [line.split() for line in out.splitlines()]
    counts = [int(row[1]) for row in rows if len(row) == 4 and row[0] in ("1", "2", "3", "4")]
    assert sum(counts) == 32  # half of 8 x 8 tokens


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--size 30", "30"),
        ("--channels 48", "48"),
        ("--attn_resolutions 5", "--attn_resolutions 5"),
        ("--n_embed 5000000000", "5000000000"),
    ],
)
def test_architectures_that_cannot_be(refused, options, said):
    assert said in refused(f"--train_vae --dataset mnist --perceptual_weight 0 {options}")


def test_a_dry_run_and_several_processes_download_nothing(refused, tmp_path, monkeypatch):
    monkeypatch.setattr("data.download.fetch", None)
    absent = f"--dataset cifar10 --data_dir {tmp_path}/absent --perceptual_weight 0"
    assert "run --download_only first" in refused(f"--train_vae --train --dry_run {absent}")

    line = parse(["--train", *absent.split()])
    several = Mock(size=2, main_first=nullcontext)
    machine = Machine(torch.device("cpu"), torch.float32, several, compiled=False)
    with pytest.raises(UserError, match="run `download_only` first"):
        Request(line, machine).data().open("train")


def test_missing_dataset_says_what_to_put_where(refused, tmp_path, tokenizer_file):
    error = refused(
        f"--train --dataset mnist --checkpoint_vae {tokenizer_file} --data_dir {tmp_path}/empty"
    )
    assert "train-images-idx3-ubyte" in error
    assert "MNIST/raw" in error


def test_a_second_job_in_the_folder_is_refused(run, refusal, tokenizer_file, tmp_path):
    from utils.files import exclusive_lock, make_folder

    lock = make_folder(tmp_path / "mnist") / ".lock"
    with exclusive_lock(lock, "taken"):
        said = refusal(lambda: run(f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}"))
    assert "another job" in said
    assert list(lock.parent.iterdir()) == [lock]


def test_an_output_folder_that_cannot_be_made(run, refusal, tokenizer_file, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    command = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --run_name file/run"
    assert "file/run" in refusal(lambda: run(command))
