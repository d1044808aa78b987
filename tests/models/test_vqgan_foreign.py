import pickle
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.open import load_tokenizer, tokenizer_of
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig, read_remap
from models.vqgan.foreign import infer_config
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
BUNDLED = Path(__file__).parents[2] / "models" / "pretrained" / "VQGAN_fashionmnist.pt"
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


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in weights.items()}


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
    "module of compiled": lambda weights: prefixed("module._orig_mod.", weights),
    "compiled of module": lambda weights: prefixed("_orig_mod.module.", weights),
    "lightning module": lambda weights: {"state_dict": prefixed("model.", weights)},
    "averaged in model": lambda weights: {"model": {"ema": weights}, "epoch": 3},
    "params of net": lambda weights: {"params": {"net": prefixed("module.", weights)}},
    "model_state_dict": lambda weights: {"model_state_dict": weights},
    "generator beside a critic": lambda weights: {
        "generator": prefixed("vqvae.", weights),
        "discriminator": {"main.0.weight": torch.ones(2)},
        "ema_state_dict": {"decay": 0.999},
    },
    "arrays of numpy": lambda weights: {name: value.numpy() for name, value in weights.items()},
    "wrapped parts": lambda weights: {
        name.replace("encoder.", "encoder.module.").replace("decoder.", "decoder._orig_mod."): value
        for name, value in weights.items()
    },
    "averaged codebook": lambda weights: {
        **weights,
        "quantize.embedding.cluster_size": torch.ones(16),
        "quantize.embedding.embed_avg": torch.ones(16, 4),
    },
    "colors for labels": lambda weights: {**weights, "colorize": torch.ones(3, 182, 1, 1)},
    "half precision": lambda weights: {name: value.half() for name, value in weights.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_taming_s_layouts_load(layout: str, tmp_path: Path) -> None:
    model = make_model()
    path = tmp_path / "model.ckpt"
    torch.save(LAYOUTS[layout](model.state_dict()), path)
    given = {"dropout": 0.5, "sane_index_shape": True}
    tokenizer = load_tokenizer(path, 16, 3, given)
    assert tokenizer.config == replace(CONFIG, dropout=0.5, sane_index_shape=True)
    if layout != "half precision":
        with torch.no_grad():
            assert torch.equal(tokenizer.encode(IMAGES), model.eval().encode(IMAGES))


def test_without_attention_in_the_middle_nothing_is_added_there(tmp_path: Path) -> None:
    """As in latent-diffusion's vq-f4-noattn. An attention whose output is zero adds nothing too."""
    model = make_model(replace(CONFIG, attn_resolutions=()))
    with torch.no_grad():
        for part in (model.encoder, model.decoder):
            part.mid.attn_1.proj_out.weight.zero_()
            part.mid.attn_1.proj_out.bias.zero_()
    weights = {k: v for k, v in model.state_dict().items() if "mid.attn_1" not in k}
    torch.save({"state_dict": weights}, tmp_path / "model.ckpt")
    tokenizer = load_tokenizer(tmp_path / "model.ckpt", 16, 3)
    assert tokenizer.config == replace(CONFIG, attn_resolutions=(), middle_attention=False)
    tokens = Tokenizer(model).encode(IMAGES)
    assert torch.equal(tokenizer.encode(IMAGES), tokens)
    assert torch.equal(tokenizer.decode(tokens), Tokenizer(model).decode(tokens))
    # It is kept as it is.
    save_checkpoint(tmp_path / "own.pt", "vqgan", {"tokenizer": tokenizer.entry()})
    again = load_tokenizer(tmp_path / "own.pt", 16, 3)
    assert (again.config, again.fingerprint) == (tokenizer.config, tokenizer.fingerprint)


def test_the_fingerprints_of_files_with_attention_in_the_middle_stay_as_they_were() -> None:
    tokenizer = load_tokenizer(BUNDLED)
    assert tokenizer.fingerprint == torch.load(BUNDLED)["contents"]["tokenizer"]["fingerprint"]
    assert "middle_attention" not in tokenizer.entry()["config"]


def linear_attention(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {name: value for name, value in weights.items() if "mid.attn_1" not in name}
    return {**kept, "encoder.mid.attn_1.to_qkv.weight": torch.ones(96, 64, 1, 1)}


def without(part: str) -> Layout:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (linear_attention, "has linear attention (attn_type: linear), which this program does not"),
        (without("sample.conv"), "without convolutions (resamp_with_conv: False), which this"),
        (without(".block."), "no VQ-GAN in taming-transformers' layout: no encoder.down.0.block.0"),
        (without("decoder.mid.attn_1"), "decoder.mid.attn_1.norm.weight is missing"),
    ],
)
def test_kinds_that_this_program_does_not_have_are_named(
    change: Layout, said: str, tmp_path: Path
) -> None:
    torch.save(change(make_model().state_dict()), tmp_path / "model.ckpt")
    with pytest.raises(UserError) as refused:
        load_tokenizer(tmp_path / "model.ckpt", 16, 3)
    assert said in str(refused.value)
    assert "model.ckpt" in str(refused.value)


