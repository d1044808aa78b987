"""Halton-MaskGIT's transformer through the command line: trained, resumed, sampled, written."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.open import load_model
from utils.checkpoint import load_checkpoint

TRAIN = "--train --transformer halton --dataset mnist --hidden_dim 48 --depth 1 --heads 4 --lr 1e-2"


@pytest.fixture
def model(run, tokenizer_file: Path, tmp_path: Path) -> Path:
    run(f"{TRAIN} --n_epochs 1 --batch_size 16 --checkpoint_vae {tokenizer_file}")
    return tmp_path / "mnist" / "MaskGIT_mnist.pt"


def images(tmp_path: Path) -> np.ndarray:
    with np.load(tmp_path / "mnist" / "samples" / "samples.npz") as stored:
        return stored["arr_0"]


def test_it_is_trained_as_published_and_resumed(run, model, tmp_path):
    kept = json.loads((tmp_path / "mnist" / "config.json").read_text())["maskgit"]
    assert (kept["transformer"], kept["betas"]) == ("halton", [0.9, 0.999])
    assert kept["weight_decay"] == 0.03
    assert (kept["label_smoothing"], kept["sched_mode"]) == (0.0, "arccos-halton")
    run("--train --resume --n_epochs 2 --dataset mnist")
    stored = load_checkpoint(model, "maskgit")
    assert (stored["family"], stored["step"]) == ("halton", 6)
    assert stored["config"]["hidden_dim"] == 48
    assert any(weight.any() for name, weight in stored["ema"].items() if ".mlp.1." in name)


def test_it_is_sampled_as_published(run, model, tmp_path):
    plan = run(f"--show_plan --checkpoint {model}")
    assert "32" in plan
    run("--sample --dataset mnist --num_samples 3")
    usual = images(tmp_path)
    assert np.array_equal(load_model(model, device="cpu").sample([0, 1, 2], seed=1), usual)
    run(
        "--sample --dataset mnist --num_samples 3 --step 32 --cfg_w 1 --cfg_schedule constant "
        "--sampler halton --halton_roll off --sched_mode arccos-halton --sm_temp_first 0.5"
    )
    assert np.array_equal(images(tmp_path), usual)
    for other in ("--halton_roll on", "--sm_temp_first 4", "--cfg_w 0"):
        run(f"--sample --dataset mnist --num_samples 3 {other}")
        assert not np.array_equal(images(tmp_path), usual), other


def test_its_export_opens_again_with_the_tokenizer(run, model, tokenizer_file, tmp_path):
    run("--sample --dataset mnist --num_samples 3")
    own = images(tmp_path)
    run(f"--export {tmp_path}/other.pth --dataset mnist")
    run(
        f"--sample --dataset mnist --num_samples 3 --checkpoint {tmp_path}/other.pth --heads 4 "
        f"--checkpoint_vae {tokenizer_file}"
    )
    assert np.array_equal(images(tmp_path), own)
