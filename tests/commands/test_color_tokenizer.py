"""The bundled tokenizer for color images: where it is taken, at which sizes, and how good it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_TRANSFORMER
from PIL import Image, ImageDraw
from torch import Tensor

from commands.parser import parse
from commands.resolve import resolved
from metrics.reconstruction import ReconstructionMeter
from models.open import BUNDLED, BUNDLED_FOR_COLOR, load_tokenizer
from utils.errors import UserError
from utils.pictures import from_uint8

COLORS = ("crimson", "gold", "seagreen", "royalblue", "orchid", "sienna")


def drawing(index: int, size: int) -> Image.Image:
    """A disc and a box of two colors on white or on a third one."""
    picture = Image.new("RGB", (size, size), ("white", COLORS[-1 - index % 6])[index % 2])
    pen, place = ImageDraw.Draw(picture), size * (1 + index % 4) // 10
    pen.ellipse((place, place, place + size // 2, place + size // 2), COLORS[index % 6])
    pen.rectangle((size // 2, size // 2, size - place, size * 3 // 4), COLORS[(index + 2) % 6])
    return picture


def drawings(count: int, size: int) -> Tensor:
    pixels = np.stack([np.array(drawing(index, size)) for index in range(count)])
    return from_uint8(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))))


@pytest.fixture
def resolve(tmp_path: Path) -> Callable[[str], Any]:
    """Resolve a training on a folder of drawings; returns its Job."""
    for index in range(6):
        place = tmp_path / "data" / ("even", "odd")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        drawing(index, 90).save(place / f"{index}.png")

    def call(options: str) -> Any:
        line = parse(
            f"--train --dataset folder --data_dir {tmp_path}/data --output_dir {tmp_path}/runs "
            f"--no_wandb {TINY_TRANSFORMER} {options}".split()
        )
        with resolved(line) as jobs:
            (job,) = jobs.values()
        return job

    return call


@pytest.mark.parametrize(
    ("options", "size", "grid"),
    [("", 64, 16), ("--size 32", 32, 8), ("--size 128", 128, 32), ("--size 20", 20, 5)],
)
def test_a_color_set_without_a_tokenizer_gets_it_at_its_own_size(
    resolve, options, size, grid, capsys
):
    job = resolve(options)
    assert job.tokenizer.shape.image_size == (size, size)
    assert job.config.seq_len == grid**2
    said = capsys.readouterr().out
    assert "no tokenizer was trained for folder: the bundled one for color images" in said
    weights = job.tokenizer.open().network.state_dict()
    bundled = load_tokenizer(BUNDLED_FOR_COLOR).network.state_dict()
    assert all(map(Tensor.equal, weights.values(), bundled.values()))


def test_a_size_that_it_cannot_have_is_refused(resolve):
    with pytest.raises(UserError, match=r"`image_size` 66: .* multiple of 4, e\.g\. 64 or 68"):
        resolve("--size 66")


def test_a_tokenizer_of_the_run_wins(resolve, tmp_path, capsys):
    own = tmp_path / "runs" / "folder" / "VQGAN_folder.pt"
    own.parent.mkdir(parents=True)
    own.write_bytes(BUNDLED_FOR_COLOR.read_bytes())
    resolve("")
    said = capsys.readouterr().out
    assert f"tokenizer {own}" in said
    assert "the bundled one" not in said


def test_gray_sets_do_not_get_it(run, capsys):
    assert (BUNDLED / "VQGAN_fashionmnist.pt").is_file()
    with pytest.raises(SystemExit):
        run("--train --dataset mnist")
    assert "no tokenizer for mnist: train one" in capsys.readouterr().err


@pytest.mark.parametrize("size", [32, 64, 128])
def test_it_keeps_drawings_and_their_colors(size):
    images = drawings(12, size)
    meter = ReconstructionMeter(load_tokenizer(BUNDLED_FOR_COLOR, given={"image_size": size}))
    list(meter.reconstruct(iter([(images, torch.zeros(len(images)))])))
    found = meter.result()
    assert found["l1"] < 0.1
    for name in ("luma", "red_green", "blue_yellow"):
        assert found[f"{name}_correlation"] > 0.93


def test_the_file_is_small():
    assert BUNDLED_FOR_COLOR.stat().st_size < 11e6
