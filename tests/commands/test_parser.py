"""The command line is a contract: names, defaults, choices, spellings, and answers to mistakes."""

import re
import sys
from pathlib import Path

import pytest

import commands.parser
from commands.modes import MODES
from commands.option import Many
from commands.options import GROUPS, OPTIONS
from commands.resolve import idle_options
from MaskGIT import main
from utils.errors import UserError

SPECIFIED = {
    "train": False,
    "sample": False,
    "dataset": "mnist",
    "batch_size": 256,
    "n_epochs": 100,
    "size": None,
    "num_workers": 0,
    "warmup": 10,
    "channels": 64,
    "z_channels": 64,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [16],
    "dropout": 0.0,
    "double_z": False,
    "disc_start": 10000,
    "disc_weight": 0.8,
    "codebook_weight": 1.0,
    "n_embed": 128,
    "embed_dim": 64,
    "embed_dim_t": 64,
    "remap": None,
    "sane_index_shape": False,
    "checkpoint_vae": None,
    "colorize_nlabels": None,
    "lr": 1e-4,
    "no_wandb": False,
    "sample_and_save_freq": 20,
    "betas": [0.9, 0.95],
    "weight_decay": 0.1,
    "cfg_w": 3.0,
    "r_temp": 4.5,
    "sm_temp": 1.0,
    "drop_label": 0.1,
    "hidden_dim": 128,
    "heads": 8,
    "depth": 10,
    "mlp_dim": 384,
    "dropout_t": 0.1,
    "step": 8,
    "sched_mode": "arccos",
    "mask_value": None,
    "n_classes": 10,
    "num_samples": 16,
}

SPECIFIED_DATASETS = [
    "mnist",
    "cifar10",
    "cifar100",
    "places365",
    "dtd",
    "fashionmnist",
    "chestmnist",
    "bloodmnist",
    "dermamnist",
    "octmnist",
    "tissuemnist",
    "pneumoniamnist",
    "retinamnist",
    "svhn",
    "tinyimagenet",
    "imagenet",
    "celeba",
]


def parse(*argv):
    return commands.parser.parse(["--train", *argv])


def rejection(*argv):
    with pytest.raises(UserError) as refusal:
        commands.parser.parse(argv)
    return str(refusal.value)


def test_specified_defaults():
    values = vars(commands.parser.parse(["--dry_run", "--sample"]).values)
    assert {name: values[name] for name in SPECIFIED} == {**SPECIFIED, "sample": True}


def test_every_specified_dataset_is_a_choice():
    for name in [*SPECIFIED_DATASETS, "folder"]:
        assert parse("--dataset", name).dataset == name


@pytest.mark.parametrize(
    "spelling", ["--drop-label", "--drop_label", "--drop_label=0.4", "--drop-label=0.4"]
)
def test_both_spellings_of_every_option(spelling):
    argv = [spelling] if "=" in spelling else [spelling, "0.4"]
    assert parse(*argv).drop_label == 0.4


def test_values_keep_their_dashes_and_underscores():
    options = parse("--mask-value", "-1", "--run-name", "a_b-c", "--data_dir=my-data_dir")
    assert (options.mask_value, options.run_name) == (-1, "a_b-c")
    assert options.data_dir == "my-data_dir"


@pytest.mark.parametrize(
    "argv",
    [["1", "2", "4"], ["1,2,4"], ["[1,2,4]"], ["[1, 2, 4]"], ["1,2", "4"], ["[1,", "2", ",4]"]],
)
def test_lists_in_every_notation(argv):
    assert parse("--ch_mult", *argv).ch_mult == [1, 2, 4]
    assert parse("--ch_mult", "[ ]").ch_mult == []


@pytest.mark.parametrize("words", [["1,,2"], [",1"], ["1,"], ["1", ",", ",2"], [""], ["[1,,2]"]])
@pytest.mark.parametrize("option", [o.flag for o in OPTIONS.values() if o.many is Many.LIST])
def test_a_list_with_an_empty_part_is_refused(option, words):
    assert f"{option}: " in rejection("--train", option, *words)
    assert "has an empty part: leave it out" in rejection("--train", option, *words)


