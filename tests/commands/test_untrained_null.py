"""A model that was trained with --drop-label 0: no mode guides away from its null class."""

from pathlib import Path

import numpy as np
import pytest
from conftest import TRAIN_TINY
from PIL import Image

from commands import page as page_mode
from commands.parser import parse
from MaskGIT import main
from models.open import load_model
from page.catalog import OpenModel
from utils.checkpoint import load_checkpoint
from utils.records import read_record

TRAIN = f"--train {TRAIN_TINY} --n_epochs 1 --drop-label 0"


@pytest.fixture(scope="module")
def model(data_dir: Path, tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("untrained")
    main(
        f"{TRAIN} --checkpoint_vae {tokenizer_file} --data_dir {data_dir} --output_dir {output} "
        "--no_wandb".split()
    )
    return output / "mnist" / "MaskGIT_mnist.pt"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_the_checkpoint_and_the_run_know_it(model):
    assert load_checkpoint(model, "maskgit")["config"]["null_trained"] is False
    kept = read_record(model.parent / "config.json", ("maskgit",))["maskgit"]
    assert kept["drop_label"] == 0


def test_without_an_option_there_is_no_guidance(run, model, tokenizer_file, picture):
    """In no mode: the last column of a plan is the guidance."""
    made = f"--checkpoint {model} --dry_run --step 4"
    for modes in (
        f"--show_plan {made}",
        f"--sample {made}",
        f"--edit {made} --init_image {picture} --mask_box 0,0,9,9 --labels 3",
        f"{TRAIN} --sample --checkpoint_vae {tokenizer_file} --dry_run --step 4 --run_name other",
    ):
        rows = [line.split() for line in run(modes).splitlines()]
        plan = [row for row in rows if len(row) == 4 and row[0].isdecimal()]
        assert len(plan) == 4, modes
        assert {float(row[-1]) for row in plan} == {0}, modes
    swept = run(f"--sweep step=1,2 {made.removesuffix('--step 4')}")
    assert ["cfg_w", "0.0"] in [line.split() for line in swept.splitlines()]
    assert "student" in run(f"--distill 1 {made.removesuffix('--step 4')}")


@pytest.mark.parametrize(
    "options",
    ["--sample --cfg_w 3", "--show_plan --cfg_w 0.5", "--evaluate --cfg_w 1", "--sweep cfg_w=0,1",
     "--distill 1 --teacher_cfg_w 1"],
)  # fmt: skip
def test_guidance_that_is_asked_for_is_refused(refused, model, options):
    said = refused(f"{options} --checkpoint {model} --dry_run")
    assert "no trained null class" in said
    assert "cfg_w" in said
    assert said.endswith("use 0\n")


@pytest.mark.parametrize("options", ["--cfg_w 2", "--labels none"])
def test_previews_cannot_use_it_either(refused, tokenizer_file, options):
    said = refused(f"{TRAIN} --checkpoint_vae {tokenizer_file} {options} --dry_run")
    assert options.split()[0] in said


@pytest.mark.parametrize(
    "options", ["--sample --labels none", "--sample --labels 3,none", "--edit"]
)
def test_images_of_no_class_are_refused(refused, model, picture, options):
    if options == "--edit":
        options = f"--edit --init_image {picture} --mask_box 0,0,9,9"
    said = refused(f"{options} --checkpoint {model} --dry_run")
    assert "--labels none: this model was never trained without classes" in said


def test_the_page_begins_without_guidance_and_without_no_class(model):
    form = page_mode._form(parse(["--page"]))
    opened = OpenModel(model, load_model(model, device="cpu"), print, print)
    shown = opened.describe(form)
    assert (shown["has_null"], shown["usual"]["cfg_w"]) == (False, 0)
    assert form.read({"step": 3}, opened.model.usual).guidance == 0


def test_all_labels_cannot_be_dropped(refused):
    assert "needs a number from 0 to below 1, got '1'" in refused("--train --drop-label 1")
