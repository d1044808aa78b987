"""scripts/results.py on files as --evaluate writes them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.results import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Runs the script on files with these contents."""

    def call(**files):
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{name}.json").write_text(text)
        paths = [str(tmp_path / f"{name}.json") for name in files]
        monkeypatch.setattr("sys.argv", ["results.py", *paths])
        main()

    return call


def evaluation(basis="mnist train 1234", seed=0, **scores):
    protocol = {
        "basis": basis,
        "images": 2000,
        "extractor": {"name": "net.pt", "sha256": "beef"},
        "checkpoint": {"file": "MaskGIT_mnist.pt", "fingerprint": "f00d"},
        "seed": seed,
        "precision": "torch.bfloat16",
    }
    return {"scores": scores, "basis": basis, "protocol": protocol, "warning": None}


def test_scores_that_cannot_be_compared_are_never_in_one_table(results, capsys):
    results(
        a=evaluation(fid=0.43211, fid_spread=0.021, kid_std=1, recall=None),
        b=evaluation(fid=0.5, seed=7, precision=0.8),
        c=evaluation("mnist validation 5678", fid=0.2),
    )
    first, second = capsys.readouterr().out.split("\n\n### ")
    assert first.startswith("### mnist train 1234, net.pt beef, 2000 images\n")
    header, _, a, b = first.strip().splitlines()[2:]
    assert header == "| file | fid | recall | precision | checkpoint | seed | computed in |"
    assert a.endswith(".json | 0.4321 ± 0.021 |  |  | f00d | 0 | bfloat16 |")
    assert b.endswith(".json | 0.5 |  | 0.8 | f00d | 7 | bfloat16 |")
    assert second.startswith("mnist validation 5678, net.pt beef, 2000 images\n")
    assert "/c.json | 0.2 | f00d | 0 | bfloat16 |" in second


def test_likelihoods_of_other_images_are_never_in_one_table(results, capsys):
    found = {split: evaluation("tokens of f00d", nats_per_token=3) for split in ("a", "b")}
    for split, one in found.items():
        one["protocol"] |= {"dataset": "mnist", "split": split, "source": "1234"}
    results(**found)
    assert capsys.readouterr().out.count("### tokens of f00d, net.pt beef, mnist ") == 2


@pytest.mark.parametrize("content", ["no json", "[]", '{"scores": {}}', '{"protocol": {}}'])
def test_another_file_is_named_in_one_line(results, capsys, content):
    with pytest.raises(SystemExit, match="2"):
        results(other=content)
    error = capsys.readouterr().err
    assert "other.json does not hold the scores of an evaluation" in error
    assert error.count("\n") == 1


def test_a_missing_file_is_named():
    command = [sys.executable, ROOT / "scripts" / "results.py", "nowhere.json"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    assert "nowhere.json" in found.stderr
