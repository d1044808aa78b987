from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor

from models.perceptual import PerceptualLoss, load_vgg_weights
from utils.errors import UserError


@pytest.fixture(scope="module")
def vgg() -> dict[str, Tensor]:
    """Random weights of VGG16's convolutions under torchvision's names."""
    with torch.device("meta"):
        shapes = torchvision.models.vgg16().features.state_dict()
    random = torch.Generator().manual_seed(0)
    return {
        f"features.{name}": 0.05 * torch.randn(value.shape, generator=random)
        for name, value in shapes.items()
    }


@pytest.fixture(scope="module")
def loss(vgg: dict[str, Tensor]) -> PerceptualLoss:
    return PerceptualLoss(vgg)


def test_the_linear_weights_are_the_published_ones(loss: PerceptualLoss) -> None:
    """Fitted weights are never negative; random ones are, half of the time."""
    linear = [value for name, value in loss.state_dict().items() if ".lin" in name]
    assert linear
    assert all(value.min() >= 0 for value in linear)


def test_gray_is_judged_as_color(loss: PerceptualLoss) -> None:
    gray, other = torch.rand(2, 2, 1, 16, 16) * 2 - 1
    color, other_color = (x.expand(-1, 3, -1, -1) for x in (gray, other))
    assert loss(gray, gray) == 0
    assert loss(gray, other) > 0
    torch.testing.assert_close(loss(gray, other), loss(color, other_color))


def test_it_is_fixed_and_lets_gradients_through(loss: PerceptualLoss) -> None:
    loss.train()
    assert not any(module.training for module in loss.distance.modules())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    images = torch.zeros(1, 1, 16, 16, requires_grad=True)
    loss(images, torch.ones(1, 1, 16, 16)).backward()
    assert images.grad is not None
    assert images.grad.any()


def test_weights_come_from_a_local_file(vgg: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "vgg.pt"
    some = {name: value for name, value in vgg.items() if name.startswith("features.0.")}
    torch.save(some, path)
    assert load_vgg_weights(path).keys() == some.keys()
    with pytest.raises(UserError, match=r"features\.2\.weight.*`perceptual_weight` 0"):
        PerceptualLoss(load_vgg_weights(path))
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        load_vgg_weights(tmp_path / "nowhere.pt")


def test_no_network_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", fail)
    with pytest.raises(UserError, match=r"no route to host.*`perceptual_weight` 0") as caught:
        load_vgg_weights(None)
    assert "\n" not in str(caught.value)
