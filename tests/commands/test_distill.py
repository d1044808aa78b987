"""--distill through the command line, and what a student brings to the other modes."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TRAIN_TINY, stopped_at

from MaskGIT import main
from models.modern.config import ModernConfig
from models.open import load_model, new_transformer
from training.distillation import DistillationStage, student_settings
from utils.checkpoint import contents_of, load_checkpoint, save_checkpoint, weights_digest
from utils.plain import to_plain
from utils.records import read_record, write_record
from utils.torch_file import read_torch_file

FEW = "--n_epochs_distill 1 --batch_size_distill 4"


@pytest.fixture(autouse=True, scope="module")
def _short_epochs() -> Iterator[None]:
    """Epochs of ten steps instead of a hundred."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("commands.distill", "training.distillation"):
            patch.setattr(f"{module}.UPDATES_PER_EPOCH", 10)
        patch.setattr(DistillationStage, "steps_per_epoch", 10)
        yield


@pytest.fixture(scope="module")
def teacher(trained: Path) -> Path:
    return trained / "MaskGIT_mnist.pt"


@pytest.fixture(scope="module")
def distilled(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a student of one step, by its usual name."""
    output = tmp_path_factory.mktemp("distilled")
    line = f"--distill 1 --checkpoint {teacher} {FEW} --output_dir {output} --no_wandb --seed 1"
    main(line.split())
    return output / "mnist_1_step"


@pytest.fixture
def student(distilled: Path, tmp_path: Path) -> Path:
    shutil.copytree(distilled, tmp_path / distilled.name)
    return tmp_path / distilled.name / "MaskGIT_mnist.pt"


def test_distill_and_sample_in_one_command(run, teacher, tmp_path):
    run(f"--distill 2 --checkpoint {teacher} {FEW} --sample --run_name few --labels 3,3,7")
    folder = tmp_path / "few"
    names = {path.name for path in folder.iterdir()}
    assert {"MaskGIT_mnist.pt", "resume_student.pt", "metrics_student.jsonl", "config.json"} < names
    assert (folder / "samples" / "student_step_0000010.png").is_file()
    rows = [
        json.loads(line) for line in (folder / "metrics_student.jsonl").read_text().splitlines()
    ]
    assert {"val/loss", "val/entropy"} < set(rows[-1])
    # It samples in two steps, without guidance, and so it does later.
    with np.load(folder / "samples" / "samples.npz") as samples:
        images = samples["arr_0"]
    model = load_model(folder / "MaskGIT_mnist.pt", device="cpu")
    assert model.made_for == model.usual == student_settings(2)
    assert np.array_equal(model.sample([3, 3, 7], seed=1), images)


def test_options_given_win_over_what_a_student_is_made_for(run, student):
    out = run(f"--show_plan --checkpoint {student} --step 3 --cfg_w 2")
    lines = [line.split() for line in out.splitlines()[-4:]]
    assert lines[0] == ["step", "tokens", "temperature", "guidance"]
    assert [line[3] for line in lines[1:]] == ["0.000", "1.000", "2.000"]


def test_settings_of_a_program_complete_those_of_the_student(student):
    model = load_model(student, device="cpu")
    usual = student_settings(1)
    assert np.array_equal(model.sample([1, 2]), model.sample([1, 2], **vars(usual)))
    other = vars(replace(usual, start_share=0.5))
    assert np.array_equal(model.sample([1, 2], start_share=0.5), model.sample([1, 2], **other))
    assert not np.array_equal(model.sample([1, 2], start_share=0.5), model.sample([1, 2]))


def test_best_settings_of_a_sweep_can_be_kept_in_a_student(run, student):
    contents = contents_of(read_torch_file(student), student, "maskgit")
    best = {
        "sampling": {**contents["made_for"], "num_steps": 4, "guidance_interval": [0.39, 0.78]},
        "metric": "fid",
        "scores": {"fid": 1.0},
        "protocol": {"images": 5},
    }
    save_checkpoint(student, "maskgit", {**contents, "best_settings": best})
    assert len(run(f"--show_plan --checkpoint {student} --settings best").splitlines()) == 6
    assert len(run(f"--show_plan --checkpoint {student}").splitlines()) == 3


def test_an_edit_by_a_student_keeps_the_tokens_that_are_not_marked(student):
    model = load_model(student, device="cpu")
    image = np.zeros((32, 32, 1), np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[:16] = True
    known, _ = model.known_tokens(image, mask)
    before, after = model.decode_steps([2, 2, 5], known=known)
    kept = ~known.hidden.numpy().reshape(8, 8)
    assert (after.tokens[:, kept] == known.tokens.numpy().reshape(8, 8)[kept]).all()
    assert not after.hidden.any()
    # An eighth of the positions begins with a token, of which those in the marked half are seen.
    shown = before.tokens[:, ~kept] != model.transformer.config.mask_token
    assert 0 < shown.sum() < 3 * 8
    assert before.hidden[:, ~kept].all()


def test_a_distillation_that_was_stopped_goes_on_bit_for_bit(run, teacher, tmp_path):
    more = f"--distill 1 --checkpoint {teacher} --batch_size_distill 4"
    run(f"{more} --n_epochs_distill 2 --run_name whole")
    with stopped_at(DistillationStage, 13):
        run(f"{more} --n_epochs_distill 2 --run_name parts")
    assert "student continues after step 14" in run(f"{more} --run_name parts --resume")
    found, expected = (
        load_checkpoint(tmp_path / name / "MaskGIT_mnist.pt", "maskgit")
        for name in ("parts", "whole")
    )
    assert found["step"] == expected["step"] == 20
    for name, value in expected["ema"].items():
        assert torch.equal(found["ema"][name], value), name


def test_the_first_picture_comes_before_the_first_save(run, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("commands.training_jobs.FIRST_PICTURE", -1e9)  # seconds: it is due at once
    run(f"--distill 1 --checkpoint {teacher} --batch_size_distill 4 --n_epochs_distill 2")
    pictures = sorted(path.name for path in (tmp_path / "mnist_1_step" / "samples").iterdir())
    assert pictures == ["student_step_0000010.png", "student_step_0000020.png"]


@pytest.fixture
def modern_teacher(teacher: Path, tmp_path: Path) -> Path:
    contents = contents_of(read_torch_file(teacher), teacher, "maskgit")
    codes, classes = (contents["config"][name] for name in ("codebook_size", "num_classes"))
    shape = ModernConfig(codes, classes, (8, 8), hidden_dim=8, depth=1, mlp_dim=8)
    weights = new_transformer(shape).state_dict()
    other = {"family": "modern", "config": to_plain(shape), "weights": weights, "ema": weights}
    path = tmp_path / "modern.pt"
    save_checkpoint(path, "maskgit", {**contents, **other})
    return path


def test_the_defaults_are_those_of_the_teachers_family(run, modern_teacher, tmp_path):
    line = f"--distill 1 --checkpoint {modern_teacher} --run_name few"
    run(f"{line} {FEW}")
    out = run(f"{line} --n_epochs_distill 2 --resume")
    assert "student continues after step 10" in out
    stored, usual = read_record(tmp_path / "few" / "config.json"), ModernConfig.usual_students
    kept = [stored["student"][name] for name in ("lr_distill", "ema_decay", "teacher_cfg_w")]
    assert kept == [usual[name] for name in ("lr", "ema_decay", "teacher_guidance")]
    state = load_checkpoint(tmp_path / "few" / "resume_student.pt", "student-resume")["stage"]
    assert {"muon", "auxiliary_muon"} <= state.keys()
    rows = run(f"{line} --resume --dry_run").splitlines()
    given = {row.split()[0] for row in rows if row.endswith("(given)")}
    assert {"distill", "resume"} <= given
    assert "cfg_w" not in given  # it is that of the run


def test_a_dry_run_prints_what_the_family_of_a_model_decides(
    run, modern_teacher, tokenizer_file, monkeypatch
):
    for mode in ("distill", "train"):
        monkeypatch.setattr(f"commands.{mode}._cost", lambda job: "nothing")

    def said(options):
        rows = [line.split(maxsplit=1) for line in run(f"{options} --dry_run").splitlines()]
        return {row[0]: row[1].strip() for row in rows if len(row) == 2}

    at_once = f"--checkpoint {modern_teacher}"
    assert said(f"--distill 1 {at_once}")["teacher_cfg_w"] == "2.5"
    sampled = said(f"--sample {at_once} --r_temp 3")
    assert [sampled[name] for name in ("cfg_w", "r_temp")] == ["2.5", "3.0  (given)"]
    assert "depth" not in sampled  # of another network than the file's
    swept = said(f"--sweep step=4,8 {at_once}")
    assert [swept[name] for name in ("cfg_w", "step")] == ["2.5", "4, 8"]
    made = f"--checkpoint_vae {tokenizer_file} --dataset mnist"
    trained = said(f"--train --transformer modern {made}")
    assert [trained[name] for name in ("heads", "lr", "cfg_w")] == ["2", "0.008", "2.5"]
    assert "embed_dim_t" not in trained


def test_a_run_that_continues_keeps_its_settings_without_option(
    run, refused, modern_teacher, tmp_path
):
    line = f"--distill 1 --checkpoint {modern_teacher} --run_name few"
    run(f"{line} {FEW}")
    config = tmp_path / "few" / "config.json"
    stored = read_record(config)
    made_from, usual = stored["student"]["made_from"], ModernConfig.usual_students
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commands.distill.run", lambda job: seen.append(job.training))
        run(f"{line} --n_epochs_distill 2 --resume")
        made_from["teacher_logit_scale"] = 1.5  # the family had this value when the run began
        write_record(config, stored)
        run(f"{line} --n_epochs_distill 2 --resume")
    settings = [(one.guidance_rises, one.teacher_logit_scale, one.start_share) for one in seen]
    assert settings == [(True, usual["teacher_logit_scale"], 1 / 16), (True, 1.5, 1 / 16)]
    made_from["teacher_logit_scale"] = "much"
    write_record(config, stored)
    assert "config.json is damaged" in refused(f"{line} --n_epochs_distill 2 --resume")


def test_mistakes_are_refused_in_one_line(run, teacher, student, refused, tmp_path):
    again = f"--distill 1 --checkpoint {teacher} {FEW}"
    assert "--checkpoint" in refused(f"--distill 1 {FEW}")
    assert "--train" in refused(f"--distill 1 --train --checkpoint {teacher}")
    assert "already holds a student run" in refused(again)
    # Nor does a student overwrite a model that was trained in the folder.
    shutil.copytree(teacher.parent, tmp_path / "mnist")
    assert "nothing is overwritten" in refused(f"{again} --run_name mnist")
    # Another teacher, or another number of steps.
    resumed = f"{again} --run_name mnist_1_step --resume"
    error = refused(resumed.replace("--distill 1", "--distill 2"))
    assert "changed from 1 to 2: give the run's own --distill" in error
    contents = contents_of(read_torch_file(teacher), teacher, "maskgit")
    changed = {name: value + 1 for name, value in contents["ema"].items()}
    other = tmp_path / "other.pt"
    save_checkpoint(other, "maskgit", {**contents, "ema": changed})
    error = refused(resumed.replace(str(teacher), str(other)))
    assert "weights of the teacher" in error
    # A student does not teach, and no other training runs in its folder or in the same command.
    error = refused(f"--distill 1 --checkpoint {student} {FEW} --run_name s")
    assert "is a student itself" in error
    assert "--train_vae" in refused(f"--train_vae {again}")
    train = f"--train {TRAIN_TINY} --run_name mnist_1_step"
    assert "holds a student run" in refused(train)
    assert "holds a student run" in refused(f"{train} --resume")
    assert "invalid choice" in refused(f"--distill 3 --checkpoint {teacher}")
    missing = tmp_path / "missing.pt"
    assert "missing.pt" in refused(f"--distill 1 --checkpoint {missing}")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"num_steps": 1}, "is missing"),
        ("fast", "str instead of a SamplingConfig"),
        ({**to_plain(student_settings(1)), "start_share": 7.0}, "`start_share` 7.0"),
        ({**to_plain(student_settings(1)), "num_steps": True}, "num_steps True is not of type"),
    ],
)
def test_a_student_with_wrong_settings_is_refused(student, refused, entry, said):
    contents = contents_of(read_torch_file(student), student, "maskgit")
    save_checkpoint(student, "maskgit", {**contents, "made_for": entry})
    error = refused(f"--sample --checkpoint {student}")
    assert f"{student} is damaged" in error
    assert said in error


def test_dry_run_tells_of_the_student_and_writes_nothing(run, teacher, tmp_path):
    out = run(f"--distill 4 --checkpoint {teacher} --dry_run")
    assert "200 of 32 images" in out
    assert "s a step" in out
    assert str(tmp_path / "mnist_4_step" / "MaskGIT_mnist.pt") in out
    assert not (tmp_path / "mnist_4_step").exists()


def test_an_option_of_training_has_no_effect_on_a_distillation_and_that_is_said(run, teacher):
    out = run(f"--distill 1 --checkpoint {teacher} --lr 1e-3 --step 4 --dry_run")
    assert "no effect here: --data_dir, --lr, --step" in out


def test_options_of_the_first_command_hold_when_it_is_resumed(run, teacher, tmp_path):
    """Also where they differ from what the student is made for."""
    first = f"--distill 1 --checkpoint {teacher} --run_name few --sample"
    run(f"{first} {FEW} --cfg_w 2 --labels 3")
    with np.load(tmp_path / "few" / "samples" / "samples.npz") as samples:
        expected = samples["arr_0"]
    shutil.rmtree(tmp_path / "few" / "samples")
    assert "no effect here: --data_dir\n" in run(f"{first} --resume")
    with np.load(tmp_path / "few" / "samples" / "samples.npz") as samples:
        assert np.array_equal(samples["arr_0"], expected)


def test_curves_of_a_student_are_drawn_in_the_same_command(run, teacher, tmp_path):
    run(f"--distill 1 --checkpoint {teacher} --run_name few {FEW} --curves few")
    assert (tmp_path / "few" / "curves_student.png").is_file()


def test_another_token_to_start_with_is_refused_beside_a_students_own(student, refused):
    error = refused(f"--sample --checkpoint {student} --mask-value 3")
    assert "--mask-value 3: `start_share` 0.125 already sets the start" in error


def test_an_export_says_what_it_cannot_hold(run, student, tmp_path):
    assert "cannot store the settings" in run(f"--export {tmp_path}/out.pt --checkpoint {student}")


def test_how_a_foreign_teacher_is_read_is_kept(run, teacher, tokenizer_file, tmp_path, refused):
    foreign = tmp_path / "foreign.pth"
    run(f"--export {foreign} --checkpoint {teacher}")
    more = f"--distill 1 --checkpoint {foreign} --dataset mnist --checkpoint_vae {tokenizer_file}"
    run(f"{more} --heads 2 {FEW}")
    out = run(f"{more} --n_epochs_distill 2 --resume")
    assert "student continues after step 10" in out
    # With another tokenizer it would be another model.
    contents = contents_of(read_torch_file(tokenizer_file), tokenizer_file, "vqgan")
    entry = contents["tokenizer"]
    weights = {name: value * 1.01 for name, value in entry["weights"].items()}
    other = tmp_path / "other_tokenizer.pt"
    entry |= {"weights": weights, "fingerprint": weights_digest(entry["config"], weights)}
    save_checkpoint(other, "vqgan", contents)
    more = more.replace(str(tokenizer_file), str(other))
    error = refused(f"{more} --n_epochs_distill 3 --resume")
    assert "the tokenizer of the run" in error


def test_compile_has_no_effect_and_that_is_said(run, teacher):
    out = run(f"--distill 1 --checkpoint {teacher} {FEW} --compile --dry_run")
    assert "no effect here: --compile, --data_dir" in out


def test_a_dataset_that_is_not_the_teachers_is_refused(teacher, student, refused):
    config = student.parent / "config.json"
    stored = read_record(config)
    write_record(config, {"student": {**stored["student"], "dataset": "cifar10"}})
    (student.parent / "MaskGIT_mnist.pt").rename(student.parent / "MaskGIT_cifar10.pt")
    line = f"--distill 1 --checkpoint {teacher} --resume"
    assert "was trained on mnist, not cifar10" in refused(line)