@pytest.mark.parametrize(
    ("argv", "value"),
    [(["--resume"], True), (["--resume=True"], True), (["--resume", "true"], True),
     (["--resume=1"], True), (["--resume=False"], False), (["--resume", "false"], False),
     (["--resume=no"], False), (["--resume", "--no-resume-is-no-option"], None)],
)  # fmt: skip
def test_a_switch_takes_a_value_where_a_program_writes_one(argv, value):
    if value is None:
        assert "--no-resume-is-no-option" in rejection("--train", *argv)
        return
    options = parse(*argv)
    assert (options.resume, "resume" in options.given) == (value, True)


@pytest.mark.parametrize(
    ("argv", "value"),
    [([], "auto"), (["--compile"], "on"), (["--compile", "off"], "off"),
     (["--compile=auto"], "auto"), (["--compile=True"], "on"), (["--compile=no"], "off")],
)  # fmt: skip
def test_what_was_a_switch_still_takes_its_values(argv, value):
    assert parse(*argv).compile == value


def test_a_notebook_may_give_one_text_or_words_that_are_no_texts():
    words = ["--sample", "--checkpoint", Path("a b.pt"), "--seed", 3]
    for line in map(commands.parser.parse, ("--sample --checkpoint 'a b.pt' --seed 3", words)):
        assert (line.sample, line.checkpoint, line.seed) == (True, "a b.pt", 3)
    with pytest.raises(UserError, match="No closing quotation"):
        commands.parser.parse("--sample --checkpoint 'a b.pt")


def test_modes_are_switches_too():
    line = commands.parser.parse(["--train=False", "--sample=true", "--no-wandb=True"])
    assert [mode.name for mode in line.modes] == ["sample"]
    assert line.no_wandb is True


def test_none_is_a_value_of_an_option_whose_default_it_is():
    assert parse("--mask-value", "none").mask_value is None
    assert "mask_value" in parse("--mask-value=none").given


def test_an_empty_list():
    assert parse("--attn_resolutions", "[]").attn_resolutions == []


def test_given_options_are_told_from_defaults():
    options = parse("--n_classes", "10", "--lr=1e-4")
    assert options.given == {"train", "n_classes", "lr"}


def test_no_mode_names_the_modes():
    error = rejection("--dataset", "mnist")
    assert "--train" in error
    assert "--sample" in error
    assert "--train_vae" in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--dataset", "minst"], "minst"),
        (["--step", "0"], "--step: needs a whole number of at least 1, got '0'"),
        (["--num_samples", "-3"], "-3"),
        (["--lr", "nan"], "nan"),
        (["--lr", "inf"], "inf"),
        (["--lr", "0"], "above 0"),
        (["--cfg_w", "-1"], "-1"),
        (["--cfg_w", "-inf"], "needs a number from 0 to 1000, got '-inf'"),
        (["--r_temp", "4_5"], "got '4_5'"),
        (["--step", "1_6"], "got '1_6'"),
        (["--drop-label", "1.5"], "1.5"),
        (["--dropout_t", "1"], "below 1"),
        (["--ch_mult", "1,0"], "0"),
        (["--betas", "0.9", "1.0"], "1.0"),
        (["--sched_mode", "sine"], "sine"),
        (["--precision", "fp64"], "fp64"),
        (["--batch_size", "many"], "many"),
        (["--mask_box", "1,2,3"], "1,2,3"),
        (["--mask_box", "1,2,,3,4"], "has an empty part"),
        (["--ch_mult", "[1,2"], "got '[1'"),
        (["--mask_box", "-1,2,3,4"], "needs a whole number of at least 0, got '-1'"),
        (["--outpaint", "up=3"], "up=3"),
        (["--sampler", "greedy"], "greedy"),
        (["--unknown", "1"], "--unknown"),
        (["--checkpont=x.pt"], "--checkpont; did you mean --checkpoint"),
        (["--epochs", "3"], "--epochs; did you mean --n_epochs"),
        (
            ["--page", "localhost"],
            "to 65535, or a host and a port as 0.0.0.0:8000, got 'localhost'",
        ),
        (["--seed", "9" * 400], "--seed: needs a whole number"),
        (["--mlp_dim", "99999999999999999999"], "--mlp_dim: needs a whole number"),
        (["--mlp_dim", "99999999999999999999"], f"no larger than {2**53}"),
        (["--cfg_w", "1e308"], "a number from 0 to 1000"),
        (["--grad_clip", "1e-400"], "at least 0, no nearer to 0 than 1e-30, got '1e-400'"),
        (["--lr", "1e-50"], "above 0, no nearer to 0 than 1e-30, got '1e-50'"),
        (["--"], "unrecognized arguments: -- ("),
        (["--sm_temp", "0"], "above 0"),
        (["--dept", "3"], "--dept"),
        (["--lr", "1", "sample"], "unknown option sample; did you mean --sample?"),
        (["-n-epochs", "3"], "unknown option -n-epochs; did you mean --n_epochs?"),
        (["--dataset", "Fashion-MNIST"], "; did you mean fashionmnist?"),
        (["--size", "64", "64"], "unrecognized arguments: 64"),
        (["--deterministic=maybe"], "--deterministic: takes no value, or true or false; got 'may"),
        (["--compile=maybe"], "--compile: invalid choice: 'maybe' (choose from auto, on, off)"),
        (["--no_wandb="], "--no_wandb: takes no value, or true or false"),
    ],
)
def test_mistakes_are_named_in_one_line(argv, said):
    assert said in rejection("--train", *argv)


