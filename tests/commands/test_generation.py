"""Sampling control and editing through the real command line."""

import re

import numpy as np
import pytest
from conftest import TRAIN_TINY
from PIL import Image

from commands import model_source
from data.edit_region import box_mask, outpainted
from MaskGIT import main
from models.cells import hidden_cells
from training.run_folder import RunFiles
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.files import exclusive_lock

SAMPLES = "mnist/samples/samples.npz"


@pytest.fixture
def model(trained):
    return trained / "MaskGIT_mnist.pt"


@pytest.fixture
def sampled(run, model, tmp_path):
    def sample(options):
        run(f"--sample --checkpoint {model} {options}")
        with np.load(tmp_path / SAMPLES) as stored:
            return stored["arr_0"], stored["arr_1"]

    return sample


@pytest.fixture(scope="module")
def plain(trained, tmp_path_factory):
    """Samples at the default settings, with much guidance."""
    folder = tmp_path_factory.mktemp("plain")
    command = f"--sample --checkpoint {trained}/MaskGIT_mnist.pt --num_samples 20 --cfg_w 5"
    main(f"{command} --output_dir {folder} --seed 1".split())
    with np.load(folder / SAMPLES) as stored:
        return stored["arr_0"]


@pytest.mark.parametrize(
    "option",
    ["--sampler halton", "--sampler random", "--sampler moment", "--cfg_schedule constant",
     "--cfg_schedule interval", "--cfg_schedule power-cosine", "--labels none"],
)  # fmt: skip
def test_options_change_the_samples(sampled, plain, option):
    changed, _ = sampled(f"--num_samples 20 --cfg_w 5 {option}")
    assert changed.shape == plain.shape
    assert (changed != plain).any()


def test_the_bar_advances_at_every_step_of_every_part_of_a_block(sampled, monkeypatch):
    seen = []

    def update(bar, n=1):
        bar.n += n
        seen.append(bar.n)
        assert bar.total == 15

    monkeypatch.setattr("utils.progress._Lines.update", update)
    monkeypatch.setattr("models.generator.MOST_LOGITS", 5 * 64 * 16)  # parts of 5 images
    sampled("--num_samples 15 --batch_size 10 --step 4")  # two blocks, the second one padded
    first, last = ([(step + 1) / 8 for step in range(8)] for _ in range(2))
    steps = [*(10 * part for part in first), 10, *(10 + 5 * part for part in last), 15]
    assert seen[:18] == pytest.approx(steps)


def test_the_interval_decides_where_there_is_guidance(sampled, run, model):
    options = "--labels 1x20 --cfg_w 5 --step 4 --cfg_schedule interval"
    middle, _ = sampled(options)
    wide, _ = sampled(f"{options} --cfg_interval 0,1")
    same, _ = sampled("--labels 1x20 --cfg_w 5 --step 4 --cfg_schedule constant")
    assert (wide == same).all()
    assert (wide != middle).any()
    none, _ = sampled(f"{options} --cfg_interval 0.92,0.98")
    unguided, _ = sampled("--labels 1x20 --cfg_w 0 --step 4")
    assert (none == unguided).all()
    said = run(f"--show_plan --checkpoint {model} {options} --cfg_interval 0.92 0.98")
    assert "--cfg_w 5: no step is guided; see --cfg_interval" in said
    assert "no effect here: --cfg_interval" not in said


def test_an_interval_without_its_schedule_has_no_effect_and_it_is_said(run, model):
    said = run(f"--show_plan --checkpoint {model} --cfg_interval 0.1,0.2")
    assert "no effect here: --cfg_interval" in said
    said = run(f"--show_plan --checkpoint {model} --cfg_w 0 --cfg_schedule constant")
    assert "no effect here: --cfg_schedule" in said


def test_previews_and_edits_are_guided_in_the_interval(run, edited, tokenizer_file, tmp_path):
    options = "--init_image mnist:3 --mask_box 0,0,32,16 --cfg_w 50 --cfg_schedule interval"
    assert (edited(options) != edited(f"{options} --cfg_interval 0.92,0.98")).any()
    grids = []
    for name, interval in (("near", "0.39,0.78"), ("all", "0,1"), ("off", "0.92,0.98")):
        run(
            f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --run_name {name} --cfg_w 5 "
            f"--num_samples 40 --cfg_schedule interval --cfg_interval {interval}"
        )
        [grid] = (tmp_path / name / "samples").rglob("*.png")
        grids.append(grid.read_bytes())
    assert len(set(grids)) == 3


