"""The network that scripts/feature_net.py trains is one that --evaluate measures with."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


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


def test_an_epoch_is_needed():
    command = [sys.executable, ROOT / "scripts" / "feature_net.py", "--dataset", "mnist"]
    result = subprocess.run([*command, "--epochs", "0", "x"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "needs a whole number of at least 1, got '0'" in result.stderr


def test_its_mistakes_are_told_in_one_line(data_dir, tmp_path):
    command = [sys.executable, ROOT / "scripts" / "feature_net.py", "--dataset", "cifar10"]
    options = ["--data_dir", data_dir, "--device", "none", tmp_path / "net.pt"]
    result = subprocess.run([*command, *options], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("feature_net.py: error: unknown device 'none'")
    assert result.stderr.count("\n") == 1