def with_shape(name: str, *shape: int) -> Layout:
    return lambda weights: {**weights, name: torch.ones(shape)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_shape("encoder.conv_in.weight"), "encoder.conv_in.weight has the shape ()"),
        (with_shape("encoder.conv_in.weight", 0, 3, 3, 3), "shape (0, 3, 3, 3) where 4"),
        (with_shape("encoder.conv_in.weight", 32), "the shape (32,) where 4 lengths"),
        (with_shape("encoder.down.1.block.0.conv2.weight", 0), "conv2.weight has the shape (0,)"),
        (with_shape("decoder.conv_in.weight", 64, 0, 3, 3), "the shape (64, 0, 3, 3)"),
        (with_shape("encoder.conv_out.weight"), "encoder.conv_out.weight has the shape ()"),
        (with_shape("quantize.embedding.weight"), "has the shape () where 2 lengths"),
        (with_shape("quantize.embedding.weight", 16, 0), "has the shape (16, 0)"),
        (with_shape("quantize.used", 2, 2), "quantize.used has the shape (2, 2)"),
        (with_shape("quantize.used", 2), "quantize.used does not hold numbers of codes"),
        (with_shape("colorize", 3, 3), "colorize has the shape (3, 3) where 4"),
        (with_shape("encoder.down.x.block.0.conv2.weight", 4), "encoder.down.2.block"),
        (lambda weights: {**weights, "encoder.conv_in.weight": 3}, "no encoder.conv_in.weight"),
    ],
)
def test_weights_of_impossible_shapes_are_named(change: Layout, said: str, tmp_path: Path) -> None:
    torch.save(change(make_model().state_dict()), tmp_path / "model.ckpt")
    with pytest.raises(UserError) as refused:
        load_tokenizer(tmp_path / "model.ckpt", 16, 3)
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"the weights in {tmp_path}/model.ckpt") or (
        f"{tmp_path}/model.ckpt holds no VQ-GAN" in str(refused.value)
    )
    assert "\n" not in str(refused.value)


