import contextlib
import json
import os
import pickle
from pathlib import Path
from pprint import pformat

import pytest
import torch

from utils.checkpoint import (
    FORMAT,
    contents_of,
    load_checkpoint,
    save_checkpoint,
    save_folder,
    torch_save,
    weights_digest,
)
from utils.errors import UserError
from utils.torch_file import read_torch_file

CONTENTS = {
    "config": {"depth": 2, "ratio": 0.1, "name": None},
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "betas": (0.9, 0.95)},
    "pair": (1, torch.arange(4.0)[::2]),
}


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "a.pt", "maskgit", CONTENTS)
    loaded = load_checkpoint(tmp_path / "a.pt", "maskgit")
    assert loaded["config"] == CONTENTS["config"]
    assert loaded["weights"]["a"].equal(CONTENTS["weights"]["a"])
    assert loaded["optimizer"]["state"][0]["step"] == 3
    assert loaded["optimizer"]["betas"] == (0.9, 0.95)


def test_a_folder_holds_what_a_file_does(tmp_path):
    contents = {
        "config": {"depth": 2, "sizes": [1, 2], "name": None},
        "weights": {"turned": torch.arange(6.0).view(2, 3).T, "half": torch.ones(2).bfloat16()},
        "state": {"step": torch.tensor(3), "nothing": {}},
    }
    save_folder(tmp_path, "maskgit", contents)
    save_checkpoint(tmp_path / "a.pt", "maskgit", contents)
    loaded = (load_checkpoint(tmp_path / n, "maskgit") for n in ("model.safetensors", "a.pt"))
    for found in loaded:
        assert pformat(found) == pformat(contents)  # in the order of the names


@pytest.mark.parametrize(
    "described", [{}, {"contents": {}}, {"format": FORMAT}, {"format": FORMAT, "contents": []}]
)
def test_a_description_of_something_else_is_named(tmp_path, described):
    save_folder(tmp_path, "maskgit", {"weights": CONTENTS["weights"]})
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"config\.json is not the one that came with model"):
        load_checkpoint(tmp_path / "model.safetensors", "maskgit")


@pytest.mark.parametrize(
    ("change", "said"),
    [("weight", "weights/a"), ("config", r"\(plain data\)"), ("missing", "weights/a"),
     ("extra", "weights/c"), ("pair", "pair/1")],
)  # fmt: skip
def test_damage_is_noticed_and_named(tmp_path, change, said):
    path = tmp_path / "a.pt"
    save_checkpoint(path, "maskgit", CONTENTS)
    stored = torch.load(path, weights_only=True)
    contents = stored["contents"]
    if change == "weight":
        contents["weights"]["a"][0, 0] = 7
    elif change == "config":
        contents["config"]["depth"] = 3
    elif change == "missing":
        del contents["weights"]["a"]
    elif change == "pair":
        contents["pair"][1][0] = 7
    else:
        contents["weights"]["c"] = torch.zeros(1)
    torch.save(stored, path)
    with pytest.raises(UserError, match=rf"a\.pt is damaged: {said} does not match its checksum"):
        load_checkpoint(path, "maskgit")


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"not found.*none\.pt"):
        load_checkpoint(tmp_path / "none.pt", "maskgit")
    with pytest.raises(UserError, match="is a folder without a checkpoint"):
        load_checkpoint(tmp_path, "maskgit")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*text\.pt"):
        load_checkpoint(tmp_path / "text.pt", "maskgit")
    for bare in ({}, {0: torch.ones(1), "a/b": torch.ones(1), "format": "pt"}):
        torch.save(bare, tmp_path / "bare.pt")
        with pytest.raises(UserError, match="not a checkpoint of this program"):
            load_checkpoint(tmp_path / "bare.pt", "maskgit")
    save_checkpoint(tmp_path / "vqgan.pt", "vqgan", CONTENTS)
    with pytest.raises(UserError, match=r"is a 'vqgan' checkpoint where a 'maskgit' checkpoint is"):
        load_checkpoint(tmp_path / "vqgan.pt", "maskgit")
    stored, kinds = read_torch_file(tmp_path / "vqgan.pt"), {"vqgan": "one", "maskgit": "the other"}
    with pytest.raises(UserError, match="is one where the other is needed"):
        contents_of(stored, tmp_path / "vqgan.pt", "maskgit", kinds)