def test_labels_by_name_range_and_repeat(sampled):
    assert sampled("--labels 3,3,7")[1].tolist() == [3, 3, 7]
    assert sampled("--labels 0-2x2 none")[1].tolist() == [0, 1, 2, 0, 1, 2, 10]


def test_an_image_does_not_depend_on_the_others(sampled):
    all_images, _ = sampled("--labels 0-9 --batch_size 4")
    some, _ = sampled("--labels 4-7 --first_image 4 --batch_size 4")
    assert (some == all_images[4:8]).all()
    other_neighbors, _ = sampled("--labels 9,9,9,3,0 --batch_size 4")
    assert (other_neighbors[3] == all_images[3]).all()


def test_a_wrong_label_is_found_before_training(refused, tokenizer_file, tmp_path):
    command = f"--train --sample {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --labels fuor"
    assert "fuor" in refused(command)
    assert not (tmp_path / "mnist").exists()


def test_the_plan_is_shown_without_sampling(run, model, tmp_path):
    printed = run(f"--show_plan --checkpoint {model} --step 4 --cfg_w 3")
    assert printed.splitlines()[-1].split() == ["4", "26", "0.000", "3.000"]
    assert not any(tmp_path.iterdir())


def test_steps_are_shown_with_hidden_tokens_hatched(run, model, tmp_path):
    run(f"--sample --checkpoint {model} --labels 1,2 --step 3 --save_steps")
    folder = tmp_path / "mnist" / "samples"
    strip = np.array(Image.open(folder / "steps.png"))
    assert strip.shape == (2 * (64 + 2) + 2, 4 * (64 + 2) + 2)  # two images, start and three steps
    hatched = np.isin(strip, (96, 160))
    shares = [hatched[:, 66 * i : 66 * (i + 1)].mean() for i in range(4)]
    assert shares[0] > 0.9
    assert shares == sorted(shares, reverse=True)
    with np.load(folder / "samples.npz") as stored:
        last = strip[2:66, 66 * 3 + 2 : 66 * 4].repeat(1, axis=0)
        assert (last == stored["arr_0"][0, ..., 0].repeat(2, 0).repeat(2, 1)).all()
    with Image.open(folder / "steps.gif") as animation:
        assert animation.n_frames == 4


def test_steps_show_what_the_model_imagines(run, model, tmp_path):
    strips = {}
    for view in ("hidden", "imagined"):
        run(f"--sample --checkpoint {model} --labels 1,2 --step 3 --save_steps {view}")
        strip = np.array(Image.open(tmp_path / "mnist" / "samples" / "steps.png"))
        strips[view] = [strip[:, 66 * step : 66 * (step + 1)] for step in range(4)]
    # Nothing is imagined before the first step; at the last one the image is finished.
    for step, is_same in enumerate([True, False, False, True]):
        covered, whole = strips["hidden"][step], strips["imagined"][step]
        assert (covered == whole).all() == is_same
        hatched = np.isin(whole, (96, 160)).mean()
        assert (hatched > 0.9) == (step == 0)


def test_another_first_image_shows_other_images(sampled):
    first, _ = sampled("--num_samples 5")
    second, labels = sampled("--num_samples 5 --first_image 5")
    assert labels.tolist() == list(range(5, 10))
    assert (second != first).any()


# --- Editing


def test_a_cell_is_hidden_if_it_overlaps_the_mask():
    mask = box_mask((8, 8), [(1, 0, 3, 1)])
    assert hidden_cells(mask, (4, 4)).tolist()[0] == [True, True, False, False]
    assert hidden_cells(mask, (4, 4)).sum() == 2
    grown = hidden_cells(mask, (4, 4), grow=1)
    assert grown[:2, :3].all()
    assert grown.sum() == 6
    assert hidden_cells(np.zeros((8, 8), bool), (4, 4), grow=2).sum() == 0


def test_outpainting_shifts_what_is_known():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    shifted, new = outpainted(image, {"left": 3, "top": 2})
    assert (shifted[2:, 3:] == image[:6, :5]).all()
    assert new.sum() == 64 - 6 * 5
    middle, _ = outpainted(image, {"left": 2, "right": 2})
    assert (middle[:, 2:6] == image[:, 2:6]).all()


