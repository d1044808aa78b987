"""DINOv2 against a twin of its formulas, on a small network with the same entries."""

import math

import numpy as np
import pytest
import torch
from dinov2_weights import DEPTH, WIDTH, weights
from PIL import Image
from torch.nn import functional as F

from metrics import dinov2
from metrics.dinov2 import RESIZES, load_dinov2
from utils.errors import UserError

CPU = torch.device("cpu")


def twin(w, x):
    """The network as its paper and its file describe it, in float64: (B, 3, 224, 224) -> (B, D)."""
    w = {name: value.double() for name, value in w.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    patches = x.double().unfold(2, 14, 14).unfold(3, 14, 14)  # (B, 3, 16, 16, 14, 14)
    kernel = w["patch_embed.proj.weight"]
    tokens = torch.einsum("bchwij,dcij->bhwd", patches, kernel) + w["patch_embed.proj.bias"]
    tokens = torch.cat([w["cls_token"].expand(len(x), 1, WIDTH), tokens.flatten(1, 2)], 1)
    side = math.isqrt(w["pos_embed"].shape[1] - 1)
    grid = w["pos_embed"][:, 1:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2).float()
    if side != 16:
        grid = F.interpolate(grid, scale_factor=(16 + 0.1) / side, mode="bicubic")
    grid = grid.double().permute(0, 2, 3, 1).reshape(1, 256, WIDTH)
    x = tokens + torch.cat([w["pos_embed"][:, :1], grid], 1)
    for block in range(DEPTH):
        at = f"blocks.{block}"
        q, k, v = (
            part.unflatten(-1, (-1, 64)).transpose(1, 2)
            for part in linear(norm(x, f"{at}.norm1"), f"{at}.attn.qkv").chunk(3, -1)
        )
        seen = (q @ k.transpose(2, 3) / 8).softmax(-1) @ v
        x = x + w[f"{at}.ls1.gamma"] * linear(seen.transpose(1, 2).flatten(2), f"{at}.attn.proj")
        inner = linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = x + w[f"{at}.ls2.gamma"] * linear(inner, f"{at}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def prepared(images, kind):
    if kind == "dinov2":
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        x = F.interpolate(x, size=(224, 224), mode="bicubic", antialias=True)
        assert x.max() > 255  # not clipped
    else:
        pages = [Image.fromarray(image).resize((224, 224), Image.BICUBIC) for image in images]
        x = torch.from_numpy(np.stack([np.asarray(page) for page in pages])).permute(0, 3, 1, 2)
    mean, spread = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return (x / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(spread).view(3, 1, 1)


@pytest.mark.parametrize("positions", [37 * 37, 256])
@pytest.mark.parametrize("kind", RESIZES)
def test_features_are_those_of_the_formulas(tmp_path, kind, positions):
    stored = weights(positions)
    torch.save(stored, tmp_path / "dinov2.pth")
    extractor = load_dinov2(kind, tmp_path / "dinov2.pth", CPU)
    images = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (2, 32, 40, 3))
    found = extractor(images).features
    expected = twin(stored, prepared(images, kind))
    assert found.shape == (2, WIDTH)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    gray = extractor(images[..., :1]).features
    assert gray.equal(extractor(images[..., :1].repeat(3, 3)).features)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"register_tokens": torch.zeros(1, 4, WIDTH)}, "it also holds register_tokens"),
        ({"norm.bias": None}, "'norm.bias'"),
        ({"norm.bias": torch.zeros(3)}, "size mismatch"),
        ({"pos_embed": torch.zeros(1, 30, WIDTH)}, "shape"),
    ],
)
def test_other_weights_are_refused_in_one_line(tmp_path, change, reason):
    stored = {name: value for name, value in (weights(256) | change).items() if value is not None}
    torch.save(stored, tmp_path / "other.pth")
    with pytest.raises(UserError) as error:
        load_dinov2("dinov2", tmp_path / "other.pth", CPU)
    assert "other.pth is not dinov2_vitl14_pretrain.pth (1.2 GB, https" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_something_else(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth is not dinov2_vitl14_pretrain\.pth"):
        load_dinov2("dinov2", tmp_path / "list.pth", CPU)


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"\(no network\): fetch dinov2_vitl14_pretrain\.pth"):
        load_dinov2("dinov2", None, CPU)
    torch.save(weights(256), dinov2.Path(tmp_path) / "checkpoints" / dinov2.FILE)
    assert load_dinov2("dinov2", None, CPU).distance == "fd_dinov2"
