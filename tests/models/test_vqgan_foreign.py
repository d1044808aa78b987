import pickle
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.open import load_tokenizer, tokenizer_of
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.foreign import infer_config, read_remap
from models.vqgan.network import VQModel
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

CONFIG = VQGANConfig(
    image_size=16,
    image_channels=3,
    channels=32,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=(8,),
    z_channels=8,
    embed_dim=4,
    n_embed=16,
)
IMAGES = torch.linspace(-1, 1, 3 * 3 * 16 * 16).reshape(3, 3, 16, 16).sin()
Layout = Callable[[dict[str, Tensor]], Any]


class ModelCheckpoint:
    """As Lightning keeps one in its files; must not be unpickled."""


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (subprocess.check_call, (["false"],))


def make_model(config: VQGANConfig = CONFIG) -> VQModel:
    torch.manual_seed(0)
    return VQModel(config)


def lightning(weights: dict[str, Tensor]) -> dict[str, Any]:
    extra = {"callbacks": {ModelCheckpoint: {"best": ModelCheckpoint()}}, "epoch": 3}
    return {"state_dict": {**weights, "loss.discriminator.main.0.bias": torch.ones(2)}, **extra}


LAYOUTS: dict[str, Layout] = {
    "bare": lambda weights: weights,
    "with losses": lambda weights: {**weights, "loss.perceptual_loss.lin0.weight": torch.ones(2)},
    "lightning": lightning,
    "first stage": lambda weights: {
        "state_dict": {
            **{f"first_stage_model.{name}": value for name, value in weights.items()},
            "transformer.pos_emb": torch.ones(3),
        }
    },
    "half precision": lambda weights: {name: value.half() for name, value in weights.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_taming_s_layouts_load(layout: str, tmp_path: Path) -> None:
    model = make_model()
    path = tmp_path / "model.ckpt"
    torch.save(LAYOUTS[layout](model.state_dict()), path)
    tokenizer = load_tokenizer(path, 16, 3, given={"dropout": 0.5, "sane_index_shape": True})
    assert tokenizer.config == replace(CONFIG, dropout=0.5, sane_index_shape=True)
    if layout != "half precision":
        with torch.no_grad():
            assert torch.equal(tokenizer.encode(IMAGES), model.eval().encode(IMAGES))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": make_model().state_dict(), "extra": Harmful()}, path)
    assert load_tokenizer(path, 16, 3, given={}).codebook_size == 16
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(UserError, match=r"model\.ckpt"):
        load_tokenizer(path, 16, 3, given={})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"double_z": True},
        {"remap": (3, 1, 15)},
        {"colorize_nlabels": 3},
        {"attn_resolutions": ()},
        {"attn_resolutions": (16, 8), "num_res_blocks": 2},
        {"ch_mult": (2, 1, 3), "channels": 64, "image_size": 32},
        {"embed_dim": 8, "z_channels": 4, "image_channels": 1},
    ],
)
def test_the_architecture_is_read_off_the_weights(changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    inferred = infer_config(VQModel(config).state_dict(), config.image_size)
    assert VQGANConfig(**inferred) == config


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"channels": 64}, r"`VQGANConfig.channels` 64 .* 32"),
        ({"ch_mult": [1, 1]}, r"`VQGANConfig.ch_mult` 1 1 .* 1 2;"),
        ({"n_embed": 128}, r"`VQGANConfig.n_embed` 128 .* 16"),
        ({"double_z": True}, r"`VQGANConfig.double_z` True .* False"),
        ({"attn_resolutions": [16]}, r"`VQGANConfig.attn_resolutions` 16 .* 8;"),
        ({"colorize_nlabels": 3}, r"`VQGANConfig.colorize_nlabels` 3 .* None"),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_a_contradiction_is_named(
    given: dict[str, Any], told: str, own: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    model = make_model()
    if own:
        save_checkpoint(path, "vqgan", {"tokenizer": Tokenizer(model).entry()})
    else:
        torch.save(model.state_dict(), path)
    with pytest.raises(UserError, match=told):
        load_tokenizer(path, 16, 3, given)
    agreeing = {name: getattr(CONFIG, name) for name in given}
    assert load_tokenizer(path, 16, 3, agreeing).config == CONFIG


def test_attention_given_where_it_cannot_be_is_no_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(make_model().state_dict(), path)
    assert load_tokenizer(path, 16, 3, {"attn_resolutions": [8, 999]}).config == CONFIG


def test_own_files_describe_themselves(tmp_path: Path) -> None:
    tokenizer = Tokenizer(make_model())
    for kind in ("vqgan", "maskgit"):
        path = tmp_path / f"{kind}.pt"
        save_checkpoint(path, kind, {"tokenizer": tokenizer.entry(), "dataset": "x"})
        loaded = load_tokenizer(path, 16, 3, given={})
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.config == tokenizer.config
    with pytest.raises(UserError, match=r"`VQGANConfig.image_size` 32 contradicts .* 16"):
        load_tokenizer(path, 16, 3, given={"image_size": 32})
    with pytest.raises(UserError, match=r"3 channel\(s\).* 1"):
        load_tokenizer(path, 16, 1, given={})


def test_a_fingerprint_tells_weights_apart() -> None:
    tokenizer = Tokenizer(make_model())
    changed = make_model()
    with torch.no_grad():
        changed.decoder.conv_out.weight += 1e-3
    assert Tokenizer(make_model()).fingerprint == tokenizer.fingerprint
    assert Tokenizer(changed).fingerprint != tokenizer.fingerprint
    entry = {**tokenizer.entry(), "weights": changed.state_dict()}
    with pytest.raises(UserError, match="fingerprint"):
        tokenizer_of(entry)
    with pytest.raises(UserError, match="damaged"):
        tokenizer_of({"config": {"channels": 48}})


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ({"encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)}, "decoder.conv_out.weight"),
        ({"tok_emb.weight": torch.zeros(3)}, "encoder.conv_in.weight"),
        ([1, 2], "encoder.conv_in.weight"),
        ({"quantize.embed.weight": torch.zeros(3)}, "Gumbel"),
    ],
)
def test_what_is_no_vqgan_is_refused(stored: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(stored, path)
    with pytest.raises(UserError, match=told):
        load_tokenizer(path, 16, 3, given={})


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    weights = make_model().state_dict()
    del weights["decoder.mid.attn_1.q.weight"]
    torch.save(weights, path)
    with pytest.raises(UserError, match=r"decoder\.mid\.attn_1\.q\.weight"):
        load_tokenizer(path, 16, 3, given={})
    torch.save(make_model().state_dict(), path)
    with pytest.raises(UserError, match="`image_size` 15"):
        load_tokenizer(path, 15, 3, given={})
    with pytest.raises(UserError, match="not found"):
        load_tokenizer(tmp_path / "nowhere.pt", 16, 3, given={})


@pytest.mark.parametrize("own", [True, False])
def test_remap_shrinks_the_alphabet(own: bool, tmp_path: Path) -> None:
    remap, other = tmp_path / "used.npy", tmp_path / "other.npy"
    np.save(remap, np.array([5, 0, 9, 14]))
    np.save(other, np.array([5, 0]))
    path = tmp_path / "model.pt"
    model = make_model()
    if own:
        save_checkpoint(path, "vqgan", {"tokenizer": Tokenizer(model).entry()})
    else:
        torch.save(model.state_dict(), path)
    tokenizer = load_tokenizer(path, 16, 3, {"remap": str(remap)})
    assert tokenizer.codebook_size == 4
    tokens = tokenizer.encode(IMAGES)
    assert tokens.max() < 4
    whole = load_tokenizer(path, 16, 3, given={})
    codes = torch.tensor([5, 0, 9, 14])
    torch.testing.assert_close(tokenizer.decode(tokens), whole.decode(codes[tokens]))
    found = whole.encode(IMAGES)
    kept = torch.isin(found, codes)
    assert torch.equal(codes[tokens][kept], found[kept])

    save_checkpoint(path, "vqgan", {"tokenizer": tokenizer.entry()})
    assert load_tokenizer(path, 16, 3, {"remap": str(remap)}).codebook_size == 4
    with pytest.raises(UserError, match=r"other\.npy names 2 codes.* 4"):
        load_tokenizer(path, 16, 3, {"remap": str(other)})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (np.array([0, 1, 99]), "code 99"),
        (np.array([1, 1]), "more than once"),
        (np.array([], dtype=int), "empty"),
        (np.array([0.5]), "whole numbers"),
        (np.array([[1, 2]]), "whole numbers"),
        (np.array([Harmful()]), "is no whole .npy file"),
        (None, "No such file"),
    ],
)
def test_a_wrong_remap_file_is_named(content: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "used.npy"
    if content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=rf"used\.npy.*{told}"):
        read_remap(path, 16)


def test_tokenizer_is_frozen_and_outside_of_modules() -> None:
    tokenizer = Tokenizer(make_model())
    holder = torch.nn.Module()
    holder.tokenizer = tokenizer  # type: ignore[assignment]
    holder.train()
    assert not list(holder.parameters())
    images = tokenizer.decode(torch.zeros(2, 64, dtype=torch.long))
    assert images.shape == (2, 3, 16, 16)
    assert images.abs().max() <= 1
    assert not images.requires_grad
    assert torch.equal(images, tokenizer.decode(torch.zeros(2, 8, 8, dtype=torch.long)))


def test_label_channels_are_shown_in_colour() -> None:
    plain = Tokenizer(make_model())
    assert torch.equal(plain.to_rgb(IMAGES), IMAGES)
    tokenizer = Tokenizer(make_model(replace(CONFIG, image_channels=5, colorize_nlabels=5)))
    shown = tokenizer.to_rgb(torch.randn(2, 5, 16, 16))
    assert shown.shape == (2, 3, 16, 16)
    assert (shown.min().item(), shown.max().item()) == pytest.approx((-1, 1))
