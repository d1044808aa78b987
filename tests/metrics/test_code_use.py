"""The picture of the use of codes, and the numbers behind it."""

import sys

import numpy as np
import pytest
from PIL import Image

from data.open import open_dataset
from metrics.code_use import draw_code_use
from models.open import load_tokenizer


def pixels(path, counts):
    draw_code_use(path, np.array(counts))
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


@pytest.mark.parametrize("counts", [[5], [1, 0], [7] * 16, [0] * 65535 + [1], range(100)])
def test_any_use_can_be_drawn(tmp_path, counts):
    assert pixels(tmp_path / "codes.png", list(counts)).min() < 100


def test_the_order_of_the_codes_does_not_matter_and_their_use_does(tmp_path):
    first = pixels(tmp_path / "codes.png", [9, 1, 0, 4])
    assert (first == pixels(tmp_path / "codes.png", [0, 4, 1, 9])).all()
    assert (first != pixels(tmp_path / "codes.png", [9, 1, 1, 3])).any()


def test_reconstruct_draws_what_it_counted(run, tokenizer_file, data_dir, tmp_path, monkeypatch):
    counted = []

    def draw(path, counts):
        counted.append(counts)
        draw_code_use(path, counts)

    monkeypatch.setattr("commands.reconstruct.draw_code_use", draw)
    told = run(f"--reconstruct --dataset mnist --checkpoint_vae {tokenizer_file}")
    assert f"written: {tmp_path}/mnist/codes.png\n" in told
    assert (tmp_path / "mnist" / "codes.png").is_file()
    # The tokens of the same images, counted one by one.
    tokenizer = load_tokenizer(tokenizer_file)
    expected = np.zeros(16, int)
    for image, _ in open_dataset("mnist", "validation", data_dir, 32, download=False):
        tokens = tokenizer.encode(image[None].float() / 127.5 - 1)
        for token in tokens.flatten().tolist():
            expected[token] += 1
    assert counted[0].tolist() == expected.tolist()
    assert expected.sum() == 20 * 64


def test_an_earlier_picture_goes_where_none_can_be_drawn(
    run, tokenizer_file, tmp_path, monkeypatch
):
    codes = tmp_path / "mnist" / "codes.png"
    codes.parent.mkdir()
    codes.write_bytes(b"the use of other codes")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = run(f"--reconstruct --dataset mnist --checkpoint_vae {tokenizer_file}")
    assert f"cannot draw {codes}: matplotlib is missing: pip install" in told
    assert "written:" in told
    assert "codes.png" not in told.split("written:", 1)[1]
    assert not codes.exists()