def test_a_whole_pickled_network_is_told_as_such(tmp_path: Path) -> None:
    torch.save({"model": make_model()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt holds a whole pickled network \(models\.vqgan"):
        load_tokenizer(tmp_path / "model.pt", 16, 3)


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
        {"middle_attention": False, "attn_resolutions": ()},
    ],
)
def test_the_architecture_is_read_off_the_weights(changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    inferred = infer_config(VQModel(config).state_dict(), config.image_size)
    assert VQGANConfig(**inferred) == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"channels": 64}, r"`tokenizer.channels` 64 .* 32"),
        ({"ch_mult": [1, 1]}, r"`tokenizer.ch_mult` 1 1 .* 1 2;"),
        ({"n_embed": 128}, r"`tokenizer.n_embed` 128 .* 16"),
        ({"double_z": True}, r"`tokenizer.double_z` True .* False"),
        ({"attn_resolutions": [16]}, r"`tokenizer.attn_resolutions` 16 .* 8;"),
        ({"colorize_nlabels": 3}, r"`tokenizer.colorize_nlabels` 3 .* None"),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_a_contradiction_is_named(
    given: dict[str, Any], said: str, own: bool, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    model = make_model()
    if own:
        save_checkpoint(path, "vqgan", {"tokenizer": Tokenizer(model).entry()})
    else:
        torch.save(model.state_dict(), path)
    with pytest.raises(UserError, match=said):
        load_tokenizer(path, 16, 3, given)
    agreeing = {name: getattr(CONFIG, name) for name in given}
    assert load_tokenizer(path, 16, 3, agreeing).config == CONFIG


def test_attention_given_where_it_cannot_be_is_no_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(make_model().state_dict(), path)
    given = {"attn_resolutions": [8, 999]}
    assert load_tokenizer(path, 16, 3, given).config == CONFIG


def test_own_files_describe_themselves(tmp_path: Path) -> None:
    tokenizer = Tokenizer(make_model())
    for kind in ("vqgan", "maskgit"):
        path = tmp_path / f"{kind}.pt"
        save_checkpoint(path, kind, {"tokenizer": tokenizer.entry(), "dataset": "x"})
        loaded = load_tokenizer(path, 16, 3, given={})
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.config == tokenizer.config
    with pytest.raises(UserError, match=r"`tokenizer.image_size` 32 contradicts .* 16"):
        load_tokenizer(path, 16, 3, given={"image_size": 32})
    with pytest.raises(UserError, match=r"3 channels;.* 1"):
        load_tokenizer(path, 16, 1, given={})


def test_a_vqgan_without_attention_opens_at_any_multiple_of_its_factor(tmp_path: Path) -> None:
    config = replace(CONFIG, attn_resolutions=(), middle_attention=False)
    model, path = make_model(config), tmp_path / "own.pt"
    save_checkpoint(path, "vqgan", {"tokenizer": Tokenizer(model).entry()})
    assert load_tokenizer(path).image_size == (16, 16)
    for size in (8, 32, "12x20"):
        tokenizer = load_tokenizer(path, given={"image_size": size})
        height, width = tokenizer.image_size
        images = torch.rand(1, 3, height, width) * 2 - 1
        assert tokenizer.grid == (height // 2, width // 2)
        assert tokenizer.encode(images).equal(model.encode(images))
    with pytest.raises(UserError, match=r"`image_size` 15: .* multiple of 2"):
        load_tokenizer(path, given={"image_size": 15})


def test_attention_that_does_not_occur_does_not_bind_the_size() -> None:
    config = replace(CONFIG, middle_attention=False, attn_resolutions=(5,))
    assert config.for_images_of((32, 32)).grid == (16, 16)
    assert config.for_images_of((10, 10)) == config  # attention would occur here
    assert CONFIG.for_images_of((32, 32)) == CONFIG


def test_a_fingerprint_tells_weights_apart() -> None:
    tokenizer = Tokenizer(make_model())
    changed = make_model()
    with torch.no_grad():
        changed.decoder.conv_out.weight += 1e-3
    assert Tokenizer(make_model()).fingerprint == tokenizer.fingerprint
    assert Tokenizer(changed).fingerprint != tokenizer.fingerprint
    entry = {**tokenizer.entry(), "weights": changed.state_dict()}
    with pytest.raises(UserError, match="fingerprint"):
        tokenizer_of(entry, "a.pt")
    with pytest.raises(UserError, match="damaged"):
        tokenizer_of({"config": {"channels": 48}}, "a.pt")


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"encoder.conv_in.weight": torch.zeros(32, 3, 3, 3)}, "decoder.conv_out.weight"),
        ({"tok_emb.weight": torch.zeros(3)}, "encoder.conv_in.weight"),
        ([1, 2], "encoder.conv_in.weight"),
        ({"quantize.embed.weight": torch.zeros(3)}, "Gumbel"),
    ],
)
def test_what_is_no_vqgan_is_refused(stored: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(stored, path)
    with pytest.raises(UserError, match=said):
        load_tokenizer(path, 16, 3, given={})


def averages(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As latent-diffusion and IBQ keep them: beside the raw weights, with names without dots."""
    named = {f"model_ema.{name.replace('.', '')}": value for name, value in weights.items()}
    return {**weights, **named, "model_ema.decay": torch.tensor(0.99)}


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("wrap", [dict, lambda weights: {"state_dict": weights}])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: {**w, "quantize.scale": torch.ones(1)}, "quantize.scale is not part of it"),
        (lambda w: {**w, "logvar": torch.ones(1)}, "logvar is not part of it"),
        (lambda w: {**w, "encoder.patch.weight": torch.ones(1)}, "encoder.patch.weight is not"),
    ],
)
def test_a_file_with_an_entry_that_nothing_computes_is_refused(
    change, said, wrap, blocks, tmp_path
) -> None:
    weights = make_model(replace(CONFIG, num_res_blocks=blocks)).state_dict()
    torch.save(wrap(change(weights)), tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=said):
        load_tokenizer(tmp_path / "model.ckpt", 16, 3)


def test_averages_beside_the_weights_are_of_ibq_or_refused(tmp_path: Path) -> None:
    for blocks in (1, 4):
        stored = averages(make_model(replace(CONFIG, num_res_blocks=blocks)).state_dict())
        torch.save(stored, tmp_path / f"{blocks}.ckpt")
    said = r"averages of its weights \(model_ema.decay and so on\), as .* IBQ .* `tokenizer` ibq"
    with pytest.raises(UserError, match=said):
        load_tokenizer(tmp_path / "1.ckpt", 16, 3)
    assert load_tokenizer(tmp_path / "1.ckpt", 16, 3, family="ibq").config.family == "ibq"
    assert load_tokenizer(tmp_path / "4.ckpt", 16, 3).config.family == "ibq"


def test_four_blocks_without_averages_are_taken_for_taming_s_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(make_model(replace(CONFIG, num_res_blocks=4)).state_dict(), tmp_path / "model.ckpt")
    assert load_tokenizer(tmp_path / "model.ckpt", 16, 3).config.family == "vqgan"
    assert "give `tokenizer` ibq" in caplog.text
    assert load_tokenizer(tmp_path / "model.ckpt", 16, 3, family="ibq").config.family == "ibq"


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
    with pytest.raises(UserError, match=r"other\.npy names other codes than the 4"):
        load_tokenizer(path, 16, 3, {"remap": str(other)})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.array([0, 1, 99]), "code 99"),
        (np.array([1, 1]), "more than once"),
        (np.array([], dtype=int), "empty"),
        (np.array([0.5]), "whole numbers"),
        (np.array([[1, 2]]), "whole numbers"),
        (np.array([Harmful()]), "is not a complete .npy file"),
        (None, "No such file"),
    ],
)
def test_a_wrong_remap_file_is_named(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "used.npy"
    if content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=rf"used\.npy.*{said}"):
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


def test_label_channels_are_shown_in_color() -> None:
    plain = Tokenizer(make_model())
    assert torch.equal(plain.to_rgb(IMAGES), IMAGES)
    tokenizer = Tokenizer(make_model(replace(CONFIG, image_channels=5, colorize_nlabels=5)))
    shown = tokenizer.to_rgb(torch.randn(2, 5, 16, 16))
    assert shown.shape == (2, 3, 16, 16)
    assert (shown.min().item(), shown.max().item()) == pytest.approx((-1, 1))
