"""The working copy of a network computes what autocast computes, with the same bits."""

import pytest
import torch
from tiny_stages import CLASSES, SHAPE, K, L, make_stage

from models.maskgit.config import TransformerConfig
from models.open import new_transformer
from training.config import OPTIMIZERS
from training.working_copy import WorkingCopy
from utils.device import autocast
from utils.processes import ALONE

CPU = torch.device("cpu")


def backward_pass(network, inputs):
    with autocast(CPU, torch.bfloat16):
        logits = network(inputs, torch.arange(len(inputs)) % CLASSES)
    logits.float().square().sum().backward()
    return logits


def test_predictions_and_gradients_of_several_parts_are_those_of_autocast():
    torch.manual_seed(0)
    plain, original = (
        new_transformer(TransformerConfig(K, CLASSES, L, dropout=0, **SHAPE)) for _ in range(2)
    )
    copy = WorkingCopy(original, torch.bfloat16, ALONE)
    original.load_state_dict(plain.state_dict())
    copy.renew()
    for _ in range(3):
        inputs = torch.randint(0, K + 1, (4, L))
        expected, found = (backward_pass(network, inputs) for network in (plain, copy.network))
        copy.hand_over_gradients()
        assert found.equal(expected)
    for theirs, mine in zip(plain.parameters(), original.parameters(), strict=True):
        assert mine.grad.dtype == torch.float32
        assert mine.grad.equal(theirs.grad)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_with_it_ends_in_the_weights_of_one_without(optimizer):
    with_copy, without = (
        make_stage(dropout=0.1, precision=torch.bfloat16, grad_accum=2, optimizer=optimizer)
        for _ in range(2)
    )
    without._copy = WorkingCopy(without.model, torch.float32, ALONE)
    without._forward = without._shared = without.model
    for step in range(5):
        for stage in (with_copy, without):
            stage.train_step(step)
    started = make_stage().model.state_dict()
    for name, value in with_copy.state_dict()["model"].items():
        assert value.dtype == torch.float32
        assert value.equal(without.model.state_dict()[name]), name
        assert not value.equal(started[name]), name
