"""The network that scripts/feature_net.py trains is one that --evaluate measures with."""

import hashlib
import json
import runpy
from os.path import relpath
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "feature_net.py"
BUNDLED = ROOT / "metrics" / "pretrained"


@pytest.fixture
def script(monkeypatch):
    """Run the script with these arguments, as Python does."""

    def call(arguments: str) -> None:
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments.split()])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return call


def test_a_classifier_of_a_dataset_measures_samples_of_it(
    run, script, trained, data_dir, tmp_path, capsys
):
    net = tmp_path / "net.pt"
    options = f"--dataset mnist --data_dir {data_dir} --epochs 12 --batch_size 16 {net}"
    script(options)
    assert f"{net}: 1.0000 of 20 images recognized" in capsys.readouterr().out
    run(
        f"--evaluate --checkpoint {trained}/MaskGIT_mnist.pt --features {net} --num_samples 20 "
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
    said = run(
        f"--evaluate --images {tmp_path}/images.npz --dataset fashionmnist --data_dir {tmp_path} "
        f"--features {relpath(net)} --reference {relpath(statistics)}"
    )
    assert "holds num_images 10000, fid (mu float64 (128,), sigma float64 (128, 128))" in said
    scores = json.loads((tmp_path / "fashionmnist" / "evaluation_images.json").read_text())[
        "scores"
    ]
    assert scores["fid"] > 10  # 0.06 for real images
    assert "class_accuracy" in scores


def test_its_mistakes_are_told_in_one_line(script, refusal, data_dir, tmp_path):
    options = f"--dataset cifar10 --data_dir {data_dir} --device none {tmp_path}/net.pt"
    assert refusal(lambda: script(options)).startswith(
        "feature_net.py: error: unknown device 'none'"
    )