@pytest.mark.parametrize(
    "text", ["[::1]:70000", "[::1", "::1]:80", "[::1]", "[]:80", "a:b", "a:-1", "", " 80"]
)
def test_a_wrong_address_is_shown_in_full(text):
    assert rejection("--page", text).count(f"got {text!r}") == 1


@pytest.mark.parametrize("text", ["0", "65535", ":80", "0.0.0.0:80", "[::1]:80", "::1:80", "a:80"])
def test_an_address_is_a_port_with_or_without_a_host(text):
    assert parse("--page", text).page == text


@pytest.mark.parametrize(
    "row",
    [row for row in (*MODES, *OPTIONS.values()) if row.unit and row.bare is None],
    ids=lambda row: row.name,
)
def test_an_option_without_its_value_says_which_there_are(row):
    said = rejection(row.flag, "--train")
    assert said.startswith(f"{row.flag} needs a value, {row.unit}: ")
    assert all(choice in said for choice in row.choices or (row.help,))


def test_two_betas():
    said = rejection("--train", "--betas", "0.9")
    assert "--betas needs 2 numbers, as in [0.9,0.95]; got [0.9]" in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0.5", "--cfg_interval needs 2 numbers, as in [0.39,0.78]; got [0.5]"),
        ("0.1,1.2", "--cfg_interval: needs a number from 0 to 1, got '1.2'"),
        ("low,high", "--cfg_interval: needs a number from 0 to 1, got 'low'"),
    ],
)
def test_a_wrong_interval_is_named_in_one_line(value, said):
    command = ("--show_plan", "--dataset", "fashionmnist", "--cfg_schedule", "interval")
    assert said in rejection(*command, "--cfg_interval", value)


