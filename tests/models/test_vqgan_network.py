"""The networks compute what taming-transformers' compute.

The values in golden/vqgan.npz come from CompVis/taming-transformers at commit 3ba01b2, whose
VQModel was filled with the weights that `fill` makes and given the images that `pictures` makes.
With double_z its quant_conv is widened first: it is built for z_channels inputs there, which does
not run. With remap its images are those of its tokens.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_values import fill, uniform

from models.open import load_tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel

GOLDEN = Path(__file__).parents[1] / "golden" / "vqgan.npz"
REMAP = (31, 2, 3, 5, 7, 0, 13, 19, 23, 28, 1, 6, 8, 9, 12, 14, 16, 18, 21, 22, 24, 25, 26, 27)
SMALL: dict[str, Any] = {"image_size": 16, "channels": 32, "num_res_blocks": 1, "n_embed": 32}
CASES = {
    "plain": VQGANConfig(**SMALL, ch_mult=(1, 2), attn_resolutions=(), z_channels=32, embed_dim=32),
    "attention": VQGANConfig(
        **SMALL | {"num_res_blocks": 2, "image_channels": 3},
        ch_mult=(1, 1, 2),
        attn_resolutions=(8,),
        z_channels=16,
        embed_dim=16,
    ),
    "double_z": VQGANConfig(
        **SMALL, ch_mult=(2, 1), attn_resolutions=(16,), z_channels=8, embed_dim=8, double_z=True
    ),
    "narrow_codes": VQGANConfig(
        **SMALL, ch_mult=(1, 2), attn_resolutions=(), z_channels=16, embed_dim=4
    ),
    "remap": VQGANConfig(
        **SMALL, ch_mult=(1, 1), attn_resolutions=(8,), z_channels=16, embed_dim=4, remap=REMAP
    ),
}

Case = tuple[VQGANConfig, dict[str, np.ndarray]]


def pictures(config: VQGANConfig) -> np.ndarray:
    """Three noisy gradients, float32 (3, C, H, W) in [-1, 1]."""
    shape = (3, config.image_channels, *config.image_size)
    ramp = np.linspace(-0.5, 0.5, config.image_size[0])
    return (0.5 * uniform("pictures", shape) + ramp).astype(np.float32)


def filled_weights(config: VQGANConfig) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(fill(name, tuple(value.shape)))
        if value.is_floating_point()
        else value
        for name, value in VQModel(config).state_dict().items()
    }


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    golden = np.load(GOLDEN)
    recorded = {part: golden[f"{request.param}/{part}"] for part in ("names", "tokens", "images")}
    return CASES[request.param], recorded


def test_names_are_taming_s(case: Case) -> None:
    config, recorded = case
    assert sorted(VQModel(config).state_dict()) == recorded["names"].tolist()


def test_tokens_and_images_are_taming_s(case: Case, tmp_path: Path) -> None:
    """A bare state dict, with no option but the image size, loads and computes the same."""
    config, recorded = case
    torch.save(filled_weights(config), tmp_path / "model.pt")
    path = tmp_path / "model.pt"
    tokenizer = load_tokenizer(path, config.image_size, config.image_channels, given={})
    tokens = tokenizer.encode(torch.from_numpy(pictures(config)))
    assert tokenizer.codebook_size == config.codebook_size
    assert len(tokens.unique()) > 4
    np.testing.assert_array_equal(tokens.numpy(), recorded["tokens"])
    model = VQModel(config)
    model.load_state_dict(filled_weights(config))
    with torch.no_grad():
        images = model.decode_tokens(tokens).numpy()
    np.testing.assert_allclose(images, recorded["images"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        tokenizer.decode(tokens).numpy(), recorded["images"].clip(-1, 1), atol=1e-5, rtol=0
    )
