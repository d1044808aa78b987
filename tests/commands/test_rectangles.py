"""Images that are not square, from a folder to pictures: 16 pixels high and 32 wide."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_CODES
from PIL import Image

from commands import page as page_mode
from commands.parser import parse
from data.open_dataset import open_dataset
from MaskGIT import main
from models.open import load_model
from page.catalog import OpenModel
from page.reading import read_decoding

TINY = (
    "--channels 32 --ch_mult 1,1 --num_res_blocks 1 --attn_resolutions 8 --z_channels 8 "
    f"{TINY_CODES} --n_epochs_vae 1 --batch_size_vae 8 --embed_dim_t 8 --hidden_dim 16 --heads 2 "
    "--depth 1 --mlp_dim 16 --n_epochs 1 --batch_size 8"
)
HEIGHT, WIDTH = 16, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on photos of 30 x 50 pixels, whose left or right half is bright."""
    root = tmp_path_factory.mktemp("rectangles")
    for split, count in (("train", 16), ("validation", 6)):
        for index in range(count):
            image = np.full((30, 50, 3), 10 * index, np.uint8)
            image[:, 25 * (index % 2) :][:, :25, 0] = 255
            place = root / "data" / split / ("left", "right")[index % 2] / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
    call(root, f"--train_vae --train --size {HEIGHT}x{WIDTH} {TINY}")
    return root


def call(root: Path, arguments: str) -> None:
    common = f"--dataset folder --data_dir {root}/data --output_dir {root}/runs --no_wandb"
    main(f"{arguments} {common}".split())


def test_a_run_on_rectangles_goes_on_as_it_began(folder, refusal):
    kept = json.loads((folder / "runs" / "folder" / "config.json").read_text())
    assert kept["vqgan"]["size"] == kept["maskgit"]["size"] == "16x32"
    call(folder, "--train --resume --n_epochs 2")
    for size in ("32x16", "16"):
        said = refusal(lambda size=size: call(folder, f"--sample --size {size}"))
        assert f"--size {size} contradicts" in said


@pytest.mark.parametrize("sampler", ["confidence", "halton"])
def test_samples_and_films_are_rectangles(folder, sampler):
    call(folder, f"--sample --num_samples 4 --save_steps --sampler {sampler}")
    samples = folder / "runs" / "folder" / "samples"
    with np.load(samples / "samples.npz") as stored:
        assert stored["arr_0"].shape == (4, HEIGHT, WIDTH, 3)
    with Image.open(samples / "images" / "000003.png") as image:
        assert image.size == (WIDTH, HEIGHT)
    assert (samples / "steps.gif").is_file()


def test_what_is_kept_of_an_edited_rectangle_stays(folder):
    call(folder, "--edit --init_image folder:1 --mask_box 20,0,32,16 --num_samples 1")
    path = folder / "runs" / "folder" / "edits" / "images" / "000000.png"
    made = np.asarray(Image.open(path))
    call(folder, "--edit --init_image folder:1 --outpaint left=8 --num_samples 1")
    moved = np.asarray(Image.open(path))
    assert made.shape == moved.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(made[:, :20], moved[:, 8:28])


def test_tokens_of_a_rectangle_have_rows_and_columns(folder):
    model = load_model(folder / "runs" / "folder" / "MaskGIT_folder.pt", device="cpu")
    assert model.tokenizer.image_size == (HEIGHT, WIDTH)
    assert model.tokenizer.grid == (8, 16)
    *_, step = model.decode_steps([0])
    assert step.tokens.shape == (1, 8, 16)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3, 31] = True
    known, region = model.known_tokens(np.zeros((HEIGHT, WIDTH, 3), np.uint8), mask, grow=1)
    hidden = known.hidden.unflatten(0, (8, 16))
    assert hidden.nonzero().tolist() == [[r, c] for r in (0, 1, 2) for c in (14, 15)]
    assert region.sum() == 6 * 4


def test_the_page_edits_a_rectangle(folder):
    form = page_mode._form(parse(["--page", "--output_dir", str(folder)]))
    path = folder / "runs" / "folder" / "MaskGIT_folder.pt"
    images = open_dataset("folder", "validation", folder / "data", (HEIGHT, WIDTH))
    opened = OpenModel(path, load_model(path, device="cpu"), lambda: images, print)
    shown = opened.describe(form)
    assert (shown["size"], shown["grid"]) == ((HEIGHT, WIDTH), (8, 16))
    edit = {"validation": 0, "cells": [15, 31], "down": 1, "right": -2}
    decoding = read_decoding({"count": 1, "seed": 1, "edit": edit}, opened, form)
    assert {"--mask_box 30,0,32,4", "--outpaint right=4 top=2"} <= set(decoding.command or ())
    *_, before, last = [event for event in decoding.events() if event["event"] == "step"]
    (file,) = last["files"]
    for picture in (before["imagined"], file):
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (WIDTH, HEIGHT)