@pytest.fixture
def edited(run, model, tmp_path):
    def edit(options):
        run(f"--edit --checkpoint {model} --num_samples 6 {options}")
        files = sorted((tmp_path / "mnist" / "edits" / "images").iterdir())
        return np.stack([np.array(Image.open(file)) for file in files])

    return edit


@pytest.fixture
def picture(tmp_path):
    gradient = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4
    Image.fromarray(gradient).save(tmp_path / "picture.png")
    return gradient


def test_known_pixels_are_those_of_the_image(edited, picture, tmp_path):
    variants = edited(f"--init_image {tmp_path}/picture.png --mask_box 8,4,20,16 --step 4")
    known = np.ones((32, 32), bool)
    known[4:16, 8:20] = False
    assert (variants[:, known] == picture[known]).all()
    assert (variants[:, ~known] != picture[~known]).any()
    assert (variants[0] != variants[1]).any()
    assert (tmp_path / "mnist" / "edits" / "grid.png").is_file()


def test_known_tokens_never_change(model, tokenizer_file):
    import torch

    from models.maskgit.config import TransformerConfig
    from models.maskgit.transformer import MaskedTransformer
    from models.predictors import KnownTokens, prepare_decoding
    from models.sampling import SamplingConfig

    stored = load_checkpoint(model, "maskgit")
    transformer = MaskedTransformer(TransformerConfig(**stored["config"])).eval()
    transformer.load_state_dict(stored["ema"])
    tokens, hidden = torch.randint(0, 16, (64,)), torch.rand(64) < 0.5
    known = KnownTokens(tokens, hidden)
    made = prepare_decoding(
        transformer, np.arange(5), np.arange(5), SamplingConfig(), 0, known=known
    ).result()
    assert (made[:, ~hidden] == tokens[~hidden]).all()
    assert (made < 16).all()
    assert (made[:, hidden] != tokens[hidden]).any()


def test_a_file_is_shown_as_the_images_of_the_training(run, model, picture, tmp_path):
    contents = load_checkpoint(model, "maskgit")
    save_checkpoint(
        tmp_path / "bars.pt",
        "maskgit",
        {**contents, "look": {"fit": "pad", "background": "#404040"}},
    )
    wide, mask = picture[:16].copy(), np.zeros((16, 32), np.uint8)
    wide[0], mask[8:, :16] = 0, 255
    opacity = np.where(np.arange(16)[:, None] > 0, 255, 0).repeat(32, 1).astype(np.uint8)
    Image.fromarray(np.dstack([wide, opacity]), "LA").save(tmp_path / "wide.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit = (
        f"--edit --checkpoint {tmp_path}/bars.pt --init_image {tmp_path}/wide.png "
        f"--mask_image {tmp_path}/mask.png --num_samples 1 --step 1"
    )
    run(edit)
    image = np.array(Image.open(tmp_path / "mnist" / "edits" / "images" / "000000.png"))
    assert (image[[*range(9), *range(24, 32)]] == 0x40).all()
    assert (image[9:16] == wide[1:8]).all()
    assert (image[16:24, 16:] == wide[8:, 16:]).all()
    assert (image[16:24, :16] != wide[8:, :16]).any()
    run(f"{edit} --fit crop")  # an option is stronger
    image = np.array(Image.open(tmp_path / "mnist" / "edits" / "images" / "000000.png"))
    assert (image[8] != 0x40).any()


def test_without_composition_the_tokenizer_renders_the_known_part_too(edited, picture, tmp_path):
    options = f"--init_image {tmp_path}/picture.png --mask_box 0,0,8,8"
    assert (edited(f"{options} --no_composite")[:, 16:] != picture[16:]).any()


def test_everything_may_be_made_again(edited, picture, tmp_path):
    everything = edited(f"--init_image {tmp_path}/picture.png --mask_box 0,0,32,32")
    assert (everything != picture).any()


def test_growing_the_mask_makes_more_tokens(run, model):
    options = f"--edit --checkpoint {model} --init_image mnist:0 --mask_box 8,8,9,9"
    assert "tokens: 1 of 64" in run(options)
    assert "tokens: 9 of 64" in run(f"{options} --mask_grow 1")


