"""Weights are found in whatever programs wrap them in."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.foreign_file import ForeignFile, taken, unwrapped
from models.foreign_weights import averaged
from utils.errors import UserError

NAMES = ("a.weight", "b.weight")
WEIGHTS = {"a.weight": torch.tensor([1.0]), "b.weight": torch.tensor([2.0]), "c": torch.ones(1)}
MATRIX = torch.ones(2, 2)
MODULES = ("module.", "_orig_mod.", "vqvae.")
CONTAINERS = ("state_dict", "model", "ema_state_dict", "weights", "generator", "vae")


def wrap(weights: dict[str, Any], *wrappers: str) -> dict[str, Any]:
    """Put weights into modules (a name with a dot) and dictionaries, from the innermost out."""
    for wrapper in wrappers:
        if wrapper.endswith("."):
            weights = {f"{wrapper}{name}": value for name, value in weights.items()}
        else:
            weights = {wrapper: weights, "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}
    return weights


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_modules_and_dictionaries_in_any_order(depth: int) -> None:
    for modules in itertools.permutations(MODULES, depth):
        for containers in itertools.permutations(CONTAINERS, depth):
            stored = wrap(WEIGHTS, *modules, *containers)
            assert unwrapped(stored, NAMES).weights == WEIGHTS, (modules, containers)


def test_other_modules_and_modules_around_parts() -> None:
    assert unwrapped(wrap(WEIGHTS, "net.", "module.", "ema", "params"), NAMES).weights == WEIGHTS
    parts = {"enc.module.a.weight": torch.ones(1), "enc._orig_mod.b.weight": torch.ones(1)}
    assert unwrapped(parts, ("enc.a.weight",)).weights.keys() == {"enc.a.weight", "enc.b.weight"}


def test_an_averaged_model_of_torch_is_its_weights() -> None:
    network = torch.nn.Linear(2, 2)
    averaged = torch.optim.swa_utils.AveragedModel(network).state_dict()
    stored = {"model": {**network.state_dict(), "bias": torch.ones(2)}, "swa": averaged}
    found = unwrapped(stored, ("weight", "bias"))
    assert found.wrappers == ("swa",)
    assert found.weights.keys() == {"weight", "bias"}


def test_what_holds_no_such_network_gives_nothing() -> None:
    other = {f"other_{name}": value for name, value in WEIGHTS.items()}
    for stored in (None, 3, [3], {}, {"model": 3}, {3: WEIGHTS}, other):
        assert unwrapped(stored, NAMES).weights == {}
    moments = {"optimizer": {"exp_avg": WEIGHTS}, "opt": WEIGHTS, "optim_state": [WEIGHTS]}
    assert unwrapped(moments, NAMES).weights == {}


def test_whole_weights_before_parts_and_averaged_ones_before_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    averaged = {name: value + 1 for name, value in WEIGHTS.items()}
    part = {"a.weight": torch.zeros(1)}
    path = Path("a.pt")
    both = {"model": WEIGHTS, "ema": averaged, "state_dict": part}
    with caplog.at_level("INFO"):
        assert unwrapped(both, NAMES, path).weights == averaged
    said = "a.pt holds 3 sets of weights: using the averaged ones in `ema`"
    assert caplog.messages == [said]
    assert unwrapped({**both, "ema": part}, NAMES).weights == WEIGHTS
    assert unwrapped({**WEIGHTS, **wrap(averaged, "ema.")}, NAMES).weights == averaged
    found = unwrapped({"model": wrap(WEIGHTS, "module.", "model_state_dict")}, NAMES)
    assert found.wrappers == ("model", "model_state_dict")


@pytest.mark.parametrize(
    "name",
    [
        "ema",
        "model_ema",
        "params_ema",
        "netEMA",
        "EMA",
        "swa_model",
        "model_avg",
        "ema_model.",
        "generator_ema.",
    ],
)
def test_averages_are_known_by_a_word_of_the_name(name: str) -> None:
    averaged = {key: value + 1 for key, value in WEIGHTS.items()}
    for raw in ("model", "schema", "semantic."):
        stored = {**wrap(WEIGHTS, raw), **wrap(averaged, name)}
        assert unwrapped(stored, NAMES, Path("a.pt")).weights == averaged


def test_of_several_networks_none_is_guessed() -> None:
    other = {name: value + 1 for name, value in WEIGHTS.items()}
    path = Path("a.pt")
    for one, two in (("student", "teacher"), ("first.", "second."), ("model", "model_best")):
        several = {**wrap(WEIGHTS, one), **wrap(other, two)}
        with pytest.raises(
            UserError, match=rf"several sets .*`{one.strip('.')}` and `{two.strip('.')}`"
        ):
            unwrapped(several, NAMES, path)
        assert unwrapped(several, NAMES, path, [two.strip(".")]).weights == other
        same = {**wrap(WEIGHTS, one), **wrap(dict(WEIGHTS), two)}
        assert unwrapped(same, NAMES, path).weights == WEIGHTS
    with pytest.raises(UserError, match=r"`0` and `1`"):
        unwrapped([WEIGHTS, other], NAMES, path)
    assert unwrapped({**WEIGHTS, **wrap(other, "teacher.")}, NAMES, path).wrappers == ()


def test_averages_under_names_without_dots_take_the_place_of_the_weights() -> None:
    raw = {"encoder.conv.weight": torch.zeros(2), "steps": torch.zeros(1), "loss.a": torch.ones(1)}
    ema = {"ema.encoderconvweight": torch.ones(2), "ema.decay": torch.ones(()), "ema.lossa": MATRIX}
    found = averaged({**raw, **ema}, "ema.")
    assert found.keys() == raw.keys()
    assert found["encoder.conv.weight"].equal(torch.ones(2))
    assert found["steps"] is raw["steps"]
    assert taken(found, {"loss.": "networks of the losses"}).keys() == raw.keys() - {"loss.a"}
    with pytest.raises(ValueError, match=r"ema\.other is the average of no weight"):
        averaged({**raw, **ema, "ema.other": MATRIX}, "ema.")


def test_a_file_comes_with_the_config_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert ForeignFile(WEIGHTS, path).config == {}
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "Net"}))
    assert ForeignFile(WEIGHTS, path).config == {"_class_name": "Net"}
    for wrong in ("[1]", "{", "[" * 10**5, " " * (8 << 20) + "{}"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"config\.json beside it is not an object"):
            _ = ForeignFile(WEIGHTS, path).config
