"""A family is a folder and a row: toys go through the whole command line without another change."""

import base64
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_families
from conftest import TRAIN_TINY
from page_served import serving
from torch import Tensor, nn
from toy_families import (
    CountConfig,
    CountNetwork,
    GrayConfig,
    GrayNetwork,
    RowConfig,
    RowNetwork,
)

from MaskGIT import main
from models.open import load_model, load_tokenizer
from models.tokenizer import Tokenizer
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError

TRAIN_MODERN = (
    "--train --transformer modern --dataset mnist --batch_size 16 --hidden_dim 8 --heads 2 "
    "--depth 1 --mlp_dim 8"
)
QUICK = "--num_samples 2 --step 2"  # of previews, which take long with 70,000 codes
TRAIN_COUNT = "--train --transformer count --dataset mnist --batch_size 16 --hidden_dim 6 --lr 1e-2"


@pytest.fixture(autouse=True, scope="module")
def _toys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        toy_families.register(patch)
        yield


@dataclass(frozen=True)
class Case:
    """A pair of families: the options that train it, and what is special about it."""

    network: GrayNetwork
    train: str
    transformer: str
    has_null: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.network.config.image_size, 1)

    @property
    def has_cells(self) -> bool:
        return len(self.network.config.grid) == 2


CASES = {
    "no null class": Case(GrayNetwork(GrayConfig()), TRAIN_COUNT, "count", has_null=False),
    "70,000 codes": Case(
        GrayNetwork(GrayConfig(codebook_size=70_000)), f"--train {TRAIN_TINY}", "maskgit"
    ),
    "modern": Case(GrayNetwork(GrayConfig()), TRAIN_MODERN, "modern"),
    "12 tokens in a row": Case(RowNetwork(RowConfig()), f"--train {TRAIN_TINY}", "maskgit"),
}


