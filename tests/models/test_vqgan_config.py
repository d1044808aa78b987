from typing import Any

import pytest

from models.vqgan.config import VQGANConfig
from training.config import VQGANTrainingConfig


def test_the_defaults_fit_together() -> None:
    config = VQGANConfig()
    config.validate()
    VQGANTrainingConfig().validate_for(config)
    assert (config.factor, config.grid, config.resolutions) == (4, (8, 8), (32, 16, 8))
    assert config.widths == (64, 128, 128)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"channels": 48}, "`channels` 48"),
        ({"ch_mult": (1, 0)}, "`ch_mult` 1 0"),
        ({"ch_mult": ()}, "ch_mult"),
        ({"image_size": 30}, "`image_size` 30.* 28 or 32"),
        ({"image_size": 3}, "`image_size` 3.* 4"),
        ({"ch_mult": (1, 1, 1, 1, 1, 1, 1)}, "multiple of 64"),
        ({"n_embed": 0}, "n_embed` 0"),
        ({"n_embed": 2**32 + 1}, "`n_embed` 4294967297.*4294967296"),
        ({"image_size": (16, 30)}, "`image_size` 16x30.* 28 or 32"),
        ({"ch_mult": (1, 2), "image_size": 31}, "2 resolutions .* halve it 1 time, so"),
        ({"ch_mult": (1,), "num_res_blocks": 10**6}, "with 1 resolution$"),
        ({"num_res_blocks": 0}, "num_res_blocks` 0"),
        ({"dropout": 1.0}, r"`VQGANConfig\.dropout` 1\.0"),
        ({"colorize_nlabels": 10}, "`colorize_nlabels` 10.* 1 channel"),
        ({"remap": ()}, "empty"),
        ({"remap": (1, 2, 128)}, "code 128"),
        ({"remap": (1, 2, 1)}, "code 1 occurs more than once"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VQGANConfig(**changes).validate()


def test_a_large_codebook_may_be_used_in_part() -> None:
    config = VQGANConfig(n_embed=70000, remap=(0, 69999))
    config.validate()
    assert config.codebook_size == 2


def test_attention_that_never_occurs_is_found() -> None:
    assert VQGANConfig(attn_resolutions=(16, 12)).unused_attn_resolutions() == (12,)
    assert VQGANConfig(image_size=128).unused_attn_resolutions() == (16,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"disc_layers": 4}, "at least 48 pixels, not 32"),
        ({"disc_layers": 0}, "0 strided layers"),
    ],
)
def test_training_that_cannot_work_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VQGANTrainingConfig(**changes).validate_for(VQGANConfig())


def test_the_perceptual_loss_needs_gray_or_color() -> None:
    with pytest.raises(ValueError, match="not 2 channels"):
        VQGANTrainingConfig().validate_for(VQGANConfig(image_channels=2))