def test_images_of_the_dataset_and_other_sizes_can_be_edited(edited, tmp_path):
    assert edited("--init_image mnist:3 --outpaint left=8 bottom=4").shape == (6, 32, 32)
    Image.new("RGBA", (50, 40), (200, 0, 0, 255)).save(tmp_path / "red.png")
    Image.new("L", (90, 90), 255).save(tmp_path / "mask.png")
    variants = edited(f"--init_image {tmp_path}/red.png --mask_image {tmp_path}/mask.png")
    assert variants.shape == (6, 32, 32)


def test_images_are_found_where_the_training_found_them(
    model, refusal, tmp_path, monkeypatch, data_dir, capsys
):
    monkeypatch.chdir(tmp_path)
    edit = f"--edit --checkpoint {model} --init_image mnist:3 --mask_box 0,0,8,8 --dry_run"
    main(edit.split())
    assert re.search(rf"^data_dir +{data_dir}$", capsys.readouterr().out, re.M)
    said = refusal(lambda: main(f"{edit} --data_dir elsewhere".split()))  # an option is stronger
    assert "elsewhere" in said


@pytest.mark.parametrize(
    ("settings", "is_here"),
    [
        ({"maskgit": "HERE", "vqgan": "/"}, True),
        ({"student": "HERE"}, True),
        ({"vqgan": "HERE"}, False),
        ({"maskgit": "."}, False),
        ({"maskgit": "/" + "x" * 300}, False),
        ({"maskgit": ""}, False),
    ],
)
def test_the_folder_of_a_training_is_used_if_it_is_here(tmp_path, monkeypatch, settings, is_here):
    """A config.json may be of another machine, or come from anybody."""
    stored = {s: {"data_dir": str(tmp_path) if d == "HERE" else d} for s, d in settings.items()}
    monkeypatch.setattr(model_source, "read_config", lambda _run: stored)
    found = {"data_dir": str(tmp_path)} if is_here else {}
    assert model_source._data_folder(RunFiles(tmp_path)) == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--mask_box 0,0,8,8", "--init_image"),
        ("--init_image mnist:3", "--mask_box"),
        ("--init_image mnist:99 --mask_box 0,0,8,8", "0 to 19"),
        ("--init_image absent.png --mask_box 0,0,8,8", "absent.png"),
        ("--init_image mnist:3 --mask_box 8,8,8,9", "empty"),
        ("--init_image mnist:3 --mask_box 8,8,40,9", "leaves the image"),
        ("--init_image mnist:3 --outpaint left=32", "leaves nothing"),
        ("--init_image {folder}/broken.png --mask_box 0,0,8,8", "broken.png"),
    ],
)
def test_wrong_edits_are_named(refused, model, tmp_path, options, said):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    assert said in refused(f"--edit --checkpoint {model} {options.format(folder=tmp_path)}")
    assert not (tmp_path / "mnist").exists()


# --- What is there before the new images are


def everything(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize("step", ["composite", "save_grid", "publish"])
def test_an_edit_that_is_stopped_loses_nothing(edited, picture, tmp_path, monkeypatch, step):
    command = f"--init_image {tmp_path}/picture.png --mask_box 0,0,8,8"
    edited(command)
    earlier = everything(tmp_path / "mnist" / "edits")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"commands.edit.{step}", stopped)
        with pytest.raises(SystemExit, match="130"):
            edited(f"{command} --seed 5")
    now = everything(tmp_path / "mnist" / "edits")
    assert earlier == {name: now[name] for name in earlier}
    assert (edited(f"{command} --num_samples 3")).shape[0] == 3
    assert not (tmp_path / "mnist" / "edits" / "partial").exists()


def test_of_two_edits_at_once_one_is_refused(edited, refusal, picture, tmp_path):
    command = f"--init_image {tmp_path}/picture.png --mask_box 0,0,8,8"
    edited(command)
    earlier = everything(tmp_path / "mnist" / "edits")
    lock = tmp_path / "mnist" / "edits" / ".lock"
    with exclusive_lock(lock, "taken"):
        said = refusal(lambda: edited(f"{command} --seed 5"))
    assert "another job is editing into" in said
    assert everything(tmp_path / "mnist" / "edits") == earlier
