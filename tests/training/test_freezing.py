"""Frozen parameters stay as they are, in every kind of training of stage 1."""

import pytest
import torch
from tiny_stages import make_vqgan_stage

from training.optimizer import freeze
from utils.errors import FieldError

DECODER_ALONE = ("encoder.*", "quantize.*", "quant_conv.*")


@pytest.mark.parametrize(
    "training", [{}, {"grad_accum": 2}, {"optimizer": "muon"}, {"disc_weight": 0.0}]
)
@pytest.mark.parametrize("patterns", [DECODER_ALONE, ("decoder.up.*",), ("quantize.*",)])
def test_a_frozen_part_stays_while_the_rest_learns(training, patterns):
    """Every code counts as dead at every second step: a frozen codebook is not revived."""
    stage = make_vqgan_stage(freeze=patterns, revive_below=1e9, **training)
    before = {name: weight.clone() for name, weight in stage.model.state_dict().items()}
    for step in range(4):  # the last two with the discriminator
        metrics = stage.train_step(step)
        assert metrics["skipped"] == 0
    starts = tuple(pattern.rstrip("*") for pattern in patterns)
    for part in (stage.model, stage.ema.module):
        for name, weight in part.state_dict().items():
            if name.startswith(starts):
                assert torch.equal(weight, before[name]), name
    changed = {n for n, weight in stage.model.state_dict().items() if not weight.equal(before[n])}
    assert {name.split(".")[0] for name in changed} >= {"decoder", "post_quant_conv"}
    trained = [p for group in stage.optimizers["optimizer"].param_groups for p in group["params"]]
    assert all(parameter.requires_grad for parameter in trained)


def test_the_discriminator_needs_the_last_layer():
    with pytest.raises(FieldError, match=r"`disc_weight` 0.8: .*decoder.conv_out"):
        make_vqgan_stage(freeze=("decoder.*",))
    make_vqgan_stage(freeze=("decoder.*",), disc_weight=0.0)


def test_patterns_that_match_nothing_or_all():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    with pytest.raises(FieldError, match=r"`freeze` 2.\*: no parameter .* some are 0.weight, 0"):
        freeze(network, ("0.*", "2.*"), "freeze")
    with pytest.raises(FieldError, match=r"`freeze` \*: leaves nothing to train"):
        freeze(network, ("*",), "freeze")
    freeze(network.requires_grad_(), (), "freeze")
    assert all(parameter.requires_grad for parameter in network.parameters())
