"""The network that scripts/feature_net.py trains is one that --evaluate measures with."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
BUNDLED = ROOT / "metrics" / "pretrained"


def test_a_classifier_of_a_dataset_measures_samples_of_it(run, trained, data_dir, tmp_path):
    net = tmp_path / "net.pt"
    command = [sys.executable, ROOT / "scripts" / "feature_net.py", "--dataset", "mnist"]
    options = ["--data_dir", data_dir, "--epochs", "30", "--batch_size", "16", net]
    told = subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout
    assert f"{net}: 1.0000 of 20 images recognised" in told
    run(
        f"--evaluate --checkpoint {trained}/MaskGIT_mnist.pt --feature_net {net} --num_samples 20 "
        "--run_name here"
    )
    scores = json.loads((tmp_path / "here" / "evaluation_samples.json").read_text())["scores"]
    assert scores["fid"] > 0
    assert 0 <= scores["class_accuracy"] <= 1


def test_the_bundled_network_measures_images_without_the_dataset(run, tmp_path):
    """Its README names the digests of both files."""
    net, statistics = (
        BUNDLED / name for name in ("fashionmnist_net.pt", "fashionmnist_validation.pkl")
    )
    readme = (BUNDLED / "README.md").read_text()
    for file in (net, statistics):
        assert (
            f"| `{file.name}` | `{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}` |" in readme
        )
    images = np.random.default_rng(0).integers(0, 256, (21, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=images, arr_1=np.arange(21) % 10)
    told = run(
        f"--evaluate --images {tmp_path}/images.npz --dataset fashionmnist --feature_net {net} "
        f"--reference {statistics} --data_dir {tmp_path}"
    )
    assert "holds num_images 10000, fid (mu float64 (128,), sigma float64 (128, 128))" in told
    scores = json.loads((tmp_path / "fashionmnist" / "evaluation_images.json").read_text())[
        "scores"
    ]
    assert scores["fid"] > 10  # 0.06 for real images
    assert "class_accuracy" in scores


def test_its_mistakes_are_told_in_one_line(data_dir, tmp_path):
    command = [sys.executable, ROOT / "scripts" / "feature_net.py", "--dataset", "cifar10"]
    options = ["--data_dir", data_dir, "--device", "none", tmp_path / "net.pt"]
    result = subprocess.run([*command, *options], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("feature_net.py: error: unknown device 'none'")
    assert result.stderr.count("\n") == 1
