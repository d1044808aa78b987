"""--resume on the real command line: the same images under the same names, or a refusal."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import torch
from children import exit_code, fork
from conftest import BOTH, stopped_at, write_images
from PIL import Image

import commands.train
import training.runs
import utils.device
from MaskGIT import main
from training.run_folder import RunFolder
from training.run_record import MADE_FROM, read_config
from training.tracking import read_metrics
from training.transformer_stage import MaskGITStage
from training.vqgan_stage import VQGANStage
from utils.checkpoint import load_checkpoint
from utils.records import read_record, write_record

ROOT = Path(__file__).parents[2]
STAGES = {"maskgit": "--train --n_epochs 2", "vqgan": "--train_vae --n_epochs_vae 2"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A run of both stages on a folder with the classes a2 and a10; the parent of both."""
    world = tmp_path_factory.mktemp("zoo")
    write_images(world / "images", ("a2", "a10"))
    main(
        f"--train_vae --train --dataset folder --data_dir {world}/images --output_dir {world}/runs "
        f"--n_epochs 1 --n_epochs_vae 1 --publish last --no_wandb {BOTH}".split()
    )
    return world


@pytest.fixture
def world(zoo, tmp_path):
    """A copy of it."""
    for name in ("images", "runs"):
        shutil.copytree(zoo / name, tmp_path / name)
    return tmp_path


def resume(world: Path, stage: str, more: str = "") -> None:
    main(
        f"{STAGES[stage]} --resume --dataset folder --data_dir {world}/images "
        f"--output_dir {world}/runs {more}".split()
    )


def files(world: Path) -> dict[Path, bytes]:
    """Everything in the run folder."""
    paths = (world / "runs" / "folder").rglob("*")
    return {path: path.read_bytes() for path in paths if path.is_file() and path.name != ".lock"}


def refusal(world: Path, stage: str, capsys, more: str = "") -> str:
    """The line with which a resumed run is refused; nothing is changed."""
    before = files(world)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        resume(world, stage, more)
    assert stop.value.code == 2
    assert files(world) == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def rename(folder: Path, old: str, new: str) -> None:
    for split in ("train", "val"):
        (folder / split / old).rename(folder / split / new)


def run_of(world: Path) -> RunFolder:
    return RunFolder(world / "runs" / "folder", "folder")


def names_of(world: Path, stage: str) -> list[str]:
    return load_checkpoint(run_of(world).published(stage), stage)["class_names"]


def epochs_of(world: Path, stage: str) -> int:
    """Epochs that the published checkpoint has seen; an epoch has two steps."""
    return load_checkpoint(run_of(world).published(stage), stage)["step"] // 2


