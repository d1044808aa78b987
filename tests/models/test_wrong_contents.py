"""Files of this program whose insides are not as they should be: one line with the file's name.

Their checksums are right, as if somebody had written them so.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import doubled, in_itself

from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.model import BestSettings
from models.open import load_model, load_tokenizer
from models.sampling import SamplingConfig
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from utils.checkpoint import FORMAT, FORMAT_VERSION, load_checkpoint, save_checkpoint
from utils.errors import UserError

VQGAN = VQGANConfig(
    image_size=8, channels=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(),
    z_channels=4, n_embed=8, embed_dim=4,
)  # fmt: skip
TRANSFORMER = TransformerConfig(8, 3, 16, embed_dim=4, hidden_dim=8, heads=2, depth=1, mlp_dim=8)
MATRIX = torch.ones(2, 2)


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    weights = MaskedTransformer(TRANSFORMER).state_dict()
    return {
        "family": "maskgit",
        "config": vars(TRANSFORMER),
        "weights": weights,
        "ema": dict(weights),
        "tokenizer": Tokenizer(VQModel(VQGAN)).entry(),
        "dataset": "mnist",
        "class_names": ["a", "b", "c"],
    }


def deep(levels: int) -> Any:
    """A list in a list, and so on."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def best(**wrong: Any) -> dict[str, Any]:
    """Best settings as a sweep writes them, with some entries changed."""
    entry = BestSettings(SamplingConfig(), "fid", {"fid": 3.5}, {"images": 1000}).entry()
    return entry | wrong


