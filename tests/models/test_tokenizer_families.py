"""Tokenizers of other programs make the tokens and images that they make there.

The values in golden/FAMILY.npz come from the programs named in PROGRAMS. Their networks were filled
with the weights that `fill` makes and given the images that `pictures` makes.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from golden_values import fill, fill_vit, pictures, read_golden
from safetensors.torch import save_file
from torch import Tensor

from models.open import load_tokenizer
from models.tokenizer import Tokenizer
from utils.checkpoint import save_checkpoint
from utils.errors import UserError

PROGRAMS = {  # of a family: repository, commit, class
    "llamagen": ("FoundationVision/LlamaGen", "ce98ec4", "tokenizer_image.vq_model.VQModel"),
    "maskgit_vqgan": (
        "bytedance/1d-tokenizer", "942a96f", "modeling.modules.maskgit_vqgan.{Encoder,Decoder}",
        "markweberdev/maskbit", "5ea3d73", "modeling.conv_vqgan.ConvVQModel",
        "LTH14/mage", "1becb14", "taming.models.vqgan.VQModel",
        "google-research/maskgit: tests/models/test_google.py",
    ),
    "maskbit": ("markweberdev/maskbit", "5ea3d73", "modeling.conv_vqgan.ConvVQModel"),
    "ibq": (
        "TencentARC/SEED-Voken", "b9a17ea",
        "src.IBQ.modules.{diffusionmodules.model,vqvae.quantize,ema}, as in models.ibqgan.IBQ",
    ),
    "amused": (
        "huggingface/diffusers", "0.42.1", "VQModel",
        "huggingface/open-muse", "64e1afe", "muse.VQGANModel",
    ),
    "titok": (
        "bytedance/1d-tokenizer", "942a96f",
        "modeling.titok.TiTok, with smaller numbers for those in its code (layers, widths, codes)",
    ),
}  # fmt: skip
CASES = [
    *(("llamagen", case) for case in ("f4", "f2")),
    *(("maskgit_vqgan", case) for case in ("titok", "titok f2", "plus", "plus f2", "legacy")),
    *(("maskgit_vqgan", case) for case in ("mage", "mage f2")),
    *(("maskbit", case) for case in ("6 bits", "10 bits f2")),
    *(("ibq", case) for case in ("f4", "f2")),
    *(("amused", case) for case in ("diffusers", "diffusers f2", "open-muse")),
    *(("titok", case) for case in ("f4", "f2")),
]
FILLED = {"titok": fill_vit}  # other weights than those of `fill`


class Golden(NamedTuple):
    """A network of another program: its weights, and its results for images."""

    family: str
    weights: dict[str, Tensor]
    tokens: Tensor
    images: Tensor

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    def load(self, stored: Any, folder: Path, **more: Any) -> Tokenizer:
        torch.save(stored, folder / "model.pt")
        return load_tokenizer(folder / "model.pt", self.size, 3, **more)


def golden(family: str, case: str) -> Golden:
    filled = FILLED.get(family, fill)
    weights, tokens, images = read_golden(family, case, "tokens", "images", fill=filled)
    return Golden(family, weights, tokens.long(), images)


@pytest.fixture(params=CASES, ids="-".join)
def recorded(request: pytest.FixtureRequest) -> Golden:
    return golden(*request.param)


@pytest.fixture(params=PROGRAMS)
def small(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param, next(case for family, case in CASES if family == request.param))


def test_tokens_and_images_are_the_original_s(recorded: Golden, tmp_path: Path) -> None:
    tokenizer = recorded.load(recorded.weights, tmp_path)
    assert tokenizer.config.family == recorded.family
    tokens = tokenizer.encode(pictures(recorded.size))
    assert len(tokens.unique()) > 4
    assert torch.equal(tokens, recorded.tokens)
    with torch.no_grad():
        images = tokenizer.network.decode_tokens(tokens)
    largest = recorded.images.abs().max().item()  # up to 10, because the weights are random
    torch.testing.assert_close(images, recorded.images, atol=1e-5 * largest, rtol=0)


def test_it_is_kept_as_it_is(small: Golden, tmp_path: Path) -> None:
    tokenizer = small.load({"state_dict": small.weights, "epoch": 3}, tmp_path)
    save_checkpoint(tmp_path / "own.pt", "vqgan", {"tokenizer": tokenizer.entry()})
    again = load_tokenizer(tmp_path / "own.pt", small.size, 3)
    assert (again.config, again.fingerprint) == (tokenizer.config, tokenizer.fingerprint)
    assert again.config.family == small.family
    assert torch.equal(again.encode(pictures(small.size)), small.tokens)


def test_a_folder_as_on_the_hub_opens(small: Golden, tmp_path: Path) -> None:
    save_file(small.weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "VQ-16"}')
    tokenizer = load_tokenizer(tmp_path, small.size, 3)
    assert tokenizer.config.family == small.family
    assert tokenizer.encode(pictures(small.size)).equal(small.tokens)


def test_an_entry_more_or_less_is_refused(small: Golden, tmp_path: Path) -> None:
    for name in ("quantize.scale", "encoder.patch.weight", "logvar"):
        with pytest.raises(UserError, match=f"{name} is not part of it"):
            small.load({**small.weights, name: torch.ones(1)}, tmp_path)
    for name in ("decoder.conv_out.bias", "encoder.conv_out.bias"):
        fewer = {k: v for k, v in small.weights.items() if not has_name(k, name)}
        with pytest.raises(UserError, match=f"{name} is missing"):
            small.load(fewer, tmp_path)
    codes = ("quantize.embedding.weight", "quantize.codebook")
    less = {key: value for key, value in small.weights.items() if key not in codes}
    with pytest.raises(UserError, match=r"model\.pt"):
        small.load(less, tmp_path)


def has_name(key: str, name: str) -> bool:
    """Whether a weight, or its average, has this name."""
    return key.replace(".", "").endswith(name.replace(".", ""))


def test_the_family_can_be_named(small: Golden, tmp_path: Path) -> None:
    tokenizer = small.load(small.weights, tmp_path, family=small.family)
    assert tokenizer.config.family == small.family
    for family in PROGRAMS.keys() - {small.family}:
        with pytest.raises(
            UserError, match=rf"`tokenizer` {family}: .*model\.pt holds no|do not make"
        ):
            small.load(small.weights, tmp_path, family=family)
    with pytest.raises(UserError, match="unknown tokenizer family 'other'"):
        small.load(small.weights, tmp_path, family="other")


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("quantize.", "another kind: it has no quantize.embedding.weight"),  # a VAE
        ("pixel_decoder.", "another kind: it has no pixel_decoder.conv_in.weight"),  # bl64, sl256
    ],
)
def test_later_kinds_of_titok_are_refused(removed: str, said: str, tmp_path: Path) -> None:
    titok = golden("titok", "f4")
    left = {name: v for name, v in titok.weights.items() if not name.startswith(removed)}
    with pytest.raises(UserError, match=said):
        titok.load(left, tmp_path)


def test_titok_has_the_size_of_its_file_and_no_cells(tmp_path: Path) -> None:
    titok = golden("titok", "f4")
    torch.save(titok.weights, tmp_path / "titok.bin")
    tokenizer = load_tokenizer(tmp_path / "titok.bin", image_size=64)
    assert (tokenizer.image_size, tokenizer.grid) == ((32, 32), (12,))
    with pytest.raises(UserError, match=r"image_size` 64 64 contradicts .*says 32;"):
        load_tokenizer(tmp_path / "titok.bin", given={"image_size": (64, 64)})
    np.save(tmp_path / "used.npy", titok.tokens.unique())
    remap = {"remap": tmp_path / "used.npy"}
    few = load_tokenizer(tmp_path / "titok.bin", given=remap)
    assert few.codebook_size == len(titok.tokens.unique())
    assert few.decode(few.encode(pictures(32))).equal(tokenizer.decode(titok.tokens))


def test_mage_s_is_also_opened_inside_its_model(tmp_path: Path) -> None:
    mage = golden("maskgit_vqgan", "mage f2")
    inside = {f"vqgan.{name}": value for name, value in mage.weights.items()}
    beside = {"token_emb.word_embeddings.weight": torch.ones(3, 2), "mask_token": torch.ones(2)}
    tokenizer = mage.load({"model": inside | beside, "epoch": 1599}, tmp_path)
    assert tokenizer.encode(pictures(12)).equal(mage.tokens)