@dataclass(frozen=True)
class World:
    """A model that was trained and resumed, and how a user calls the program for it."""

    case: Case
    output: Path
    data: Path
    net: Path

    @property
    def model(self) -> Path:
        return self.output / "mnist" / "MaskGIT_mnist.pt"

    def run(self, arguments: str) -> None:
        common = f"--data_dir {self.data} --output_dir {self.output} --no_wandb"
        main(f"{arguments} {common}".split())

    def refusal(self, arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            self.run(arguments)
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said


class Floats(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float()


@pytest.fixture(scope="module", params=CASES)
def world(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> World:
    case, output = CASES[request.param], tmp_path_factory.mktemp("families")
    save_checkpoint(output / "toy.pt", "vqgan", {"tokenizer": Tokenizer(case.network).entry()})
    net = nn.Sequential(Floats(), nn.AdaptiveAvgPool2d(2), nn.Flatten())  # four features
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(output / "net.pt")
    made = World(case, output, data_dir, output / "net.pt")
    made.run(f"{case.train} --n_epochs 1 --checkpoint_vae {output / 'toy.pt'} {QUICK}")
    made.run("--train --resume --n_epochs 2 --dataset mnist")
    return made


def test_it_is_trained_and_resumed(world):
    stored = load_checkpoint(world.model, "maskgit")
    assert (stored["family"], stored["step"]) == (world.case.transformer, 6)
    kept = json.loads((world.output / "mnist" / "config.json").read_text())["maskgit"]
    assert kept["transformer"] == world.case.transformer
    assert ("heads" in kept) == (world.case.transformer != "count")
    (tokens,) = world.output.glob("tokens/mnist-train-*/tokens.npy")
    codes = world.case.network.config.codebook_size
    assert np.load(tokens).dtype == (np.uint32 if codes > 2**16 else np.uint16)


def test_it_goes_on_as_what_it_is(world, capsys):
    other = "count" if world.case.has_null else "maskgit"
    said = world.refusal(f"--train --resume --transformer {other} --dataset mnist", capsys)
    assert f"--transformer {other}: the run in {world.model.parent} was" in said


@pytest.mark.parametrize("sampler", ["confidence", "halton"])
def test_it_is_sampled(world, sampler):
    world.run(f"--sample --dataset mnist --num_samples 5 --step 2 --sampler {sampler}")
    with np.load(world.output / "mnist" / "samples" / "samples.npz") as stored:
        assert stored["arr_0"].shape == (5, *world.case.shape)
        assert stored["arr_1"].tolist() == [0, 1, 2, 3, 4]


def test_an_image_of_it_is_edited_if_its_tokens_have_cells(world, capsys):
    command = "--edit --dataset mnist --init_image mnist:3 --mask_box 0,0,4,8 --num_samples 2"
    if world.case.has_cells:
        world.run(command)
        assert len(list((world.output / "mnist" / "edits" / "images").iterdir())) == 2
    else:
        assert "12 tokens describes the whole image" in world.refusal(command, capsys)
        assert "--save_steps" in world.refusal("--sample --dataset mnist --save_steps", capsys)


def test_it_is_evaluated(world):
    world.run(f"--evaluate --dataset mnist --num_samples 12 --step 2 --features {world.net}")
    scores = json.loads((world.output / "mnist" / "evaluation_samples.json").read_text())
    assert scores["protocol"]["images"] == 12


def test_the_page_shows_decodes_and_edits_it(world):
    config = world.case.network.config
    with serving(world.data) as serve:
        page = serve(world.output)
        shown = page.json(f"api/models/{page.model}")
        assert shown["has_null"] == world.case.has_null
        assert tuple(shown["grid"]) == config.grid
        (run,) = page.json("api/runs")
        assert page.ask(f"api/runs/{run['id']}/preview/maskgit/6")[0] == 200
        usual = {"count": 2, "sampling": {"cfg_w": 0.0}}
        *_, step, done = page.events(**usual)
        assert len(done["files"]) == 2
        tokens = np.frombuffer(base64.b64decode(step["tokens"]), "<u4")
        assert len(tokens) == 2 * config.seq_len
        assert tokens.max() < config.codebook_size
        edit = {"validation": 3, "cells": [0]}
        if world.case.has_cells:
            assert len(page.events(edit=edit, **usual)[-1]["files"]) == 2
        else:
            assert "12 tokens describes the whole image" in page.refusal(edit=edit, **usual)


def test_a_dry_run_describes_it(world, capsys):
    capsys.readouterr()
    world.run(
        f"{world.case.train} --checkpoint_vae {world.output / 'toy.pt'} --dry_run --run_name new"
    )
    said = capsys.readouterr().out
    config = world.case.network.config
    assert f"{config.seq_len}, codebook of {config.codebook_size}" in said
    assert "stage 2 takes" in said
    guidance = [row.split()[3] for row in said.splitlines() if row.strip()[:1].isdecimal()]
    assert any(float(weight) > 0 for weight in guidance[1:]) == world.case.has_null


def test_labels_and_guidance_that_it_does_not_have_are_refused(world, capsys):
    model = load_model(world.model, device="cpu")
    last = len(model.class_names)
    if world.case.has_null:
        assert model.sample([last - 1, "none"]).shape == (2, *world.case.shape)
        return
    for labels in (["none"], [last]):
        with pytest.raises(UserError, match="class"):
            model.sample(labels)
    with pytest.raises(UserError, match="null class"):
        model.sample([0], guidance=1.0)
    image, mask = np.zeros(world.case.shape, np.uint8), np.ones(world.case.shape[:2], bool)
    with pytest.raises(UserError, match="labels"):
        model.edit(image, mask)
    assert model.edit(image, mask, [1]).shape == (1, *world.case.shape)
    assert (model.usual.guidance, model.usual.num_steps) == (0, 3)
    assert "--drop-label 0.1" in world.refusal(
        f"{world.case.train} --checkpoint_vae {world.output / 'toy.pt'} --drop-label 0.1 "
        "--run_name other",
        capsys,
    )
    assert "no other program reads" in world.refusal(
        f"--export {world.output}/other.pt --dataset mnist", capsys
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--train --transformer other", "--transformer: invalid choice: 'other' (choose from "),
        ("--train_vae --tokenizer other", "--tokenizer: invalid choice: 'other' (choose from "),
        ("--train_vae --tokenizer gray", "--tokenizer gray: this program trains vqgan"),
        ("--train --transformer count --heads 2", "--heads 2: the new transformer belongs to"),
        ("--train --n_embed 99", "--n_embed 99: the tokenizer of"),
        ("--train --remap codes.npy", "--remap codes.npy: the tokenizer of"),
    ],
)
def test_what_no_network_has_is_refused(options, said, data_dir, tmp_path, capsys):
    save_checkpoint(
        tmp_path / "toy.pt", "vqgan", {"tokenizer": Tokenizer(GrayNetwork(GrayConfig())).entry()}
    )
    if options.startswith("--train "):
        options += f" --checkpoint_vae {tmp_path / 'toy.pt'}"
    with pytest.raises(SystemExit, match="2"):
        main(
            f"{options} --dataset mnist --data_dir {data_dir} --output_dir {tmp_path} "
            "--no_wandb".split()
        )
    assert said in capsys.readouterr().err


def test_an_option_that_no_network_of_the_file_has_is_refused(world, capsys):
    for option in ("--n_embed 99", *(("--heads 2",) if not world.case.has_null else ())):
        said = world.refusal(f"--sample {option} --dataset mnist", capsys)
        assert option in said
        assert "has no such field" in said


def test_files_of_other_programs_are_recognized_by_their_contents(tmp_path: Path) -> None:
    torch.save(GrayNetwork(GrayConfig()).state_dict(), tmp_path / "gray.pt")
    torch.save(CountNetwork(CountConfig(6, 10, 16)).state_dict(), tmp_path / "count.pt")
    tokenizer = load_tokenizer(tmp_path / "gray.pt", image_size=8)
    model = load_model(tmp_path / "count.pt", tokenizer=tokenizer, device="cpu")
    assert model.sample([1, 2], guidance=0).shape == (2, 8, 8, 1)
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"no gray levels"):
        load_tokenizer(tmp_path / "other.pt")


def test_a_family_that_this_program_lacks_is_named(tmp_path: Path) -> None:
    entry = {**Tokenizer(GrayNetwork(GrayConfig())).entry(), "family": "of the future"}
    save_checkpoint(tmp_path / "a.pt", "vqgan", {"tokenizer": entry})
    with pytest.raises(
        UserError, match=r"a\.pt cannot be opened: unknown tokenizer family 'of the"
    ):
        load_tokenizer(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("mode", "option", "names"),
    [("--train", "--transformer", ["count"]), ("--train_vae", "--tokenizer", ["gray", "row"])],
)
def test_help_and_a_refusal_name_all_families(mode, option, names, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([mode, "--help"])
    described = capsys.readouterr().out.split(f"{option} NAME")[1].split("\n  --")[0]
    with pytest.raises(SystemExit, match="2"):
        main([mode, option, "other"])
    refused = capsys.readouterr().err
    for name in names:
        assert f" {name}" in described
        assert name in refused.split("choose from")[1]