def test_truncation_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, "maskgit", CONTENTS)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            load_checkpoint(path, "maskgit")


@pytest.mark.parametrize(
    ("version", "said"),
    [(99, "99"), (0, "0"), ("2", "of type str"), (None, "of type NoneType")],
)
def test_other_versions_of_the_format_are_refused(tmp_path, version, said):
    path = tmp_path / "a.pt"
    save_checkpoint(path, "maskgit", CONTENTS)
    stored = torch.load(path, weights_only=True)
    torch.save({**stored, "format_version": version}, path)
    with pytest.raises(UserError, match=f"format version {said};"):
        load_checkpoint(path, "maskgit")


def test_a_failed_write_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, "maskgit", CONTENTS)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"No space left.*intact"):
        save_checkpoint(path, "maskgit", {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_while_writing_is_told_as_such():
    with Path("/dev/full").open("wb", 0) as file, pytest.raises(OSError, match="No space left"):
        torch_save({"weights": torch.zeros(300_000)}, file)


def test_an_error_that_is_not_of_the_file_stays_as_it_is():
    class Refusing:
        def __reduce__(self):
            raise RuntimeError("not to be stored")

    with Path("/dev/null").open("wb", 0) as file, pytest.raises(RuntimeError, match="not to be"):
        torch_save({"weights": Refusing()}, file)


def test_digest_depends_on_config_and_weights():
    weights = {"a": torch.ones(2), "b": torch.zeros(2)}
    config = {"depth": 1, "heads": 2}
    digest = weights_digest(config, weights)
    assert digest == weights_digest(*(dict(reversed(each.items())) for each in (config, weights)))
    assert digest != weights_digest({**config, "depth": 2}, weights)
    changes = (torch.full((2,), 1.0001), torch.ones(2, 1), weights["a"].view(torch.int32))
    for changed in changes:
        assert digest != weights_digest(config, {**weights, "a": changed})
    renamed = {"a": weights["a"], "c": weights["b"]}
    assert digest != weights_digest(config, renamed)


# --- Files that mean harm. Each tries to leave a mark, and none must.


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def harmful(mark):
    touch = f"open({str(mark)!r}, 'w')"
    shell = Call(os.system, f"touch {mark}")
    return {
        "shell": shell,
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "method": Call(Path.touch, Path(mark)),
        "chain": Call(getattr, Call(__import__, "os"), "system"),
        "nested": {"state_dict": {"weight": [1, (2, {"deep": shell})]}},
        "state": {"state_dict": {"weight": torch.ones(2)}, "callbacks": {Call: shell}},
    }


@pytest.mark.parametrize("name", harmful("mark"))
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "safetensors"])
def test_no_code_in_a_file_is_run(tmp_path, monkeypatch, name, form):
    monkeypatch.chdir(tmp_path)
    content = harmful("mark")[name]
    path = tmp_path / ("file.safetensors" if form == "safetensors" else "file.pt")
    if form == "zip":
        torch.save(content, path)
    elif form == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content))
    with contextlib.suppress(UserError):
        read_torch_file(path)
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208


@pytest.mark.parametrize("option", ["--checkpoint", "--checkpoint_vae"])
def test_the_program_runs_no_code_of_a_checkpoint(run, tmp_path, monkeypatch, capsys, option):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    torch.save(harmful("mark")["state"], tmp_path / "a.ckpt")
    mode = "--sample" if option == "--checkpoint" else "--train"
    with pytest.raises(SystemExit) as stop:
        run(f"{mode} --dataset mnist {option} {tmp_path}/a.ckpt")
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not any((tmp_path / "work").iterdir())
