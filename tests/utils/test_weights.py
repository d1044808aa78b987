"""What a file may make of modules, optimizers and configurations."""

import copy
import resource

import pytest
import torch
from torch import nn

from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from utils.checkpoint import build_with_weights
from utils.plain import from_plain, to_plain
from utils.weights import load_moments, load_weights

SMALL = TransformerConfig(8, 3, 16, embed_dim=4, hidden_dim=8, heads=2, depth=1, mlp_dim=8)
WRONG_WEIGHTS = {
    "dtype": lambda weights: {**weights, "bias": weights["bias"].double()},
    "shape": lambda weights: {**weights, "bias": weights["bias"][None]},
    "not a number": lambda weights: {**weights, "bias": torch.tensor([0, torch.nan])},
    "missing": lambda weights: {"weight": weights["weight"]},
    "extra": lambda weights: {**weights, "more": torch.zeros(())},
    "no tensor": lambda weights: {**weights, "bias": [0.0, 0.0]},
    "no weights": lambda weights: list(weights.values()),
}


@pytest.mark.parametrize("wrong", WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_weights_that_are_not_its_own_leave_a_module_as_it_was(wrong):
    module = nn.Linear(3, 2)
    before = copy.deepcopy(module.state_dict())
    found = wrong(nn.Linear(3, 2).state_dict())
    with pytest.raises(ValueError, match=r"bias|more|list"):
        load_weights(module, found)
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    with pytest.raises(ValueError, match=r"bias|more|list"):
        build_with_weights(lambda: nn.Linear(3, 2), found)


def test_built_modules_compute_as_the_original():
    original = MaskedTransformer(SMALL).eval()
    built = build_with_weights(lambda: MaskedTransformer(SMALL), original.state_dict())
    assert not any(module.training for module in built.modules())
    tokens, labels = torch.randint(9, (2, 16)), torch.tensor([0, 3])
    assert built(tokens, labels).equal(original(tokens, labels))


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (MaskedTransformer, TransformerConfig(8, 3, 16, hidden_dim=8 << 40)),
        (MaskedTransformer, TransformerConfig(8 << 50, 3, 16)),
        (MaskedTransformer, TransformerConfig(1 << 21, 3, 16, embed_dim=64)),  # half a gigabyte
        (VQModel, VQGANConfig(n_embed=1 << 50)),
        (VQModel, VQGANConfig(channels=32 << 30)),
    ],
)
def test_a_configuration_that_asks_for_too_much_takes_no_memory(build, config):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r".") as refused:
        build_with_weights(lambda: build(config), {})
    assert "\n" not in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def trained_optimizer(lr=0.1):
    module = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


def test_moments_are_taken_and_settings_are_not():
    state = trained_optimizer(lr=0.5).state_dict()
    optimizer = trained_optimizer(lr=0.1)
    load_moments(optimizer, state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    for number, entries in optimizer.state_dict()["state"].items():
        assert all(value.equal(state["state"][number][name]) for name, value in entries.items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop(1),
        lambda state: state.update({7: state[0]}),
        lambda state: state[0].pop("exp_avg"),
        lambda state: state[1].update(exp_avg_sq=torch.full((2,), torch.inf)),
        lambda state: state[1].update(step=3),
    ],
    ids=["missing", "extra", "no moment", "infinite", "no tensor"],
)
def test_moments_of_other_weights_are_refused(spoil):
    state = trained_optimizer().state_dict()
    spoil(state["state"])
    with pytest.raises(ValueError, match=r"moments|exp_avg|step"):
        load_moments(trained_optimizer(), state)


@pytest.mark.parametrize(
    "config", [SMALL, VQGANConfig(remap=(1, 5)), VQGANConfig(colorize_nlabels=1)]
)
def test_configurations_survive_as_plain_data(config):
    assert from_plain(type(config), to_plain(config)) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 64.0},
        {"channels": "64"},
        {"double_z": 1},
        {"n_embed": True},
        {"ch_mult": (1, 2.0)},
        {"ch_mult": 1},
        {"remap": [None]},
        {"colorize_nlabels": torch.tensor(3)},
        {"unknown": 1},
    ],
    ids=str,
)
def test_plain_data_of_another_kind_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        from_plain(VQGANConfig, {**to_plain(VQGANConfig()), **changes})


def test_plain_data_must_be_complete():
    values = to_plain(SMALL)
    del values["heads"]  # a default would make other logits of the same weights
    with pytest.raises(ValueError, match="heads is missing"):
        from_plain(TransformerConfig, values)
    with pytest.raises(ValueError, match="list"):
        from_plain(TransformerConfig, [values])
