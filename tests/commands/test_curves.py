"""--curves as a user runs it, and the lines that name what was written."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from MaskGIT import main
from training.charts import draw_run
from training.tracking import MetricsFile


def write_run(folder, *losses, stage="maskgit"):
    """The folder of a run with an epoch for each loss."""
    folder.mkdir(parents=True)
    name = "metrics.jsonl" if stage == "maskgit" else f"metrics_{stage}.jsonl"
    metrics = MetricsFile(folder / name, 0)
    for epoch, loss in enumerate(losses, start=1):
        metrics.log({"train/loss": loss, "train/lr": 0.1}, 10 * epoch)
        metrics.log({"val/loss": loss}, 10 * epoch)
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder "runs" of the current folder, with two runs of stage 2 and one of stage 1."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    write_run(folder / "one", 3.0, 2.0)
    write_run(folder / "two", 3.0, 1.0)
    write_run(folder / "vae", 0.3, 0.2, stage="vqgan")
    return folder


@pytest.fixture
def curves(capsys):
    """Run the program; returns what it printed."""

    def call(*arguments):
        capsys.readouterr()
        main(["--curves", *map(str, arguments)])
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(curves, capsys, runs):
    """Run the program, which must end with one line and write nothing; returns the line."""

    def call(*arguments):
        before = sorted(runs.parent.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            curves(*arguments)
        assert stop.value.code == 2
        assert sorted(runs.parent.rglob("*")) == before
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return call


def colors_in(path, *colors):
    """For each color, given as #rrggbb, whether some pixel has it."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture).astype(int)
    wanted = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors]
    return [bool((abs(pixels - one).max(-1) < 8).any()) for one in wanted]


BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # of the first three runs


def test_runs_are_found_by_name_and_by_folder_and_drawn_in_the_output_folder(curves, runs):
    said = curves("one", "runs/two")
    picture = runs / "curves.png"
    assert said.splitlines() == [f"written: {picture}"]
    assert colors_in(picture, BLUE, ORANGE, GREEN) == [True, True, False]
    # The same run, written in two ways, is one.
    picture.unlink()
    curves("one", runs / "one")
    assert not picture.exists()
    assert colors_in(runs / "one" / "curves.png", ORANGE)  # training beside validation


def test_one_run_is_drawn_in_its_own_folder(curves, runs):
    said = curves("two")
    assert said.splitlines() == [f"written: {runs}/two/curves.png"]
    assert list(runs.glob("*.png")) == []


def test_each_stage_has_its_picture(curves, runs):
    said = curves("one", "two", "vae")
    assert said.splitlines() == [
        f"written: {runs}/{name}.png" for name in ("curves_vqgan", "curves")
    ]


def test_runs_of_one_name_are_called_as_they_were_written(runs, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("commands.curves.draw_curves", lambda *a: drawn.update(a[2]))
    write_run(tmp_path / "other" / "one", 3.0)
    main(["--curves", "one", "two"])
    assert list(drawn) == ["one", "two"]
    drawn.clear()
    main(["--curves", "one", "other/one", "two"])
    assert list(drawn) == ["one", "other/one", "two"]
    assert [len(rows) for rows in drawn.values()] == [4, 2, 4]


def test_a_pattern_of_the_shell_takes_what_is_no_run_too(curves, runs):
    (runs / "tokens").mkdir()
    (runs / "curves.png").write_bytes(b"an earlier picture")
    write_run(runs / "new")  # no epoch yet
    said = curves(*sorted(runs.glob("*")))
    without = ", ".join(f"{runs}/{name}" for name in ("curves.png", "new", "tokens"))
    assert f"left out, as no training has written numbers there: {without}\n" in said
    assert colors_in(runs / "curves.png", BLUE, ORANGE) == [True, True]


def test_damaged_lines_are_left_out_and_said(curves, runs):
    path = runs / "one" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20] + b"\n{half a li")
    assert f"{path}: lines that cannot be read, left out: 2" in curves("one")
    assert (runs / "one" / "curves.png").is_file()


def test_mistakes(refused, runs):
    assert (
        "--curves tow: there is no such folder, and no run of this name in runs, which has "
        "one, two, vae" in refused("one", "tow")
    )
    (runs / "tokens").mkdir()
    assert "--curves tokens: no numbers to draw" in refused("tokens")
    (runs / "one" / "metrics.jsonl").write_text("no JSON\n")
    assert "--curves one: no line of numbers can be read" in refused("one")
    assert "--run_name two: give the runs to draw after --curves" in refused(
        "one", "--run_name", "two"
    )
    assert "--curves needs a value, RUN: draw the training curves of runs, by name" in refused()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(refused, runs):
    (runs / "one").chmod(0o500)
    assert f"cannot write {runs}/one/curves.png" in refused("one")


def test_without_matplotlib_a_line_says_how_to_get_it(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = "--curves: matplotlib is missing: pip install -r requirements-plots.txt"
    assert said in refused("one", "two")


def test_a_dry_run_draws_nothing(curves, runs):
    said = curves("one", "two", "--dry_run")
    assert "one two" in said
    assert not list(runs.rglob("*.png"))


def test_a_run_that_the_same_command_trains_is_drawn(
    run, trained, tokenizer_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("training.charts.draw_run", draw_run)
    shutil.copytree(trained, tmp_path / "before")
    shape = "--embed_dim_t 8 --hidden_dim 16 --heads 2 --depth 1 --mlp_dim 16"
    said = run(
        f"--train --dataset mnist {shape} --n_epochs 1 --batch_size 16 --run_name now "
        f"--checkpoint_vae {tokenizer_file} --curves before now"
    )
    assert said.splitlines()[-1] == f"written: {tmp_path}/curves.png"
    assert colors_in(tmp_path / "curves.png", BLUE, ORANGE) == [True, True]
    assert (tmp_path / "now" / "curves.png").is_file()
    assert not (tmp_path / "before" / "curves.png").exists()


# --- The lines that name what was written ---


@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("--sample --num_samples 2 --save_steps", "samples/grid.png"),
        ("--edit --init_image mnist:1 --mask_box 0,0,8,8 --num_samples 2", "edits/grid.png"),
        ("--reconstruct", "reconstructions.png"),
    ],
)
def test_the_picture_is_named_last_as_the_shell_finds_it(
    trained, data_dir, tmp_path, monkeypatch, capsys, command, last
):
    monkeypatch.chdir(tmp_path)
    command = f"{command} --checkpoint {trained}/MaskGIT_mnist.pt --data_dir {data_dir}"
    main([*command.split(), "--output_dir", "my runs"])
    lines = capsys.readouterr().out.splitlines()
    written = [line.removeprefix("written: ") for line in lines if line.startswith("written: ")]
    paths = [Path(shlex.split(line)[0]) for line in written]  # a remark may follow
    assert paths[-1] == tmp_path / "my runs" / "mnist" / last
    assert lines[-1].startswith("written: ")
    assert all(path.is_absolute() and path.exists() for path in paths)
    assert len(set(paths)) == len(paths) > 1