def precision_of(world: Path, stage: str) -> str:
    return read_config(run_of(world))[stage]["precision"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("option", ["", "--precision auto"])
def test_a_run_keeps_what_auto_became(world, stage, monkeypatch, capsys, option):
    """On another machine, which is faster in the other precision."""
    kept = precision_of(world, stage)
    other = {"fp32": "bf16", "bf16": "fp32"}[kept]
    monkeypatch.setattr(utils.device, "_has_fast_bfloat16", lambda device: other == "bf16")
    said = refusal(world, stage, capsys, f"--precision {other}")
    assert f"--precision {other}: the run in" in said
    resume(world, stage, f"{option} --dry_run --no_wandb")
    assert re.search(rf"^precision +{kept}\b", capsys.readouterr().out, re.M)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_kept_auto_goes_on_in_any_precision(world, precision):
    """Earlier versions did not write down what it became."""
    config = read_config(run_of(world))
    config["maskgit"]["precision"] = "auto"
    write_record(run_of(world).config, config)
    resume(world, "maskgit", f"--precision {precision} --no_wandb")
    assert precision_of(world, "maskgit") == precision


@pytest.mark.parametrize("stage", STAGES)
def test_a_class_with_another_name_is_refused(world, stage, capsys):
    rename(world / "images", "a2", "zebra")
    assert "class 0 was a2, is zebra" in refusal(world, stage, capsys)


@pytest.mark.parametrize("stage", STAGES)
def test_another_dataset_of_equal_size_is_refused(world, stage, capsys):
    shutil.rmtree(world / "images")
    write_images(world / "images", ("bus", "car"))
    said = refusal(world, stage, capsys)
    assert "class 0 was a2, is bus, class 1 was a10, is car" in said


@pytest.mark.parametrize("stage", STAGES)
def test_other_pixels_in_files_of_equal_names_and_sizes_are_refused(world, stage, capsys):
    write_images(world / "images", ("a2", "a10"), seed=1)
    assert "the images of the run in" in refusal(world, stage, capsys)


@pytest.mark.parametrize("stage", STAGES)
def test_other_validation_images_are_refused(world, stage, capsys):
    """A validation loss that they give cannot be compared with the lowest one until then."""
    write_images(world / "more", ("a2",), seed=1)
    (world / "more/val/a2/0.bmp").rename(world / "images/val/a2/more.bmp")
    assert "the validation images of the run in" in refusal(world, stage, capsys)
    resume(world, stage, "--new_images")
    assert epochs_of(world, stage) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_swapped_labels_are_refused(world, stage, capsys):
    rename(world / "images", "a2", "a10_")
    rename(world / "images", "a10", "a2")
    rename(world / "images", "a10_", "a10")
    assert "the images of the run in" in refusal(world, stage, capsys)


@pytest.mark.parametrize("stage", STAGES)
def test_images_that_moved_go_on(world, stage):
    copied = world / "moved" / "images"
    shutil.copytree(world / "images", copied, copy_function=shutil.copyfile)
    shutil.rmtree(world / "images")
    resume(world, stage, f"--data_dir {copied}")
    assert epochs_of(world, stage) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_keeps_the_order_of_its_classes(world, stage, capsys):
    """An earlier run had them as texts, a10 before a2, and wrote no names down."""
    run = run_of(world)
    run.published(stage).unlink()
    config = read_config(run)
    config[stage][MADE_FROM] = {"images": 8}
    write_record(run.config, config)
    resume(world, stage)
    assert names_of(world, stage) == ["a10", "a2"]
    made_from = read_config(run)[stage][MADE_FROM]
    assert made_from["class_names"] == ["a10", "a2"]
    # The labels that it learns are those of that order.
    if stage == "maskgit":
        caches = list((world / "runs" / "tokens").glob("folder-train-*"))
        labels = {tuple(np.load(cache / "labels.npy").tolist()) for cache in caches}
        assert {tuple(1 - label for label in row) for row in labels} == labels
        assert len(labels) == 2


def test_the_order_in_a_checkpoint_counts_where_config_json_has_none(world):
    run = run_of(world)
    assert names_of(world, "maskgit") == ["a2", "a10"]
    config = read_config(run)
    config["maskgit"][MADE_FROM] = {"images": 8}
    write_record(run.config, config)
    resume(world, "maskgit")
    assert names_of(world, "maskgit") == ["a2", "a10"]


@pytest.mark.parametrize("stage", STAGES)
def test_everything_that_a_run_is_made_of_is_written_down(world, stage):
    made_from = read_config(run_of(world))[stage][MADE_FROM]
    assert made_from["images"] == 8
    assert made_from["class_names"] == ["a2", "a10"]
    of_tokens = {"tokenizer", "tokens"} if stage == "maskgit" else set()
    of_images = {"images", "class_names", "labels", "source", "validation"}
    assert made_from.keys() == of_images | of_tokens


@pytest.mark.parametrize(
    ("kept", "factor"), [(True, 0.5), (False, 0.5 + 0.5 * np.cos(0.75 * np.pi))]
)
def test_a_run_keeps_the_decay_that_it_began_with(world, capsys, kept, factor):
    """Runs of earlier versions wrote none down; all of them had a cosine."""
    here = f"--dataset folder --data_dir {world}/images --output_dir {world}/runs --run_name new"
    tokenizer = f"--checkpoint_vae {run_of(world).published('vqgan')}"
    shape = "--transformer modern --hidden_dim 8 --heads 2 --depth 1 --mlp_dim 8 --batch_size 4"
    main(f"--train {here} {tokenizer} {shape} --n_epochs 1 --no_wandb".split())
    run = RunFolder(world / "runs" / "new", "folder")
    config = read_config(run)
    assert config["maskgit"][MADE_FROM]["decay"] == "trapezoid"

    def go_on() -> None:
        main(f"--train {here} --resume --n_epochs 2".split())

    config["maskgit"][MADE_FROM]["decay"] = "stairs" if kept else ["cosine"]
    write_record(run.config, config)
    with pytest.raises(SystemExit):
        go_on()
    assert f"{run.config} is damaged: its decay" in capsys.readouterr().err
    config["maskgit"][MADE_FROM] |= {"decay": "trapezoid"}
    if not kept:
        del config["maskgit"][MADE_FROM]["decay"]
    write_record(run.config, config)
    go_on()
    rates = [row["train/lr"] for row in read_metrics(run.metrics("maskgit")) if "train/lr" in row]
    assert rates[-1] == pytest.approx(8e-3 * factor, rel=1e-4)  # of the last of four steps


def test_a_job_that_waits_in_tokenizing_does_not_take_over_the_run_of_another(
    world, monkeypatch, capsys
):
    """Job B passes its check of the folder; while it makes tokens, job A trains there."""
    shared = f"--train --dataset folder --data_dir {world}/images --no_wandb {BOTH}"
    tokenizer = world / "runs" / "folder" / "VQGAN_folder.pt"
    shared += f" --checkpoint_vae {tokenizer} --output_dir {world}/race"
    encoder_of, left = commands.train.encoder_of, []

    def slowly(*arguments, **named):  # in job B
        monkeypatch.setattr("commands.train.encoder_of", encoder_of)
        main(f"{shared} --lr 1e-4 --n_epochs 1".split())
        left.append({p: p.read_bytes() for p in (world / "race" / "folder").glob("*.*")})
        return encoder_of(*arguments, **named)

    monkeypatch.setattr("commands.train.encoder_of", slowly)
    with pytest.raises(SystemExit) as stop:
        main(f"{shared} --lr 0.5 --n_epochs 3".split())
    assert stop.value.code == 2
    assert "--resume continues it" in capsys.readouterr().err
    found = {p: p.read_bytes() for p in (world / "race" / "folder").glob("*.*")}
    assert found == left[0]
    assert json.loads((world / "race" / "folder" / "config.json").read_text())["maskgit"]["lr"] == (
        1e-4
    )


def test_a_run_that_is_stopped_while_it_makes_its_tokens_keeps_its_options(
    world, monkeypatch, capsys
):
    here = f"--dataset folder --data_dir {world}/images --output_dir {world}/runs --run_name new"
    given = f"--checkpoint_vae {run_of(world).tokenizer} --lr 0.25 --n_epochs 3 --depth 2 --heads 4"

    def stop(*_arguments, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("commands.train.encoder_of", stop)
        with pytest.raises(SystemExit):
            main(f"--train {here} {BOTH} {given} --no_wandb".split())
    main(f"--train {here} --resume --n_epochs 1".split())
    assert "the maskgit run in" in capsys.readouterr().out
    kept = read_config(RunFolder(world / "runs" / "new", "folder"))["maskgit"]
    found = [kept[name] for name in ("lr", "n_epochs", "depth", "heads", "batch_size")]
    assert found == [0.25, 1, 2, 4, 4]  # what is given now is stronger


@pytest.mark.parametrize("other", ["--transformer modern", "--optimizer muon"])
def test_a_run_that_has_not_begun_keeps_what_its_defaults_follow_from(world, capsys, other):
    run = run_of(world)
    for path in (run.model, run.resume_state("maskgit")):
        path.unlink()
    assert f"{other}: the run in" in refusal(world, "maskgit", capsys, other)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_whose_state_is_missing_names_what_its_weights_are_good_for(world, stage, capsys):
    run_of(world).resume_state(stage).unlink()
    init = {"maskgit": "--init", "vqgan": "--init_vae"}[stage]
    said = f"elsewhere, with {init} {run_of(world).published(stage)} from its weights"
    assert said in refusal(world, stage, capsys)
    # Also where the run is to know its dataset.
    with pytest.raises(SystemExit):
        main(f"{STAGES[stage]} --resume --run_name folder --output_dir {world}/runs".split())
    assert said in capsys.readouterr().err


def test_a_transformer_on_an_unfinished_tokenizer_is_warned_about(world, capsys):
    images, both = f"--dataset folder --data_dir {world}/images", f"{BOTH} --no_wandb"
    new = f"{images} --output_dir {world}/new"
    with stopped_at(VQGANStage, 2):
        main(f"--train_vae --train {new} {both} --n_epochs_vae 2 --n_epochs 1".split())
    said = "was stopped after step 3 of 4: give --train_vae --train --resume to finish it first"
    main(f"--train {new} {BOTH} --dry_run".split())
    assert said in capsys.readouterr().out
    main(f"--train_vae {new} --resume --no_wandb".split())
    # A folder that has more images by now makes no difference.
    shutil.copytree(world / "images", world / "more")
    for path in list((world / "more").rglob("*.bmp")):
        shutil.copy(path, path.with_name(f"more_{path.name}"))
    more = new.replace(f"{world}/images", f"{world}/more")
    main(f"--train {more} {BOTH} --dry_run".split())
    main(f"--train {new} {both} --n_epochs 1".split())
    assert "was stopped after" not in capsys.readouterr().out


def test_a_tokenizer_that_will_be_another_one_is_refused_before_it_is_trained(world, capsys):
    both = "--train --n_epochs 2"
    resume(world, "vqgan", f"{both} --n_epochs_vae 1 {BOTH}")  # stage 1 has ended
    assert epochs_of(world, "maskgit") == 2
    assert "--train_vae goes on, and would change" in refusal(world, "vqgan", capsys, both)
    resume(world, "vqgan")
    assert "the tokenizer of the run in" in refusal(world, "vqgan", capsys, both)
    assert "the tokenizer of the run in" in refusal(world, "maskgit", capsys, "--dry_run")


def test_a_damaged_tokenizer_of_a_stage_that_has_ended_is_written_again(world, capsys):
    both = f"--n_epochs_vae 1 --train --n_epochs 2 {BOTH}"
    file = run_of(world).tokenizer
    before = load_checkpoint(file, "vqgan")["tokenizer"]["fingerprint"]
    file.write_bytes(file.read_bytes()[:-100])
    resume(world, "vqgan", both)
    assert "is written again from the saved state" in capsys.readouterr().out
    assert load_checkpoint(file, "vqgan")["tokenizer"]["fingerprint"] == before
    assert epochs_of(world, "maskgit") == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("spoil", [cut, Path.unlink])
@pytest.mark.parametrize("has_state", [True, False])
def test_a_tokenizer_that_is_damaged_or_missing_is_elsewhere(world, capsys, spoil, has_state):
    run = run_of(world)
    spoil(run.tokenizer)
    if not has_state:
        run.resume_state("vqgan").unlink()
    said = refusal(world, "maskgit", capsys)
    assert str(run.tokenizer) in said
    assert ("--train_vae --resume writes it, or" in said) == has_state
    assert f"--checkpoint_vae {run.model} takes the copy in there" in said
    resume(world, "maskgit", f"--checkpoint_vae {run.model}")
    assert epochs_of(world, "maskgit") == 2


def test_a_tokenizer_that_an_option_contradicts_is_not_called_damaged(world, capsys):
    assert "takes the copy" not in refusal(world, "maskgit", capsys, "--n_embed 99")


def test_a_tokenizer_that_is_not_trained_yet_is_not_replaced(world, capsys):
    run = run_of(world)
    for path in (run.tokenizer, run.model, run.resume_state("maskgit")):
        path.unlink()
    write_record(run.config, {"vqgan": read_config(run)["vqgan"]})
    assert "--train_vae --resume writes it" in refusal(world, "maskgit", capsys)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_left_of_a_run_without_its_state_is_named(world, stage, capsys):
    run = run_of(world)
    cut(run.resume_state(stage))
    init = {"vqgan": "--init_vae", "maskgit": "--init"}[stage]
    said = refusal(world, stage, capsys)
    assert f"{run.published(stage)} is intact; start another --run_name with {init}" in said
    cut(run.published(stage))
    said = refusal(world, stage, capsys, "--train_vae")
    for path in (run.resume_state(stage), run.published(stage)):
        assert f"cannot read the checkpoint {path}: " in said
    assert said.endswith("start another --run_name\n")


def test_code_that_config_json_names_is_not_run(world, tmp_path, capsys):
    run, config = run_of(world), read_config(run_of(world))
    config["maskgit"]["features"] = str(tmp_path / "evil.pt")
    write_record(run.config, config)
    said = refusal(world, "maskgit", capsys, "--evaluate")
    assert "'features' is not an option" in said


def test_folders_that_config_json_names_are_not_written_to(world, tmp_path, capsys, monkeypatch):
    run, config = run_of(world), read_config(run_of(world))
    config["maskgit"]["cache_dir"] = str(tmp_path.parent / "elsewhere")
    write_record(run.config, config)
    resume(world, "maskgit")
    assert "holds no token caches and is left out" in capsys.readouterr().out
    assert not (tmp_path.parent / "elsewhere").exists()
    write_record(run.config, config)
    resume(world, "maskgit", f"--cache_dir {tmp_path}/given")
    config["maskgit"]["cache_dir"] = str(tmp_path / "runs" / "own")
    write_record(run.config, config)
    monkeypatch.chdir(tmp_path)
    resume(world, "maskgit", "--output_dir runs")
    assert "left out" not in capsys.readouterr().out
    config["maskgit"]["run_name"] = "../../x"
    write_record(run.config, config)
    assert "'run_name' is not an option" in refusal(world, "maskgit", capsys)


def test_a_home_folder_is_found_in_paths(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    model = zoo / "runs" / "folder" / "MaskGIT_folder.pt"
    main(f"--sample --checkpoint {model} --num_samples 2 --output_dir=~/out".split())
    assert (tmp_path / "home" / "out" / "folder" / "samples" / "grid.png").is_file()
    assert not (tmp_path / "~").exists()


# --- The ways in which a run is stopped, in a process of its own ---


@pytest.fixture
def command(zoo, tmp_path):
    """The arguments of a stage that trains for long."""

    def call(stage: str, more: str = "--no_wandb", epochs: int = 100_000) -> list[str]:
        tokenizer = f"--checkpoint_vae {zoo}/runs/folder/VQGAN_folder.pt"
        return (
            f"{STAGES[stage].rsplit(' ', 1)[0]} {epochs} --dataset folder --data_dir {zoo}/images "
            f"--output_dir {tmp_path}/out {BOTH} {tokenizer if stage == 'maskgit' else ''} {more}"
        ).split()

    return call


@dataclass(frozen=True)
class Started:
    """A child in a session of its own, and what it writes into a pipe and a file."""

    number: int
    output: TextIO
    errors: Path


@pytest.fixture
def start(tmp_path, request):
    """Run the program in a child, until it prints a text."""

    def call(arguments: list[str], text: str) -> Started:
        def work() -> None:
            os.setsid()
            os.close(output)
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            main(arguments)

        output, into = os.pipe()
        with (tmp_path / "errors").open("wb") as errors:
            started = Started(
                fork(work, into, errors.fileno()), os.fdopen(output), tmp_path / "errors"
            )
        os.close(into)
        request.addfinalizer(lambda: end(started))
        if not any(text in line for line in started.output):
            pytest.fail(f"{text} is not in the output; {started.errors.read_text()}")
        return started

    return call


def end(started: Started) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.killpg(started.number, signal.SIGKILL)
        os.waitpid(started.number, 0)
    started.output.close()


def steps_of(folder: Path, stage: str) -> int:
    """Steps in the saved state."""
    path = RunFolder(folder / "out" / "folder", "folder").resume_state(stage)
    return load_checkpoint(path, f"{stage}-resume")["position"]["step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "more", "number", "code"),
    [
        ("vqgan", "--no_wandb --num_workers 2", signal.SIGTERM, 143),
        ("maskgit", "--no_wandb", signal.SIGUSR1, 138),
    ],
)
def test_a_signal_to_all_processes_saves_and_leaves(
    start, command, tmp_path, stage, more, number, code
):
    process = start(command(stage, more), "epoch 2/")
    os.killpg(process.number, number)
    out = process.output.read()
    assert exit_code(process.number) == code, process.errors.read_text()
    assert process.errors.read_text().splitlines() == [
        "stopping after this step; a second signal exits at once, unsaved"
    ]
    assert "stopped by a signal after step" in out
    assert "_folder.pt are saved" in out
    assert steps_of(tmp_path, stage) >= 4


def test_a_killed_reader_of_images_saves_and_leaves(zoo, tmp_path, monkeypatch, capsys):
    train_step = VQGANStage.train_step

    def killing(stage, step):
        if step >= 2:  # workers live for an epoch
            for child in multiprocessing.active_children():
                child.kill()
                child.join()
        return train_step(stage, step)

    monkeypatch.setattr(VQGANStage, "train_step", killing)
    with pytest.raises(SystemExit) as stop:
        main(
            f"{STAGES['vqgan']} --dataset folder --data_dir {zoo}/images --output_dir "
            f"{tmp_path}/out {BOTH} --n_epochs_vae 100 --no_wandb --num_workers 2".split()
        )
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a process that reads images was killed" in error
    assert steps_of(tmp_path, "vqgan") >= 2


@pytest.mark.slow
def test_a_reader_of_the_output_that_leaves_saves_and_leaves(start, command, tmp_path):
    process = start(command("maskgit"), "epoch 2/")
    process.output.close()
    assert exit_code(process.number) == 141
    assert process.errors.read_text() == ""
    assert steps_of(tmp_path, "maskgit") >= 4


def program(arguments: list[str], before: Sequence[str] = (), **options: Any) -> str:
    """Run the program as its users do; returns what it printed."""
    done = subprocess.run(
        [*before, sys.executable, ROOT / "MaskGIT.py", *arguments], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=60, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_closed_streams_stop_nothing(command, tmp_path):
    def close():
        for number in (0, 1, 2):
            os.close(number)

    program(command("maskgit", epochs=2), preexec_fn=close)
    assert steps_of(tmp_path, "maskgit") == 4


UNKNOWN_USER = ["unshare", "--user", "--map-user=54321", "env", "-u", "HOME"]


@pytest.mark.slow
def test_an_unknown_user_without_a_home_trains(command, tmp_path):
    """As in a container that is started with a user id of one's own; wandb is not turned off."""
    if shutil.which("unshare") is None or subprocess.run([*UNKNOWN_USER, "true"]).returncode:
        pytest.skip("nobody can be unknown here")
    out = program(command("maskgit", "", epochs=2), UNKNOWN_USER)
    assert "wandb records nothing: Could not determine home directory." in out
    assert steps_of(tmp_path, "maskgit") == 4


def add_images(world: Path) -> None:
    """Four more images of a class, and a new class, whose name sorts between the others."""
    write_images(world / "images", ("a5",), seed=5)
    write_images(world / "more", ("a10",), seed=6)
    for number, path in enumerate(sorted((world / "more" / "train" / "a10").iterdir())):
        path.rename(world / "images" / "train" / "a10" / f"{number}_more.bmp")


@pytest.mark.parametrize("stage", STAGES)
def test_images_and_classes_that_were_added_are_taken_on_request(world, stage, capsys):
    add_images(world)
    assert "--new_images goes on with them" in refusal(world, stage, capsys)
    resume(world, stage, "--new_images")
    printed = capsys.readouterr().out
    assert "8 new training images: a10 4, a5 4 (a new class)" in printed
    assert names_of(world, stage) == ["a2", "a10", "a5"]
    assert read_config(run_of(world))[stage][MADE_FROM]["images"] == 16
    # After that the run is like any other.
    resume(world, stage, STAGES[stage].split(maxsplit=1)[1].replace(" 2", " 3"))
    assert load_checkpoint(run_of(world).published(stage), stage)["step"] == 12


def test_a_grown_transformer_keeps_what_it_knows(world, monkeypatch):
    """Rows of the old classes and the moments stay; the new class is the mean of the old ones."""
    path = run_of(world).resume_state("maskgit")
    old = load_checkpoint(path, "maskgit-resume")["stage"]
    add_images(world)

    def stop(*_arguments):
        raise KeyboardInterrupt

    # The state is saved before the record: a crash in between loses nothing.
    with monkeypatch.context() as patched:
        patched.setattr(training.runs, "store", stop)
        with pytest.raises(SystemExit):
            resume(world, "maskgit", "--new_images")
    new = load_checkpoint(path, "maskgit-resume")["stage"]
    assert new["class_names"] == ["a2", "a10", "a5"]
    for part in ("model", "ema"):
        a2, a10, null = old[part]["token_embedding.weight"][17:]
        rows = new[part]["token_embedding.weight"][17:]
        assert torch.allclose(rows, torch.stack([a2, a10, (a2 + a10) / 2, null]))
    for number, moments in old["optimizer"]["state"].items():
        grown = new["optimizer"]["state"][number]
        assert grown["step"] == moments["step"]
        if grown["exp_avg"].shape == moments["exp_avg"].shape:
            assert torch.equal(grown["exp_avg"], moments["exp_avg"])
    resume(world, "maskgit", "--new_images")
    assert names_of(world, "maskgit") == ["a2", "a10", "a5"]


def test_a_best_checkpoint_without_the_new_classes_is_not_published(world):
    """The run is stopped before its first validation with the new images."""
    resume(world, "maskgit", "--publish best")
    add_images(world)
    with stopped_at(MaskGITStage, 5):
        resume(world, "maskgit", "--publish best --new_images")
    assert run_of(world).best("maskgit").is_file()
    assert names_of(world, "maskgit") == ["a2", "a10", "a5"]


@pytest.mark.parametrize("stage", STAGES)
def test_with_new_images_the_old_ones_must_stay(world, stage, capsys):
    add_images(world)
    image = world / "images" / "train" / "a2" / "3.bmp"
    content = image.read_bytes()
    image.unlink()
    said = refusal(world, stage, capsys, "--new_images")
    assert "a2/3.bmp of the run in" in said
    assert "is no longer a training image" in said
    image.write_bytes(content + b"0")
    assert "a2/3.bmp of the run in" in refusal(world, stage, capsys, "--new_images")
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "the images of the run in" in refusal(world, stage, capsys, "--new_images")
    image.write_bytes(content)
    # The same for validation, where an image may also be taken away.
    image = world / "images" / "val" / "a2" / "0.bmp"
    content = image.read_bytes()
    image.write_bytes(content + b"0")
    assert "a2/0.bmp of the run in" in refusal(world, stage, capsys, "--new_images")
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "the validation images of the run in" in refusal(world, stage, capsys, "--new_images")
    image.unlink()
    resume(world, stage, "--new_images")


def test_a_run_that_lists_only_its_training_images_grows_too(world):
    """Earlier versions did not list those of validation."""
    list_file = run_of(world).images("maskgit")
    write_record(list_file, {"files": read_record(list_file)["files"]})
    add_images(world)
    resume(world, "maskgit", "--new_images")
    assert read_record(list_file).keys() == {"files", "validation"}


def test_a_new_image_that_makes_the_old_ones_darker_is_refused(world, capsys):
    """All images of more than 8 bits in a folder have one range."""
    for name, level, goes_on in (
        ("dark", 1000, True),
        ("alike", 1023, True),
        ("light", 4000, False),
    ):
        image = Image.fromarray(np.full((16, 16), level, np.uint16))
        image.save(world / "images" / "train" / "a2" / f"{name}.png")
        if goes_on:
            resume(world, "maskgit", "--new_images")
    said = refusal(world, "maskgit", capsys, "--new_images")
    assert "changed from black 0, white 1023 to black 0, white 4095" in said


def test_new_images_need_a_run_that_goes_on_and_lists_its_images(world, capsys):
    run_of(world).images("maskgit").unlink()
    assert "does not list its images" in refusal(world, "maskgit", capsys, "--new_images")
    resume(world, "maskgit")  # writes the list
    with pytest.raises(SystemExit):
        main(f"--train --dataset folder --data_dir {world}/images --new_images".split())
    assert "give --resume too" in capsys.readouterr().err
