"""--evaluate and --sweep as a user runs them, against computations of their own."""

import csv
import gzip
import json
import math
import re
import shutil
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision
from conftest import REAL_FASHION_MNIST, TRAIN_TINY, stopped_at, write_idx
from dinov2_weights import weights
from PIL import Image
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from commands.evaluate import mean_and_spread
from commands.sweep import parse_grid
from MaskGIT import main
from metrics import extractor as extractors
from metrics.better import BETTER
from metrics.extractor import load_feature_net, load_inception
from metrics.references import Reference, cached_features
from metrics.report import report
from metrics.sweep_table import SweepTable
from models.open import load_model
from training.transformer_stage import MaskGITStage
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import file_digest


class SmallNet(nn.Module):
    """A fixed random network: 16 features and 10 logits of uint8 images (B, 1, H, W)."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 2), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            )  # fmt: skip
            self.head = nn.Linear(16, 10)

    def forward(self, images):
        features = 10 * self.layers(images.float() / 255)
        return features, self.head(features)


class SpatialNet(SmallNet):
    """The same with 12 spatial features."""

    def forward(self, images):
        features = 10 * self.layers(images.float() / 255)
        maps = nn.functional.adaptive_avg_pool2d(images.float() / 64, (3, 4))
        return features, self.head(features), maps.mean(1).flatten(1)


def save_script(net, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net.eval()).save(path)
    return path


@pytest.fixture(scope="session")
def feature_net(tmp_path_factory):
    return save_script(SmallNet(), tmp_path_factory.mktemp("net") / "net.pt")


def scores_of(folder, what="images", run="mnist"):
    return json.loads((folder / run / f"evaluation_{what}.json").read_text())


def independent_fid(fake, real):
    """Straight from uint8 (N, H, W): all at once, numpy's covariance, scipy's square root."""
    with torch.no_grad():
        a, b = (SmallNet()(torch.from_numpy(x[:, None]))[0].double().numpy() for x in (fake, real))
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = a.mean(0) - b.mean(0)
    return shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)


def resized(images, size=32):
    pages = [Image.fromarray(image).resize((size, size), Image.BILINEAR) for image in images]
    return np.stack([np.asarray(page) for page in pages])


@pytest.fixture(scope="module")
def real_images():
    if not REAL_FASHION_MNIST.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    with gzip.open(REAL_FASHION_MNIST / "train-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(16 + 700 * 784), np.uint8, offset=16).reshape(-1, 28, 28)


def test_real_fashion_mnist_agrees_with_an_independent_computation(
    real_images, feature_net, tmp_path, capsys
):
    train, fake = real_images[:400], resized(real_images[400:])
    for prefix in ("train", "t10k"):
        labels = np.zeros(len(train), np.uint8)
        write_idx(tmp_path / "FashionMNIST" / "raw", train, labels, prefix)
    np.savez(tmp_path / "fake.npz", arr_0=fake[..., None])
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(fake):
        Image.fromarray(image).save(tmp_path / "folder" / f"{index:03d}.png")

    found = []
    for images, batch_size in (("fake.npz", 300), ("folder", 37)):
        main(
            f"--evaluate --images {tmp_path / images} --dataset fashionmnist --data_dir {tmp_path} "
            f"--output_dir {tmp_path} --features {feature_net} --batch_size {batch_size}".split()
        )
        found.append(scores_of(tmp_path, run="fashionmnist"))
    expected = independent_fid(fake, resized(train))
    for result in found:
        assert result["scores"]["fid"] == pytest.approx(expected, rel=1e-3)
        # Whatever the file and the batches, the numbers are the same.
        assert result["scores"] == pytest.approx(found[0]["scores"], rel=1e-3)
        assert result["protocol"]["images"] == 300
        assert result["protocol"]["reference"]["split"] == "train"
        assert result["protocol"]["reference"]["resize"].startswith("shorter side")
        assert result["protocol"]["extractor"]["features"] == 16
        assert "published figures use 50000" in result["warning"]
    said = capsys.readouterr().out
    assert said.count("features of fashionmnist (train)") == 1  # kept for the second
    assert "inception_score" in said


@pytest.fixture
def evaluate(run, feature_net):
    return lambda arguments: run(f"--features {feature_net} {arguments}")


@pytest.fixture
def refused(evaluate, refusal):
    return lambda arguments: refusal(lambda: evaluate(arguments))


def test_the_dataset_itself_is_at_no_distance(evaluate, data_dir, tmp_path):
    with gzip.open(data_dir / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    np.savez(tmp_path / "same.npz", arr_0=images)  # other sizes are resized as the dataset is
    said = evaluate(f"--evaluate --images {tmp_path}/same.npz --reference validation")
    result = scores_of(tmp_path)
    assert result["scores"]["fid"] == pytest.approx(0, abs=1e-6)
    assert result["scores"]["recall"] == 1
    assert result["protocol"]["reference"]["split"] == "validation"
    assert "are resized to 32 x 32" in said
    evaluate(f"--evaluate --images {tmp_path}/same.npz --reference validation --resize adm")
    by_adm = scores_of(tmp_path)
    assert by_adm["scores"]["fid"] == pytest.approx(0, abs=1e-6)
    assert by_adm["protocol"]["reference"]["resize"].startswith("halved by boxes")


def test_a_written_reference_scores_as_the_split_does(evaluate, data_dir, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "fake.npz", arr_0=images)
    command = f"--evaluate --images {tmp_path}/fake.npz"
    said = evaluate(f"{command} --write_reference {tmp_path}/ours.npz")
    assert "ours.npz (the statistics of mnist (train), for other programs)" in said
    by_split = scores_of(tmp_path)
    for form in ("npz", "pkl"):
        file = tmp_path / f"ours.{form}"
        said = evaluate(f"{command} --write_reference {file}")
        said = evaluate(f"{command} --reference {file}")
        by_file, digest = scores_of(tmp_path), file_digest(file)[:16]
        assert by_file["scores"]["fid"] == pytest.approx(by_split["scores"]["fid"], rel=1e-12)
        assert by_file["protocol"]["reference"]["sha256"] == digest
        # The name and the digest of the reference are beside every score.
        scores = [line for line in said.splitlines() if line.endswith(f"ours.{form} {digest}")]
        assert len(scores) >= len(by_file["scores"])
        assert f"{by_file['scores']['fid']:.4f}" in scores[0]
        # The images in an .npz are enough for the scores that compare single images.
        assert ("recall" in by_file["scores"]) == (form == "npz")
    assert f"mnist train {by_split['protocol']['reference']['source']}" in by_split["basis"]


def test_a_tokenizer_is_compared_with_both_references(
    evaluate, tokenizer_file, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    command = f"--evaluate tokenizer --checkpoint_vae {tokenizer_file}"
    evaluate(f"{command} --reference train --write_reference {tmp_path}/train.npz")
    said = evaluate(f"{command} --reference {tmp_path}/train.npz")
    rfid, fid = scores_of(tmp_path, "tokenizer"), scores_of(tmp_path, "tokenizer_to_file")
    assert rfid["protocol"]["reference"]["split"] == "validation"
    assert fid["protocol"]["reference"]["file"] == "train.npz"
    assert "fid" not in rfid["scores"]
    assert "rfid" not in fid["scores"]
    assert rfid["scores"]["rfid"] != fid["scores"]["fid"]
    assert f"{fid['scores']['fid']:.4f}" in said
    assert f"{rfid['scores']['rfid']:.4f}" in said


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"mu": np.zeros(9), "sigma": np.eye(9)}, "features of width 16, not 9; it holds mu float"),
        ({"arr_0": np.zeros((20, 8, 8, 1), np.uint8)}, "its images do not have the 32 pixels"),
        ({"arr_0": np.zeros((4, 32, 32, 1), np.uint8)}, "too few images to measure, 4;"),
        ({"feats": np.zeros((4, 16))}, "too few images to measure, 4;"),
        ({"other": np.zeros(9)}, "it has no mu and sigma, feats, arr_0; it holds other float64"),
    ],
)
def test_references_that_do_not_fit(refused, tmp_path, content, error):
    np.savez(tmp_path / "fake.npz", arr_0=np.zeros((20, 32, 32, 1), np.uint8))
    np.savez(tmp_path / "reference.npz", **content)
    command = f"--evaluate --images {tmp_path}/fake.npz --reference {tmp_path}/reference.npz"
    assert error in refused(command)


def test_a_reference_needs_no_labels(evaluate, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "fake.npz", arr_0=images, arr_1=np.arange(20) % 10)
    np.savez(tmp_path / "reference.npz", arr_0=images)
    command = f"--evaluate --images {tmp_path}/fake.npz --reference {tmp_path}/reference.npz"
    assert "without labels" not in evaluate(command)
    assert scores_of(tmp_path)["scores"]["fid"] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="session")
def spatial_net(tmp_path_factory):
    return save_script(SpatialNet(), tmp_path_factory.mktemp("net") / "spatial.pt")


def test_the_protocol_of_adm_from_end_to_end(run, spatial_net, trained, tmp_path):
    of_net = f"--evaluate --features {spatial_net}"
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "fake.npz", arr_0=images)
    run(f"{of_net} --images {tmp_path}/fake.npz --write_reference {tmp_path}/adm.npz")
    said = run(
        f"{of_net} --protocol adm --reference {tmp_path}/adm.npz --num_samples 25 --batch_size 8 "
        f"--step 2 --checkpoint {trained}/MaskGIT_mnist.pt"
    )
    result = scores_of(tmp_path, "samples")
    names = ["fid", "sfid", "precision", "recall", "precision_float16", "recall_float16"]
    assert list(result["scores"]) == [*names, "inception_score"]
    digest = file_digest(tmp_path / "adm.npz")[:16]
    assert result["basis"] == f"adm, adm.npz {digest}"
    assert said.count(result["basis"]) == len(result["scores"]) + 1  # and in the protocol
    assert result["protocol"]["rounding"] == "down"
    assert "real against 25 images" in result["protocol"]["precision_recall"]
    assert result["protocol"]["labels"] == "all in turn"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--reference edm.npz", "sFID needs mu_s and sigma_s: take them, or another --protocol"),
        ("--images small.npz", "small.npz: 28 pixels, and the images to compare with have 32"),
        ("--images small", "000.png: 28 pixels, and the images to compare with have 32"),
        ("--labels 3", "--protocol adm samples all classes in turn; leave --labels out"),
    ],
)
def test_what_does_not_fit_the_protocol(
    refused, spatial_net, trained, tmp_path, monkeypatch, options, error
):
    monkeypatch.chdir(tmp_path)
    np.savez("edm.npz", mu=np.zeros(16), sigma=np.eye(16))
    images = np.zeros((20, 28, 28, 1), np.uint8)
    np.savez("small.npz", arr_0=images)
    (tmp_path / "small").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(f"small/{index:03d}.png")
    assert error in refused(
        f"--evaluate --protocol adm --features {spatial_net} --num_samples 20 --step 2 "
        f"--checkpoint {trained}/MaskGIT_mnist.pt {options}"
    )


def test_classes_that_are_missing_are_named(evaluate, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 1), np.uint8)
    labels = np.arange(30) % 7
    labels[:4] = 11, 77, -2, 10  # 10 means no class
    np.savez(tmp_path / "fake.npz", arr_0=images, arr_1=labels)
    said = evaluate(f"--evaluate --images {tmp_path}/fake.npz")
    assert "classes without an image, which raises FID: 3 of 10" in said
    assert "labels that are not classes of the dataset: 3 of 30" in said


def test_a_sweep_refuses_rows_of_another_protocol(evaluate, refused, trained, tmp_path):
    command = f"--sweep step=2 --checkpoint {trained}/MaskGIT_mnist.pt --num_samples 20"
    evaluate(f"{command} --protocol edm2")
    assert table_of(tmp_path)[0]["fid"]
    said = refused(f"{command} --protocol adm")
    assert "sweep.csv was measured with other settings (basis: edm2, mnist train" in said


def test_dinov2_from_end_to_end(run, tmp_path):
    torch.save(weights(256), tmp_path / "dinov2.pth")
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "fake.npz", arr_0=images)
    command = (
        f"--evaluate --images {tmp_path}/fake.npz --feature_weights {tmp_path}/dinov2.pth "
        "--protocol edm2 --features"
    )
    run(f"{command} dinov2 --reference validation --write_reference {tmp_path}/edm2.pkl")
    by_split = scores_of(tmp_path)
    assert list(by_split["scores"]) == ["fd_dinov2"]  # never under the name of an FID
    run(f"{command} dinov2 --reference {tmp_path}/edm2.pkl")
    assert scores_of(tmp_path)["scores"] == pytest.approx(by_split["scores"], rel=1e-9)
    run(f"{command} dinov2-pil --reference validation")
    by_pil = scores_of(tmp_path)
    assert by_pil["scores"] != by_split["scores"]
    assert by_pil["protocol"]["extractor"]["variant"] == "dinov2-pil"


@pytest.fixture
def stop_at(monkeypatch):
    """Count the images that extractors see, and stop at the n-th of them as Ctrl-C does."""
    seen, start_one = [], extractors.Extractor.start

    def counted(extractor, images):
        if len(seen) >= limit[0]:
            raise KeyboardInterrupt
        seen.extend(images)
        return start_one(extractor, images)

    limit = [10**9]
    monkeypatch.setattr(extractors.Extractor, "start", counted)

    def start(number):
        seen.clear()
        limit[0] = number
        return seen

    return start


@pytest.mark.parametrize(
    ("what", "protocol"),
    [("samples", "adm"), ("images", "ours"), ("tokenizer", "ours")],
)
def test_an_interrupted_evaluation_goes_on(
    run, spatial_net, trained, data_dir, tmp_path, stop_at, monkeypatch, what, protocol
):
    if what == "tokenizer":  # it stops in the middle of a block, so what was written before holds
        monkeypatch.setattr("metrics.unfinished.SAVE_SECONDS", 0.0)
        monkeypatch.setattr("metrics.unfinished.WAITS", 0)
    images = np.random.default_rng(0).integers(0, 256, (25, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "fake.npz", arr_0=images, arr_1=np.arange(25) % 10)
    measured = {
        "samples": f"--checkpoint {trained}/MaskGIT_mnist.pt --num_samples 25 --step 2",
        "images": f"--images {tmp_path}/fake.npz",
        "tokenizer": f"tokenizer --checkpoint {trained}/MaskGIT_mnist.pt",
    }
    command = (
        f"--evaluate {measured[what]} --features {spatial_net} --batch_size 8 --precision fp32 "
        f"--reference validation --protocol {protocol}"
    )
    run(command)
    whole = scores_of(tmp_path, what)
    shutil.rmtree(tmp_path / "tokens")  # with the features of the reference

    # Stopped in the 20 images of the reference, in those to score, and not at all.
    unfinished = tmp_path / "mnist" / f"evaluation_{what}.unfinished"
    rest = 4 if what == "tokenizer" else 9
    for limit, expected in ((10, 16), (16, 20), (10**9, rest)):
        seen = stop_at(limit)
        if limit < 10**9:
            with pytest.raises(SystemExit, match="130"):
                run(command)
        else:
            said = run(command)
        assert len(seen) == expected
        assert unfinished.is_file() == (limit == 16)
    assert "goes on after 16 images" in said
    assert scores_of(tmp_path, what) == whole
    assert not [*(tmp_path / "tokens").glob("*.unfinished")]


def test_an_interrupted_evaluation_goes_on_with_its_last_seed(
    evaluate, trained, tmp_path, stop_at, monkeypatch
):
    monkeypatch.setattr("metrics.unfinished.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("metrics.unfinished.WAITS", 0)
    command = (
        f"--evaluate --checkpoint {trained}/MaskGIT_mnist.pt --num_samples 24 --step 2 "
        "--batch_size 8 --reference validation --repeats 2"
    )
    evaluate(command)
    whole = scores_of(tmp_path, "samples")
    stop_at(24 + 8)
    with pytest.raises(SystemExit, match="130"):
        evaluate(command)
    seen = stop_at(10**9)
    evaluate(command)
    assert len(seen) == 16
    assert scores_of(tmp_path, "samples") == whole
    assert not [*(tmp_path / "mnist").glob("*.unfinished")]


def test_what_was_kept_of_another_evaluation_is_not_used(
    evaluate, data_dir, tmp_path, stop_at, monkeypatch
):
    monkeypatch.setattr("metrics.unfinished.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("metrics.unfinished.WAITS", 0)
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "fake.npz", arr_0=images)
    command = f"--evaluate --images {tmp_path}/fake.npz --reference validation --batch_size"
    evaluate(f"{command} 8")
    stop_at(24)
    with pytest.raises(SystemExit, match="130"):
        evaluate(f"{command} 8")
    unfinished = tmp_path / "mnist" / "evaluation_images.unfinished"
    content = unfinished.read_bytes()
    seen = stop_at(10**9)
    evaluate(f"{command} 7")  # other blocks
    assert len(seen) == 40
    for damaged in (content[:-9], content[:400] + b"x" + content[401:]):
        unfinished.write_bytes(damaged)
        seen = stop_at(10**9)
        assert "starts from the beginning" in evaluate(f"{command} 8")
        assert len(seen) == 40
    np.savez(tmp_path / "fake.npz", arr_0=images[::-1])
    unfinished.write_bytes(content)
    seen = stop_at(10**9)
    evaluate(f"{command} 8")  # other images
    assert len(seen) == 40


def test_samples_of_a_checkpoint(evaluate, trained, tmp_path):
    said = evaluate(
        f"--evaluate --checkpoint {trained}/MaskGIT_mnist.pt --num_samples 25 --batch_size 8 "
        "--step 3 --cfg_w 1 --precision fp32"
    )
    measured = scores_of(tmp_path, "samples")
    sampling = measured["protocol"]["sampling"]
    assert (sampling["step"], sampling["cfg_w"], sampling["r_temp"]) == (3, 1, 4.5)
    fingerprint = load_model(trained / "MaskGIT_mnist.pt").fingerprint
    assert measured["protocol"]["checkpoint"]["fingerprint"] == fingerprint
    assert 0 <= measured["scores"]["class_accuracy"] <= 1
    assert "checkpoint file MaskGIT_mnist.pt" in " ".join(said.split())
    # The same images, sampled into a file first.
    evaluate(
        f"--sample --evaluate --images {tmp_path}/mnist/samples/samples.npz --precision fp32 "
        f"--checkpoint {trained}/MaskGIT_mnist.pt --num_samples 25 --batch_size 8 --step 3 "
        "--cfg_w 1"
    )
    assert scores_of(tmp_path)["scores"] == pytest.approx(measured["scores"], rel=1e-4)


def test_real_images_are_shown_as_in_the_training(evaluate, refused, tokenizer_file, tmp_path):
    shown = "--fit pad --background gray"
    evaluate(f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} {shown}")
    path = tmp_path / "mnist" / "MaskGIT_mnist.pt"
    command = f"--evaluate --checkpoint {path} --reference validation --num_samples 20 --step 2"
    evaluate(command)
    rule = scores_of(tmp_path, "samples")["protocol"]["reference"]["resize"]
    assert rule.endswith("bars of gray in place of the crop")
    evaluate(f"{command} --fit crop")  # an option is stronger
    rule = scores_of(tmp_path, "samples")["protocol"]["reference"]["resize"]
    assert rule.endswith("centre crop, on gray")
    contents = load_checkpoint(path, "maskgit")
    save_checkpoint(path, "maskgit", {**contents, "look": {"fit": "squeeze"}})
    assert "--fit: invalid choice: 'squeeze' (choose from crop, pad)" in refused(command)


def test_scores_while_training(evaluate, tokenizer_file, tmp_path):
    command = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --precision fp32 --step 2"
    every = "--evaluate_every 1 --evaluate_samples 20"
    evaluate(f"{command} --run_name off")
    shown = evaluate(f"{command} --run_name on {every}")
    assert shown.count("samples: fid") == 2
    # The training is the same, bit for bit.
    off, on = (load_checkpoint(tmp_path / n / "MaskGIT_mnist.pt", "maskgit") for n in ("off", "on"))
    for name in ("weights", "ema"):
        assert all(torch.equal(on[name][key], value) for key, value in off[name].items())
    # The last scores are those of --evaluate.
    lines = (tmp_path / "on" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    fids = [row["samples/fid"] for row in rows if "samples/fid" in row]
    evaluate(
        f"--evaluate --checkpoint {tmp_path}/on/MaskGIT_mnist.pt --num_samples 20 --batch_size 16 "
        "--precision fp32 --step 2"
    )
    assert fids[1] == pytest.approx(scores_of(tmp_path, "samples")["scores"]["fid"], rel=1e-5)
    best = load_checkpoint(tmp_path / "on" / "MaskGIT_mnist_best_fid.pt", "maskgit")
    assert best["step"] == 3 * (1 + int(np.argmin(fids)))
    assert "no effect here: --features" in evaluate(f"{command} --run_name idle --n_epochs 1")


@pytest.mark.parametrize(
    "command",
    [
        "--evaluate --checkpoint {model} --num_samples 15",
        "--sweep cfg_w=1 --checkpoint {model} --num_samples 15",
        f"--train {TRAIN_TINY} --checkpoint_vae {{tokenizer}} --n_epochs 1 --evaluate_every 1 "
        "--evaluate_samples 15",
    ],
    ids=lambda command: command.split()[0],
)
def test_the_bar_moves_at_every_step_of_a_block(
    evaluate, trained, tokenizer_file, monkeypatch, command
):
    seen = []

    def update(bar, n=1):
        bar.n += n
        seen.append(bar.n)

    monkeypatch.setattr("utils.progress._Lines.update", update)
    files = {"model": trained / "MaskGIT_mnist.pt", "tokenizer": tokenizer_file}
    evaluate(f"{command.format(**files)} --batch_size 10 --step 2")
    assert seen[-6:] == pytest.approx([5, 10, 10, 12.5, 15, 15])  # the second block is padded


def test_a_run_with_scores_that_was_stopped_goes_on_bit_for_bit(evaluate, tokenizer_file, tmp_path):
    command = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --precision fp32 --step 2"
    command += " --evaluate_every 1 --evaluate_samples 20"
    evaluate(f"{command} --run_name whole")
    with stopped_at(MaskGITStage, 4):  # in the second epoch, after the first scores
        evaluate(f"{command} --run_name parts")
    evaluate(f"{command} --run_name parts --resume")
    for file in ("MaskGIT_mnist.pt", "MaskGIT_mnist_best_fid.pt"):
        whole, parts = (load_checkpoint(tmp_path / n / file, "maskgit") for n in ("whole", "parts"))
        assert whole["step"] == parts["step"]
        assert all(torch.equal(parts["ema"][key], value) for key, value in whole["ema"].items())
    fids = [
        [row["samples/fid"] for row in map(json.loads, text.splitlines()) if "samples/fid" in row]
        for text in ((tmp_path / n / "metrics.jsonl").read_text() for n in ("whole", "parts"))
    ]
    assert fids[0] == fids[1]
    assert len(fids[0]) == 2


def test_scores_of_several_seeds_that_are_not_finite_are_reported():
    scores = mean_and_spread([{"fid": math.inf, "kid": 1.0}, {"fid": 2.0, "kid": 3.0}])
    assert scores == pytest.approx(
        {"fid": math.inf, "fid_spread": math.nan, "kid": 2.0, "kid_spread": 2**0.5}, nan_ok=True
    )


def test_a_report_keeps_long_names_and_values_apart():
    name = "inception_score_std"
    scores = {name: 0.12345, f"{name}_spread": 0.5, "a_name_of_thirty_characters___": None}
    lines = report(scores, {"basis": "ours", "images": 2}).splitlines()
    assert lines[0].split() == [name, "0.1235", "±", "0.5000", "ours"]
    assert lines[1].split() == ["a_name_of_thirty_characters___", "not", "measured", "ours"]
    assert lines[0].index("0.1235") == lines[1].index("not measured")


def test_a_small_score_keeps_its_digits():
    scores = {"kid": -0.000023456, "kid_spread": 0.0000123, "recall": 0.0}
    lines = report(scores, {"basis": "ours", "images": 2}).splitlines()
    assert lines[0].split() == ["kid", "-2.35e-05", "±", "1.23e-05", "ours"]
    assert lines[1].split() == ["recall", "0", "ours"]


def test_other_seeds_and_single_classes(evaluate, trained, tmp_path):
    command = (
        f"--evaluate --checkpoint {trained}/MaskGIT_mnist.pt --num_samples 40 --step 2 "
        "--reference train --labels 1,2"
    )
    alone = []
    for seed in (1, 2):
        evaluate(f"{command} --seed {seed}")
        alone.append(scores_of(tmp_path, "samples")["scores"])
    evaluate(f"{command} --repeats 2 --per_class")
    result = scores_of(tmp_path, "samples")
    for name in alone[0]:
        one, other = (scores[name] for scores in alone)
        assert result["scores"][name] == pytest.approx((one + other) / 2)
        spread = abs(one - other) / 2**0.5
        assert result["scores"][f"{name}_spread"] == pytest.approx(spread, abs=1e-9)
    assert (result["protocol"]["seed"], result["protocol"]["repeats"]) == (1, 2)
    with (tmp_path / "mnist" / "evaluation_samples_classes.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["samples"] for row in rows] == ["0", "20", "20", *["0"] * 7]
    assert all(row["fid"] == "" for row in rows)  # the tiny classes have 5 real images each


def test_copies_of_training_images_are_named(real_images, feature_net, tmp_path, capsys):
    train, validation, fresh = real_images[:300], real_images[300:500], real_images[500:700]
    for prefix, images in (("train", train), ("t10k", validation)):
        labels = np.zeros(len(images), np.uint8)
        write_idx(tmp_path / "FashionMNIST" / "raw", images, labels, prefix)
    shown = {}
    for name, images in (("copies", train[40:140]), ("fresh", fresh)):
        np.savez(tmp_path / f"{name}.npz", arr_0=images[..., None])
        main(
            f"--evaluate --images {tmp_path}/{name}.npz --nearest --dataset fashionmnist "
            f"--data_dir {tmp_path} --output_dir {tmp_path} --features {feature_net} "
            "--batch_size 37".split()
        )
        shown[name] = scores_of(tmp_path, run="fashionmnist")["scores"]
        looks = "look like" if name == "copies" else "do not look like"
        assert f"the samples {looks} copies of training images" in capsys.readouterr().out
        with Image.open(tmp_path / "fashionmnist" / "evaluation_images_nearest.png") as picture:
            pairs = np.asarray(picture)[2:-2]
        top, bottom = pairs[:64], pairs[66:]  # images of 32 pixels are shown twice as large
        assert (top == bottom).all() == (name == "copies")
    assert (shown["copies"]["auth_pct"], shown["copies"]["close_share"]) == (0, 1)
    assert shown["fresh"]["auth_pct"] > 30
    assert shown["fresh"]["close_share"] < 0.05


def test_the_training_images_nearest_to_samples(evaluate, trained, tmp_path):
    said = evaluate(
        f"--evaluate --nearest --checkpoint {trained}/MaskGIT_mnist.pt --num_samples 25 "
        "--batch_size 8 --step 2 --repeats 2"
    )
    assert said.count("features of all training images") == 1
    assert 0 <= scores_of(tmp_path, "samples")["scores"]["auth_pct"] <= 100
    assert "evaluation_samples_nearest.png" in said
    assert not [*(tmp_path / "tokens").glob(".nearest*")]


def no_network(*arguments, **options):
    raise OSError("no network")


def no_network_needed(*arguments, **options):
    return None


def test_a_tokenizer(evaluate, tokenizer_file, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    said = evaluate(f"--evaluate tokenizer --checkpoint_vae {tokenizer_file}")
    result = scores_of(tmp_path, "tokenizer")
    assert result["protocol"]["images"] == 20
    assert {"rfid", "psnr", "ssim", "lpips", "codebook_usage"} <= result["scores"].keys()
    assert result["scores"]["lpips"] is None
    assert said.count("LPIPS is not measured: the VGG16 weights cannot be downloaded") == 1
    assert re.search("lpips +not measured", said)


def test_lpips_where_there_are_weights(evaluate, tokenizer_file, tmp_path):
    with torch.device("meta"):  # the true weights cannot be had here; any have their shapes
        shapes = torchvision.models.vgg16().features.state_dict()
    random = torch.Generator().manual_seed(0)
    weights = {name: 0.05 * torch.randn(x.shape, generator=random) for name, x in shapes.items()}
    torch.save({f"features.{name}": x for name, x in weights.items()}, tmp_path / "vgg.pth")
    command = f"--evaluate tokenizer --checkpoint_vae {tokenizer_file} --perceptual_vgg"
    evaluate(f"{command} {tmp_path}/vgg.pth --batch_size 7")
    found = scores_of(tmp_path, "tokenizer")["scores"]["lpips"]
    evaluate(f"{command} {tmp_path}/vgg.pth --batch_size 20")
    assert found == pytest.approx(scores_of(tmp_path, "tokenizer")["scores"]["lpips"], rel=1e-3)
    assert found > 0


def table_of(folder):
    with (folder / "mnist" / "sweep" / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_measures_every_setting_once(evaluate, refused, trained, tmp_path):
    command = f"--checkpoint {trained}/MaskGIT_mnist.pt --num_samples 20 --precision fp32"
    said = evaluate(f"--sweep step=2,4 {command} --cfg_w 1")
    rows = table_of(tmp_path)
    assert [(row["step"], row["cfg_w"]) for row in rows] == [("2", "1.0"), ("4", "1.0")]
    assert rows[0]["fid"] != rows[1]["fid"]
    assert all(row[score] for row in rows for score in BETTER)
    assert said.count("images_per_s=") == 3  # two rows and the best
    with Image.open(tmp_path / "mnist" / "sweep" / "sweep.png") as sheet:
        assert sheet.height > 2 * 32
    strips = list((tmp_path / "mnist" / "sweep" / "strips").iterdir())
    assert len(strips) == 2

    # A larger grid goes on from these rows; one is what --evaluate says.
    evaluate(f"--sweep r_temp=0,4.5 {command} --step 4 --cfg_w 1")
    extended = table_of(tmp_path)
    assert extended[:2] == rows
    assert [(row["step"], row["r_temp"]) for row in extended[2:]] == [("4", "0.0")]
    evaluate(f"--evaluate {command} --step 4 --cfg_w 1 --r_temp 0")
    alone = scores_of(tmp_path, "samples")["scores"]["fid"]
    assert float(extended[2]["fid"]) == pytest.approx(alone, rel=1e-4)

    # Rows that were measured in another way are not mixed in.
    said = refused(f"--sweep step=2 {command} --seed 7")
    assert "sweep.csv was measured with other settings (seed: 1, now 7)" in said
    assert table_of(tmp_path) == extended

    # A damaged row is measured again.
    table = tmp_path / "mnist" / "sweep" / "sweep.csv"
    table.write_text(table.read_text()[:-40])
    said = evaluate(f"--sweep r_temp=0 {command} --step 4 --cfg_w 1")
    assert f"{table}: damaged rows, measured again: 1" in said
    again = table_of(tmp_path)
    assert again[:2] == rows
    assert again[2]["fid"] == extended[2]["fid"]


def test_a_sweep_compares_schedules_and_intervals_of_guidance(evaluate, trained, tmp_path):
    command = f"--checkpoint {trained}/MaskGIT_mnist.pt --num_samples 20 --precision fp32 --step 4"
    intervals = "--cfg_schedule interval --sweep cfg_interval=[0.39,0.78],[0,1]"
    evaluate(f"{command} --cfg_w 5 {intervals}")
    evaluate(f"{command} --cfg_w 5 --sweep cfg_schedule=constant,interval")
    rows = {(row["cfg_schedule"], row["cfg_interval"]): row for row in table_of(tmp_path)}
    narrow, wide = "[0.39,0.78]", "[0.0,1.0]"
    assert [*rows] == [("interval", narrow), ("interval", wide), ("constant", narrow)]
    assert len(table_of(tmp_path)) == 3  # the row with both is found again
    # Guidance at every step is the constant schedule, which does not look at the interval.
    fid = {key: row["fid"] for key, row in rows.items()}
    assert fid["interval", wide] == fid["constant", narrow]
    assert fid["interval", narrow] != fid["interval", wide]
    assert all(float(row["images_per_s"]) > 0 for row in rows.values())


def test_a_sweep_without_rows_can_be_another(evaluate, trained, tmp_path):
    SweepTable(tmp_path / "mnist" / "sweep", {"images": 1000})  # stopped before the first row
    evaluate(f"--sweep step=2 --checkpoint {trained}/MaskGIT_mnist.pt --num_samples 20")
    assert len(table_of(tmp_path)) == 1


def test_a_grid_is_every_combination():
    grid = parse_grid("mask_value=none,3")
    assert grid == [{"mask_value": None}, {"mask_value": 3}]
    grid = parse_grid("step=1,2 --cfg-w=3")
    assert grid == [{"step": 1, "cfg_w": 3.0}, {"step": 2, "cfg_w": 3.0}]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--sweep", "cfgw=1"], "--sweep 'cfgw' is not a sampling option; did you mean cfg_w"),
        (["--sweep", "step=4,soon"], "--step: needs a whole number of at least 1, got"),
        (["--sweep", "sched_mode=arcos"], "--sched_mode: invalid choice: 'arcos'"),
        (["--sweep", "step"], "--sweep 'step': needs option=value,value"),
        (["--sweep", "step=2 step=4"], "--sweep names step twice"),
        (["--sweep", " "], "--sweep: is empty"),
        (["--sweep", "mask_value=99"], "--mask-value 99: the tokens are"),
        (["--sweep", "cfg_interval=0.4,0.8"], "--cfg_interval needs 2 numbers, as in [0.39,0.78]"),
        (["--sweep", "cfg_interval=[0.8,0.4]"], "--cfg_interval 0.8 0.4: must be two shares from"),
        (["--sweep", "step=2,,4"], "--sweep 'step=2,,4': needs option=value,value"),
        (["--evaluate", "--features", "no.pt"], "--features no.pt: it is neither inception nor"),
        (["--evaluate", "--features", "hf:me/net"], "nor a file on this machine"),
        (["--evaluate", "--features", __file__], "is not a TorchScript file"),
        (["--evaluate", "tokenizer", "--images", "x"], "reconstructs real images; leave --images"),
        (["--evaluate", "tokenizer", "--nearest"], "--nearest compares samples, or --images, with"),
        (["--evaluate", "tokenizer", "--repeats", "2"], "--repeats and --per_class measure"),
        (["--evaluate", "--images", "nowhere"], "--images nowhere: there is no such"),
        (["--evaluate", "--reference", "test"], "--reference test: it is neither train nor valid"),
        (["--evaluate", "--write_reference", "x.csv"], "its name must end in .npz (ADM, EDM"),
        (["--evaluate", "--write_reference", "x.npz", "--reference", __file__], "or name a split"),
        (["--evaluate", "--write_reference", f"{__file__}/x.npz"], ".py is a file, not a folder"),
        (["--evaluate", "--per_class", "--labels", "none"], "--per_class: no sample has a class"),
        (["--evaluate", "--reference", __file__], "it is not a .npz, a pickle or a file of torch"),
        (["--evaluate", "--features", __file__, "--feature_weights", __file__], "for --features"),
        (["--evaluate", "--features", "dinov2", "--protocol", "adm"], "Inception's features alone"),
        (["--evaluate", "--features", "dinov2", "--sweep", "step=2"], "run --evaluate alone"),
        (["--evaluate", "--size", "48"], "--size 48 contradicts"),
        (["--evaluate", "--num_samples", "5"], "too few images to measure, 5;"),
        (["--evaluate", "--feature_weights", "x.pth"], "--feature_weights x.pth: there is no"),
        (["--evaluate", "--feature_weights", __file__], "its SHA-256 starts with"),
    ],
)
def test_mistakes_are_told_in_one_line(
    trained, data_dir, feature_net, tmp_path, refusal, arguments, error
):
    if not {"--features", "--feature_weights"} & set(arguments):
        arguments = [*arguments, "--features", str(feature_net)]
    common = f"--checkpoint {trained}/MaskGIT_mnist.pt --data_dir {data_dir} --output_dir"
    assert error in refusal(lambda: main([*arguments, *common.split(), str(tmp_path)]))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"arr_0": np.zeros((20, 8, 8, 1))}, "are float64 (20, 8, 8, 1)"),
        ({"arr_0": np.zeros((20, 8), np.uint8)}, "are uint8 (20, 8)"),
        ({"images": np.zeros((20, 8, 8, 1), np.uint8)}, "arr_0"),
        (b"PK no archive", "fake.npz: it is damaged (BadZipFile"),
    ],
)
def test_files_without_images(refused, tmp_path, content, error):
    file = tmp_path / "fake.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **content)
    assert error in refused(f"--evaluate --images {file}")


def test_a_feature_net_that_is_replaced_meanwhile_is_not_named_for_another(
    feature_net, tmp_path, monkeypatch
):
    path, load = tmp_path / "net.pt", torch.jit.load
    shutil.copy(feature_net, path)

    def replaced(file, **options):
        net = load(file, **options)
        save_script(Wrong("nan"), tmp_path / "other.pt").replace(path)
        return net

    monkeypatch.setattr(torch.jit, "load", replaced)
    with pytest.raises(UserError, match=r"net\.pt was changed or replaced while it was read"):
        load_feature_net(path, torch.device("cpu"))


class Wrong(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        features = images.float().mean((2, 3))
        if self.kind == "maps":
            features = images.float()
        if self.kind == "color":
            features = images[:, 2].float().mean(2)
        if self.kind == "nan":
            features = features * float("nan")
        return features


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("maps", "returns (20, 1, 32, 32) for 20 images"),
        ("color", "fails on images uint8 (20, 1, 32, 32)"),
        ("nan", "returns values that are not finite"),
    ],
)
def test_networks_that_do_not_fit(refused, tmp_path, kind, error):
    save_script(Wrong(kind), tmp_path / "wrong.pt")
    np.savez(tmp_path / "fake.npz", arr_0=np.zeros((20, 32, 32, 1), np.uint8))
    assert error in refused(
        f"--evaluate --images {tmp_path}/fake.npz --features {tmp_path}/wrong.pt "
        "--reference validation"
    )


def test_damaged_kept_features_are_noticed(evaluate, refused, tmp_path):
    np.savez(tmp_path / "fake.npz", arr_0=np.zeros((20, 32, 32, 1), np.uint8))
    command = f"--evaluate --images {tmp_path}/fake.npz --reference validation"
    evaluate(command)
    (kept,) = (tmp_path / "tokens").glob("features-mnist-validation-*.pt")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 255
    kept.write_bytes(content)
    error = refused(command)
    assert str(kept) in error
    assert "delete the file to extract the features again" in error


@pytest.mark.parametrize(
    "change",
    [{"count": 19}, {"count": "20"}, {"mean": None}, {"kept": torch.zeros(3)}, {"more": 1}],
    ids=str,
)
def test_kept_features_that_cannot_be_are_noticed(feature_net, tmp_path, change):
    extractor = load_feature_net(feature_net, torch.device("cpu"))
    about = Reference("mnist (validation)", "mnist-validation", "mnist 1234", {"images": 20})
    blocks = [(np.zeros((20, 32, 32, 1), np.uint8), np.zeros(20, np.int64))]

    def features():
        return cached_features(extractor, about, lambda start: blocks, tmp_path)

    features()
    (kept,) = tmp_path.glob("features-mnist-validation-*.pt")
    stored = load_checkpoint(kept, "reference features")
    stored["features"] |= change
    save_checkpoint(kept, "reference features", stored)
    with pytest.raises(UserError, match=rf"{kept.name} is damaged .*; delete the file to extract"):
        features()


def test_inception_weights_that_cannot_be_had_name_the_file(
    trained, data_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for mode in ("--evaluate", "--sweep step=2"):
        with pytest.raises(SystemExit):
            main(
                f"{mode} --checkpoint {trained}/MaskGIT_mnist.pt --data_dir {data_dir} "
                f"--output_dir {tmp_path}".split()
            )
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert extractors.INCEPTION_FILE in said.err
        assert "--feature_weights FILE" in said.err
        assert "sampling" not in said.out


def test_inception_sees_gray_images_as_color(tmp_path, monkeypatch):
    # The true weights cannot be had here; those of a network that was not loaded have their shapes.
    library, file = "torch_fidelity.feature_extractor_inceptionv3", tmp_path / "weights.pth"
    with monkeypatch.context() as patch:
        patch.setattr(f"{library}.load_state_dict_from_url", no_network_needed)
        patch.setattr(f"{library}.FeatureExtractorInceptionV3.load_state_dict", no_network_needed)
        torch.save(FeatureExtractorInceptionV3("random", ["2048"]).state_dict(), file)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", file_digest(file)[:8])

    inception = load_inception(file, torch.device("cpu"))
    color = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    features, logits, _ = inception(color)
    reference = FeatureExtractorInceptionV3(
        "reference", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    expected = reference(torch.from_numpy(color).permute(0, 3, 1, 2))
    torch.testing.assert_close((features, logits), expected)
    assert features.shape == (2, 2048)
    gray = color[..., :1]
    assert inception(gray).features.equal(inception(gray.repeat(3, axis=3)).features)

    # Images that have the size of the network are not resized, by any rule.
    full = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3), np.uint8)
    clean = load_inception(file, torch.device("cpu"), resize="clean")
    for found, expected in zip(clean(full)[:2], inception(full)[:2], strict=True):
        torch.testing.assert_close(found, expected)
    assert not clean(color).features.allclose(features)

    # With the features of sFID the others stay the same, bit for bit.
    both = load_inception(file, torch.device("cpu"), with_spatial=True)(color)
    assert both.features.equal(features)
    assert both.logits.equal(logits)
    maps = {}
    branch = reference.Mixed_6d.branch1x1
    branch.register_forward_hook(lambda layer, inputs, output: maps.update(found=output.numpy()))
    reference(torch.from_numpy(color).permute(0, 3, 1, 2))
    # In the order of the TensorFlow graph, (B, H, W, C); it takes the first 7 channels.
    expected = np.moveaxis(maps["found"], 1, -1)[..., :7].reshape(2, 17 * 17 * 7)
    np.testing.assert_array_equal(both.spatial.numpy(), expected)
