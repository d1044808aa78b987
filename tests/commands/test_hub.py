"""Checkpoints to and from the hub, by the command line and from Python; it is a local server."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_TRANSFORMER
from hub_server import TOKEN, import_again
from PIL import Image
from safetensors.torch import load_file, save_file

from models.model import BestSettings
from models.open import load_model, load_tokenizer
from models.sampling import SamplingConfig
from utils.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.hub import hub_name, local_file

TRAIN = f"--train --dataset mnist --batch_size 16 {TINY_TRANSFORMER}"


def folder(path: Path, **files: Path | str) -> Path:
    """Write the files of a repository; "__" in a name is a slash."""
    for name, content in files.items():
        file = path / f"{name.replace('__', '/')}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, file)
        else:
            file.write_text(content)
    return path


def samples(path: Path) -> np.ndarray:
    with np.load(path / "samples" / "samples.npz") as stored:
        return stored["arr_0"]


def test_a_run_on_a_tokenizer_of_the_hub_goes_on_without_a_connection(
    run, hub, tokenizer_file, tmp_path
):
    hub.repositories["me/vq"] = {"main": folder(tmp_path / "hub", vq=tokenizer_file)}
    run(f"{TRAIN} --n_epochs 1 --checkpoint_vae hf:me/vq")
    kept = json.loads((tmp_path / "mnist" / "config.json").read_text())["maskgit"]
    assert kept["checkpoint_vae"] == hub_name(local_file("hf:me/vq"))
    assert kept["checkpoint_vae"].startswith("hf:me/vq/vq.pt@")
    hub.stop()
    out = run("--train --resume --n_epochs 2 --dataset mnist")
    assert f"{kept['checkpoint_vae']}: {tmp_path}/cache" in out
    assert "HTTP Request" not in out
    assert load_tokenizer("hf:me/vq").fingerprint == load_tokenizer(tokenizer_file).fingerprint


def test_a_model_of_the_hub_is_sampled_and_its_results_are_elsewhere(
    run, refused, hub, trained, tmp_path
):
    model = trained / "MaskGIT_mnist.pt"
    old = folder(tmp_path / "old", a="no model", best__model=model)
    shutil.copy(trained / "config.json", old / "best")
    new = folder(tmp_path / "new", a="no model", best__model="no model")
    hub.repositories["me/models"] = {"main": new, "v1": old}
    run("--sample --num_samples 2 --checkpoint hf:me/models/best/model.pt@v1")
    expected = load_model(model, device="cpu").sample([0, 1], seed=1)
    assert np.array_equal(samples(tmp_path / "mnist"), expected)
    picture = Image.open(tmp_path / "mnist" / "samples" / "images" / "000000.png")
    assert "--checkpoint hf:me/models/best/model.pt@" in " ".join(picture.text.values())
    said = refused("--sweep step=1 --keep_best --checkpoint hf:me/models/best/model.pt@v1")
    assert "model.pt cannot hold settings" in said
    assert load_model("hf:me/models/best/model.pt@v1", device="cpu").dataset == "mnist"


def test_a_file_that_cannot_be_had_is_one_line(hub, tmp_path, monkeypatch):
    hub.repositories["me/many"] = {"main": folder(tmp_path / "many", a="1", sub__b="2")}
    hub.repositories["me/gated"] = {"main": folder(tmp_path / "gated", a="1")}
    hub.gated.add("me/gated")

    def said(name: str) -> str:
        with pytest.raises(UserError) as error:
            local_file(name)
        return str(error.value)

    assert said("hf:me/many").endswith(
        "name one of its checkpoints, as hf:owner/name/file: a.pt, sub/b.pt"
    )
    assert said("hf:me/many/c.pt").endswith("it has no file c.pt; it has a.pt, sub/b.pt")
    (tmp_path / "empty").mkdir()
    hub.repositories["me/empty"] = {"main": tmp_path / "empty"}
    assert said("hf:me/empty").endswith("it has no checkpoint; it is empty")
    assert "no such repository" in said("hf:me/other/a.pt")
    assert "no such revision" in said("hf:me/many@v2")
    assert "it is gated: accept its terms at http" in said("hf:me/gated")
    for name in ("hf:", "hf:me", "hf:me/a@", "hf:me//a.pt", "hf:a b/c"):
        assert f"{name!r} names no file on the hub: write hf:owner/name" in said(name)
    assert "must use alphanumeric" in said("hf:me/--a")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert local_file("hf:me/gated").read_text() == "1"
    assert local_file("HF:me/many/sub/b.pt").read_text() == "2"
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import_again(monkeypatch)
    assert local_file("hf:me/many").name == "b.pt"  # the only one in the cache
    assert len(hub.asked) == asked
    missing = said("hf:me/many/a.pt@v1")
    assert "(HF_HUB_OFFLINE is set), and it is not in the cache" in missing
    assert "/me/many/resolve/v1/a.pt elsewhere, and name that file" in missing
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert said("hf:me/many/a.pt").endswith("is missing: pip install -r requirements-hub.txt")


def test_a_model_is_published_with_all_that_its_checkpoint_says(run, trained, hub, tmp_path):
    path = tmp_path / "model.pt"
    contents = load_checkpoint(trained / "MaskGIT_mnist.pt", "maskgit")
    settings = SamplingConfig(num_steps=3, guidance=0.1 + 0.2)
    best = BestSettings(settings, "fid", {"fid": 0.1 + 0.7}, {"images": 5, "basis": "ours"})
    look = {"fit": "pad"}
    save_checkpoint(path, "maskgit", {**contents, "best_settings": best.entry(), "look": look})
    hub.repositories["me/model"] = {"main": tmp_path / "out"}
    run(f"--export {tmp_path}/out/ --checkpoint {path}")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown  # write")
    assert "datasets:\n- mnist\n---\n\n# MaskGIT of mnist" in card
    assert re.search(r"0\.8000 +ours", card)
    model = load_model(path, device="cpu")
    for name in (tmp_path / "out", "hf:me/model"):
        opened = load_model(name, device="cpu")
        assert opened.fingerprint == model.fingerprint
        assert opened.tokenizer.fingerprint == model.tokenizer.fingerprint
        assert (opened.best, opened.look, opened.class_names) == (best, look, model.class_names)
    run(f"--sample --num_samples 2 --checkpoint {tmp_path}/out --settings best")
    expected = model.sample([0, 1], seed=1, **model.best_settings)
    assert np.array_equal(samples(tmp_path / "mnist"), expected)
    assert len(list((tmp_path / "out").iterdir())) == 3  # results are elsewhere
    # What does not belong together is said, and what is missing.
    weights = load_file(tmp_path / "out" / WEIGHTS)
    weights["ema/output_bias"] += 1
    save_file(weights, tmp_path / "out" / WEIGHTS)
    with pytest.raises(UserError, match=r"safetensors is damaged: ema/output_bias does not match"):
        load_model(tmp_path / "out")
    description = tmp_path / "out" / "config.json"
    description.write_text(description.read_text().replace('"fit": "pad"', '"fit": "crop"'))
    with pytest.raises(UserError, match=r"config\.json is damaged: \(plain data\)"):
        load_model(tmp_path / "out")
    description.write_text("{}")
    with pytest.raises(UserError, match=r"config\.json is not the one that came with model"):
        load_model(tmp_path / "out")
    description.unlink()
    with pytest.raises(UserError, match=r"holds tensors only: put the config\.json"):
        load_model(tmp_path / "out")


def test_a_run_folder_stands_for_its_checkpoint(tmp_path):
    kept = ("MaskGIT_folder_best", "MaskGIT_folder_best_fid", "MaskGIT_folder_step_0000012")
    folder(tmp_path, **dict.fromkeys(("MaskGIT_folder", "resume_maskgit", *kept), ""))
    assert local_file(tmp_path).name == "MaskGIT_folder.pt"
    for name in ("VQGAN_folder", "good_best"):
        assert local_file(folder(tmp_path / name, MaskGIT_folder="", **{name: ""})).is_dir()