@pytest.fixture
def help_of(capsys):
    """What --help prints."""

    def call(*modes):
        with pytest.raises(SystemExit) as stop:
            main([*modes, "--help"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    return call


def test_help_alone_shows_the_modes_and_how_to_ask_further(help_of):
    text = help_of()
    assert len(text.splitlines()) <= 40
    assert all(f"  --{mode.name}" in text for mode in MODES)
    assert "--train --help" in text


@pytest.mark.parametrize("mode", [mode.name for mode in MODES])
def test_help_of_a_mode_is_at_most_70_lines_and_splits_no_name(help_of, mode):
    lines = help_of(f"--{mode}").splitlines()
    assert len(lines) <= 70
    assert not any(line.endswith("-") for line in lines)


@pytest.mark.parametrize("modes", [("train",), ("train_vae",), ("sample", "edit"), ("page",)])
def test_help_of_modes_shows_the_options_that_act_in_them(help_of, modes):
    text = help_of(*(f"--{mode}" for mode in modes))
    for group in GROUPS:
        refers = group.home is not None and modes == ("train",)
        assert (f"{group.title}: see --{group.home} --help" in text) == refers
        for option in group.options:
            acts = bool(option.modes & set(modes)) and not refers
            assert bool(re.search(rf"^  {option.flag}\b", text, re.M)) == acts, option.name
    if modes == ("train",):
        assert "dropout in the transformer [0.1]" in text


@pytest.mark.parametrize("row", [*MODES, *OPTIONS.values()], ids=lambda row: row.name)
def test_the_help_names_all_choices(help_of, row):
    text = help_of(*(mode.flag for mode in MODES if row not in MODES))
    (said,) = re.findall(rf"\n  {row.flag} .*(?:\n {{20,}}.*)*", text)
    assert all(re.search(rf"\b{choice}\b", said) for choice in row.choices or ())


def test_the_specified_options_are_in_the_help_of_some_mode():
    shown = {option.name for option in OPTIONS.values()}
    assert shown >= set(SPECIFIED) - {mode.name for mode in MODES}


@pytest.mark.parametrize("mode", [mode.name for mode in MODES if not mode.unit])
def test_an_option_of_other_modes_has_no_effect(mode):
    line = commands.parser.parse(
        ["--" + mode, "--double_z", "--no_wandb", "--save_steps", "--resume"]
    )
    idle = idle_options(line)
    assert ("no_wandb" in idle) == (mode not in ("train_vae", "train"))
    assert ("resume" in idle) == (mode not in ("train_vae", "train"))
    assert ("save_steps" in idle) == (mode != "sample")
    opens_none = mode in ("download_only", "look")  # other modes compare it with a file
    assert ("double_z" in idle) == opens_none


@pytest.mark.parametrize(
    ("what", "idle"),
    [
        ("samples", "classify"),
        ("samples --images x.npz", "cfg_w classify first_image labels num_samples settings"),
        ("tokenizer", "cfg_w classify first_image labels num_samples settings"),
        ("likelihood", "cfg_w first_image labels repeats settings"),
        ("likelihood --sample", "repeats"),
    ],
)
def test_an_evaluation_names_what_it_does_not_depend_on(what, idle):
    given = "--cfg_w 2 --classify 9 --first_image 3 --labels 1 --num_samples 9 --settings defaults"
    command = f"--evaluate {what} {given} --batch_size 8 --deterministic"
    command += " --repeats 2" if what.startswith("likelihood") else ""
    assert idle_options(commands.parser.parse(command.split())) == set(idle.split())


@pytest.mark.parametrize(
    ("former", "now"), [("feature_net", "features"), ("inception_weights", "feature_weights")]
)
@pytest.mark.parametrize("dash", ["_", "-"])
def test_a_former_spelling_means_the_new_one(former, now, dash):
    line = parse(f"--{former.replace('_', dash)}=x.pth")
    assert (getattr(line, now), line.former) == ("x.pth", (f"--{former}",))
    assert line.given == {"train", now}
    assert parse(f"--{now}=x.pth").former == ()


def test_a_former_option_without_effect_takes_its_value():
    line = parse("--save-every-minutes", "3", "--lr", "1")
    assert (line.given, line.former) == ({"train", "lr"}, ("--save_every_minutes",))
    assert vars(line.values) == vars(parse("--lr", "1").values)
    assert "--save_every_minutes" not in rejection("--train", "--save_every_minute", "3")


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        commands.parser.parse(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("MaskGIT 0.")


@pytest.mark.parametrize("buffer_size", [1, -1], ids=["lines", "blocks"])
@pytest.mark.parametrize("question", ["--version", "--help", "--train --help"])
def test_an_answer_that_cannot_be_written_is_an_error(monkeypatch, capsys, question, buffer_size):
    with Path("/dev/full").open("w", buffer_size) as full:  # its end writes what is buffered
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as stop:
            main(question.split())
    assert stop.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
