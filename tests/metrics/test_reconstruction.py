"""The meter of reconstructions, with a tokenizer whose errors are known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics.reconstruction import ReconstructionMeter

LUMA, RED_GREEN, BLUE_YELLOW = (1 / 3, 1 / 3, 1 / 3), (1, -1, 0), (-0.5, -0.5, 1)


def fading(factor: float, channels: int = 3) -> Any:
    """A tokenizer that mixes every image with noise; its tokens are the images themselves."""

    def decode(images: Tensor) -> Tensor:
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) - 0.5
        return images + factor * noise

    return SimpleNamespace(
        device=torch.device("cpu"),
        codebook_size=4,
        channels=channels,
        encode=lambda images: images,
        decode=decode,
    )


@pytest.fixture
def count_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrics.reconstruction.count_codes", lambda tokens, size: torch.ones(size))


@pytest.mark.usefixtures("count_codes")
def test_color_correlations_are_those_of_numpy():
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    meter = ReconstructionMeter(fading(0.7))
    batches = [(part, torch.zeros(len(part))) for part in images.split(3)]
    made = torch.cat([batch.reconstructions for batch in meter.reconstruct(iter(batches))])
    result = meter.result()
    for name, weights in (("luma", LUMA), ("red_green", RED_GREEN), ("blue_yellow", BLUE_YELLOW)):
        one, other = (
            np.tensordot(x.numpy().astype(float), weights, (1, 0)).ravel() for x in (images, made)
        )
        expected = np.corrcoef(one, other)[0, 1]
        assert 0.3 < expected < 0.95
        assert result[f"{name}_correlation"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.filterwarnings("ignore:The variance of predictions or target")
@pytest.mark.usefixtures("count_codes")
@pytest.mark.parametrize(("channels", "found"), [(1, []), (3, ["luma_correlation"])])
def test_gray_images_have_no_color_correlations(channels, found):
    meter = ReconstructionMeter(fading(0.1, channels))
    images = torch.rand(2, 1, 16, 16).repeat(1, channels, 1, 1)
    list(meter.reconstruct(iter([(images, torch.zeros(2))])))
    assert [name for name in meter.result() if "correlation" in name] == found


@pytest.mark.usefixtures("count_codes")
def test_similarity_is_that_of_brightness_which_is_never_negative():
    brighter = fading(0, channels=1)
    brighter.decode = lambda images: images + 0.8
    meter = ReconstructionMeter(brighter)
    list(meter.reconstruct(iter([(torch.full((2, 1, 16, 16), -0.6), torch.zeros(2))])))
    before, after = 0.2, 0.6  # of images of one brightness, (2 a b + C) / (a^2 + b^2 + C) is left
    expected = (2 * before * after + 1e-4) / (before**2 + after**2 + 1e-4)
    assert meter.result()["ssim"] == pytest.approx(expected, abs=1e-4)