def best_sampling(**wrong: Any) -> Callable[[dict[str, Any]], Any]:
    """Put best settings with these settings of sampling into the contents."""
    return lambda c: c.update(best_settings=best(sampling=best()["sampling"] | wrong))


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a matrix as a family": (lambda c: c.update(family=MATRIX), "family of type Tensor; this"),
    "a long family": (lambda c: c.update(family="a\n" * 10**6), "this program has "),
    "no config": (lambda c: c.update(config=None), "NoneType instead of a TransformerConfig"),
    "a matrix as a config": (lambda c: c.update(config=MATRIX), "Tensor instead of a Transformer"),
    "a matrix as depth": (lambda c: c["config"].update(depth=MATRIX), "depth tensor("),
    "an infinite dropout": (lambda c: c["config"].update(dropout=torch.inf), "dropout` inf"),
    "huge widths": (lambda c: c["config"].update(hidden_dim=2**100), "is damaged"),
    "depth": (lambda c: c["config"].update(depth=10**9), "depth` 1000000000"),
    "numbers as names": (lambda c: c["config"].update({3: 3}), "3 is unknown"),
    "a deep list": (lambda c: c["config"].update(heads=deep(80)), "is not of type"),
    "no class names": (lambda c: c.update(class_names=None), "is damaged"),
    "a number as a background": (lambda c: c.update(look={"background": 1}), "is damaged"),
    "a matrix as class names": (lambda c: c.update(class_names=torch.ones(3)), "its 3 classes"),
    "a list as dataset": (lambda c: c.update(dataset=[]), "does not name its dataset"),
    "a list as weights": (lambda c: c.update(ema=[1]), "list instead of weights"),
    "weights in weights": (lambda c: c["ema"].update(output_bias={}), "output_bias is missing"),
    "a number as a weight": (
        lambda c: c["ema"].update(output_bias=torch.ones(())),
        "output_bias is float32 () instead of float32 (17, 13)",
    ),
    "a weight of nothing": (
        lambda c: c["ema"].update(output_bias=torch.ones(0, 13)),
        "output_bias is float32 (0, 13)",
    ),
    "numbers as names of weights": (lambda c: c["ema"].update({3: MATRIX}), "3 is not part of it"),
    "names of two lines": (lambda c: c["ema"].update({"a\nb": MATRIX}), "a b is not part of it"),
    "no best settings": (lambda c: c.update(best_settings=None), "not plain data"),
    "a matrix as best settings": (lambda c: c.update(best_settings=MATRIX), "not plain data"),
    "deep best settings": (lambda c: c.update(best_settings=best(protocol=deep(80))), "of type"),
    "an unknown sampler": (best_sampling(sampler="psychic"), "sampler` psychic: unknown; choose"),
    "too much guidance": (best_sampling(guidance=1e9), "guidance` 1000000000.0: must be a number"),
    "infinite noise": (best_sampling(choice_temperature=torch.inf), "choice_temperature` inf: "),
    "no steps": (best_sampling(num_steps=0), "num_steps` 0: must be a whole number"),
    "half a step": (best_sampling(num_steps=1.5), "num_steps 1.5 is not of type"),
    "a turned interval": (best_sampling(guidance_interval=[1, 0]), "guidance_interval` 1 0: must"),
    "a text as interval": (best_sampling(guidance_interval="ab"), "guidance_interval 'ab' is not"),
    "no such token": (best_sampling(start_token=99), "start_token` 99: the tokens are 0 to 7"),
    "a setting too many": (best_sampling(mood=1), "mood is unknown"),
    "no score": (lambda c: c.update(best_settings=best(metric="kid")), "none called 'kid'"),
    "a score with a name of two lines": (
        lambda c: c.update(best_settings=best(metric="a\nb", scores={"a\nb": 1})),
        "none called 'a\\nb'",
    ),
    "a score of nothing": (
        lambda c: c.update(best_settings=best(scores={"fid": torch.nan})),
        "have no scores",
    ),
    "no number of images": (
        lambda c: c.update(best_settings=best(protocol={})),
        "do not say how many images",
    ),
    "a matrix as a tokenizer": (lambda c: c.update(tokenizer=MATRIX), "is damaged"),
    "a text as a tokenizer": (lambda c: c.update(tokenizer="x"), "is damaged"),
    "a matrix as a fingerprint": (
        lambda c: c["tokenizer"].update(fingerprint=MATRIX),
        "its fingerprint is not",
    ),
    "levels without end": (
        lambda c: c["tokenizer"]["config"].update(ch_mult=[1] * 2000, image_size=2**2000),
        "`ch_mult` 1 1 1",
    ),
    "blocks without end": (
        lambda c: c["tokenizer"]["config"].update(num_res_blocks=501),
        "num_res_blocks` 501: must be at most 500 with 2 resolutions",
    ),
    "a code twice": (
        lambda c: c["tokenizer"]["config"].update(remap=[*range(8), 7]),
        "code 7 occurs more than once",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_entries_are_named(contents: dict[str, Any], tmp_path: Path, name: str) -> None:
    spoil, said = WRONG[name]
    spoilt = copy.deepcopy(contents)
    spoil(spoilt)
    path = tmp_path / "a.pt"
    save_checkpoint(path, "maskgit", spoilt)
    with pytest.raises(UserError) as refused:
        load_model(path, device="cpu")
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_the_file_as_it_should_be_opens(contents: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", "maskgit", contents)
    model = load_model(tmp_path / "a.pt", device="cpu")
    assert model.transformer.config == TRANSFORMER
    assert load_tokenizer(tmp_path / "a.pt").config == VQGAN


CIRCLES = "hold themselves, or are nested over 100 levels deep"
OWN = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": "vqgan"}
OUTSIDE: dict[str, tuple[Any, str]] = {  # what is in the file, and what is said
    "a matrix as a format": ({**OWN, "format": MATRIX}, "no VQ-GAN in taming-transformers' layout"),
    "a matrix as a version": ({**OWN, "format_version": MATRIX}, "version of type Tensor"),
    "a huge version": ({**OWN, "format_version": 2**600}, "format version"),
    "a list as a kind": ({**OWN, "kind": []}, "does not say what it holds"),
    "a long kind": ({**OWN, "kind": "a\n" * 10**6}, "checkpoint where a trained VQ-GAN"),
    "no contents": (OWN, "its contents are missing"),
    "a list as contents": ({**OWN, "contents": [], "checksums": {}}, "its contents are missing"),
    "numbers as checksums": (
        {**OWN, "contents": {}, "checksums": {3: MATRIX, "(plain data)": MATRIX}},
        "does not match its checksum",
    ),
    "names of two lines": (
        {**OWN, "contents": {"a\nb" * 1000: MATRIX}, "checksums": {}},
        "does not match its checksum",
    ),
    "contents in themselves": ({**OWN, "contents": in_itself("dict"), "checksums": {}}, CIRCLES),
    "a list in itself": (in_itself("list"), CIRCLES),
    "deep contents": ({**OWN, "contents": {"a": deep(150)}, "checksums": {}}, CIRCLES),
    "contents twice in contents": (
        {**OWN, "contents": {"a": doubled(1, 60)}, "checksums": {}},
        "repeat what they hold too often",
    ),
    "a number": (3, "no VQ-GAN in taming-transformers' layout"),
    "nothing": (None, "no VQ-GAN in taming-transformers' layout"),
    "a tensor": (MATRIX, "no VQ-GAN in taming-transformers' layout"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_wrong_files_are_named(tmp_path: Path, name: str) -> None:
    stored, said = OUTSIDE[name]
    path = tmp_path / "a.pt"
    torch.save(stored, path)
    with pytest.raises(UserError) as refused:
        load_tokenizer(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    with pytest.raises(UserError):
        load_checkpoint(path, "vqgan")
