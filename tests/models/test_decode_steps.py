"""`Model.decode_steps`: what the steps tell, and going on from the middle of a decoding."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from models.open import load_model
from models.predictors import KnownTokens, prepare_decoding
from models.samplers import SAMPLERS
from models.sampling import SamplingConfig
from utils.errors import UserError


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained / "MaskGIT_mnist.pt", precision="fp32")


def known_half(model):
    hidden = torch.arange(64) < 32
    return KnownTokens(torch.full((64,), 5), hidden)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("edits", [False, True], ids=["all new", "edit"])
def test_the_steps_end_in_the_tokens_of_sampling(model, sampler, edits):
    known = known_half(model) if edits else None
    settings = {"num_steps": 5, "sampler": sampler}
    *_, last = model.decode_steps([3, 4], seed=7, first_image=2, known=known, **settings)
    wanted = prepare_decoding(
        model.transformer,
        np.array([3, 4]),
        np.array([2, 3]),
        SamplingConfig(**settings),
        seed=7,
        known=known,
        grid=(8, 8),
    ).result()
    assert (last.tokens.reshape(2, 64) == wanted.numpy()).all()


def test_the_confidence_is_the_probability_of_the_token_that_was_revealed(model):
    known = known_half(model)
    settings = {"num_steps": 4, "logit_scale": 1.5}
    steps = list(model.decode_steps([3, 4], seed=7, known=known, **settings))
    start = prepare_decoding(
        model.transformer,
        np.array([3, 4]),
        np.arange(2),
        SamplingConfig(**settings),
        seed=7,
        known=known,
    )
    # Before the first step: 1 for what was given, nothing yet for the rest.
    assert (steps[0].confidence == ~steps[0].hidden).all()
    for number, (before, after) in enumerate(pairwise(steps)):
        tokens = torch.from_numpy(before.tokens).flatten(1)
        probabilities = (start.logits_fn(tokens, number) * 1.5).softmax(-1)
        chosen = probabilities.gather(-1, torch.from_numpy(after.tokens).flatten(1)[..., None] % 16)
        revealed = (before.hidden & ~after.hidden).reshape(2, 64)
        found = after.confidence.reshape(2, 64)
        assert np.allclose(found[revealed], chosen.squeeze(-1).numpy()[revealed], rtol=1e-5)
        # Where a token is still hidden, the step tells what it drew and what is likeliest.
        for imagined in (after.proposed, after.surest):
            assert (imagined[~after.hidden] == after.tokens[~after.hidden]).all()
        hidden = after.hidden.reshape(2, 64)
        drawn, surest = (
            probabilities.gather(-1, torch.from_numpy(of).flatten(1)[..., None]).squeeze(-1)
            for of in (after.proposed, after.surest)
        )
        assert np.allclose(found[hidden], drawn.numpy()[hidden], rtol=1e-5)
        assert np.allclose(
            surest.numpy()[hidden], probabilities.amax(-1).numpy()[hidden], rtol=1e-5
        )
        # What was known keeps its own.
        assert (after.confidence[~before.hidden] == before.confidence[~before.hidden]).all()
        assert ((after.confidence > 0) & (after.confidence <= 1)).all()


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("start", [None, 3, -1, "an edit"])
def test_a_decoding_goes_on_from_any_of_its_steps(model, sampler, start):
    edit = known_half(model) if start == "an edit" else None
    settings = {"num_steps": 5, "sampler": sampler, "start_token": None if edit else start}
    steps = list(model.decode_steps([3], seed=7, known=edit, **settings))
    for number, step in enumerate(steps):
        tokens, hidden = (torch.from_numpy(a).flatten() for a in (step.tokens, step.hidden))
        # What stands at hidden positions is ignored.
        known = KnownTokens(tokens.masked_fill(hidden, 0), hidden, number, 32 if edit else None)
        again = list(model.decode_steps([3], seed=7, known=known, **settings))
        assert len(again) == len(steps) - number
        for one, other in zip(again, steps[number:], strict=True):
            assert (one.tokens == other.tokens).all()
            assert (one.hidden == other.hidden).all()


def test_a_point_that_the_plan_does_not_come_to_is_refused(model):
    tokens, hidden = torch.zeros(64).long(), torch.ones(64, dtype=torch.bool)
    with pytest.raises(UserError, match="hidden tokens after 2 steps: 64, but"):
        next(model.decode_steps([3], known=KnownTokens(tokens, hidden, 2, planned=64)))
    for steps, shown in ((8, "8 steps"), (1, "1 step")):
        known = KnownTokens(tokens, ~hidden, steps + 1, planned=64)
        with pytest.raises(UserError, match=f"the decoding has {shown}, so none after {steps + 1}"):
            next(model.decode_steps([3], num_steps=steps, known=known))
