"""The predictor that decoding calls: guidance, and what it need not compute."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.decoding import Decoding, draw_noise, make_plan
from models.halton_order import halton_orders
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.predictors import (
    KnownTokens,
    guided_logits,
    guided_predictor,
    prepare_decoding,
)
from models.sampling import SamplingConfig
from models.schedules import GUIDANCE_SCHEDULES
from utils.errors import FieldError
from utils.weights import with_linear_weights_in

NUM_CLASSES, SEQ_LEN, STEPS = 3, 16, 4
CPU = torch.device("cpu")


@pytest.fixture
def model():
    torch.manual_seed(2)  # in old and new versions of torch, weights that draw many kinds of tokens
    config = TransformerConfig(12, NUM_CLASSES, SEQ_LEN, embed_dim=8, hidden_dim=16, depth=2)
    model = MaskedTransformer(config).eval()
    torch.nn.init.normal_(model.token_embedding.weight)  # predictions that differ between classes
    return model


def rows_of(model):
    """The number of rows of each call of the model from now on, in a list that grows."""
    rows = []
    model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


def decoded_plainly(model, labels, sampling, tokens, hidden):
    """Both halves of the guidance for every image at every step."""
    no_class = torch.full_like(labels, NUM_CLASSES)
    plan = make_plan(int(hidden[0].sum()), sampling)
    noise = draw_noise(0, np.arange(len(labels)), plan.num_steps, SEQ_LEN, CPU)

    @torch.no_grad()
    def logits_fn(tokens, step):
        return guided_logits(model(tokens, labels), model(tokens, no_class), plan.guidance[step])

    return Decoding(logits_fn, plan, noise, tokens, hidden).result()


def sample_tokens(*arguments, **more):
    return prepare_decoding(*arguments, **more).result()


@pytest.mark.parametrize("count", [2, 4, 9])
@pytest.mark.parametrize("schedule", GUIDANCE_SCHEDULES)
def test_what_is_not_computed_changes_nothing(model, count, schedule):
    sampling = SamplingConfig(num_steps=STEPS, guidance_schedule=schedule)
    labels = torch.arange(count) % (NUM_CLASSES + 1)
    hidden = torch.ones(count, SEQ_LEN, dtype=torch.bool)
    tokens = torch.full((count, SEQ_LEN), model.config.mask_token)
    plain = decoded_plainly(model, labels, sampling, tokens, hidden)
    assert sample_tokens(model, labels.numpy(), np.arange(count), sampling, 0).equal(plain)


def test_editing_computes_its_first_step_once_per_label_too(model):
    hidden = torch.arange(SEQ_LEN) % 3 == 0
    known = KnownTokens(torch.randint(0, 12, (SEQ_LEN,)), hidden)
    labels, sampling = torch.arange(8) % NUM_CLASSES, SamplingConfig(num_steps=STEPS)
    start = torch.where(hidden, model.config.mask_token, known.tokens).expand(8, -1)
    plain = decoded_plainly(model, labels, sampling, start, hidden.expand(8, -1))
    rows = rows_of(model)
    made = sample_tokens(model, labels.numpy(), np.arange(8), sampling, 0, known=known)
    assert made.equal(plain)
    assert rows == [NUM_CLASSES + 1, *[16] * (STEPS - 1)]


@pytest.mark.parametrize(
    ("count", "options", "rows"),
    [
        (9, {}, [NUM_CLASSES + 1, 18, 18, 18]),
        (9, {"guidance_schedule": "constant"}, [NUM_CLASSES + 1, 18, 18, 18]),
        (9, {"guidance": 0.0}, [NUM_CLASSES + 1, 9, 9, 9]),
        (9, {"guidance_schedule": "power-cosine"}, [NUM_CLASSES + 1, 18, 18, 18]),
        # 16, 15, 11 and 6 of 16 tokens are hidden before the steps.
        (9, {"guidance_schedule": "interval"}, [NUM_CLASSES + 1, 9, 18, 9]),
        (3, {"guidance_schedule": "interval"}, [3, 3, 6, 3]),
        (
            9,
            {"guidance_schedule": "interval", "guidance_interval": (0.9, 0.95)},
            [NUM_CLASSES + 1, 18, 9, 9],
        ),
        (3, {}, [3, 6, 6, 6]),  # more labels than images
        (9, {"start_token": -1}, [9, 18, 18, 18]),  # no two images start alike
        (9, {"start_token": 0}, [NUM_CLASSES + 1, 18, 18, 18]),
    ],
)
def test_what_a_step_computes(model, count, options, rows):
    found = rows_of(model)
    sampling = SamplingConfig(num_steps=STEPS, **options)
    sample_tokens(model, np.zeros(count, np.int64), np.arange(count), sampling, 0)
    assert found == rows


def test_an_image_does_not_depend_on_the_labels_of_the_others(model):
    sampling = SamplingConfig(num_steps=STEPS)
    indices = np.arange(9)
    one = sample_tokens(model, np.array([2] * 9), indices, sampling, 0)
    other = sample_tokens(model, np.array([0, 1, 2, 3, 0, 1, 2, 3, 2]), indices, sampling, 0)
    assert one[[2, 6, 8]].equal(other[[2, 6, 8]])
    assert not one[0].equal(other[0])


def test_linear_weights_kept_in_bfloat16_give_the_same_tokens(model):
    labels, indices, sampling = np.arange(3), np.arange(3), SamplingConfig(num_steps=STEPS)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    kept = with_linear_weights_in(torch.bfloat16, model)
    linear = [layer for layer in kept.modules() if isinstance(layer, torch.nn.Linear)]
    assert {layer.weight.dtype for layer in linear} == {torch.bfloat16}
    assert kept.position_embedding.dtype == torch.float32
    cast, cast_before = (
        sample_tokens(network, labels, indices, sampling, 0, torch.bfloat16)
        for network in (model, kept)
    )
    assert cast.equal(cast_before)
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())


def test_guidance_is_computed_in_float32(model):
    labels, tokens = torch.arange(4), torch.zeros(4, SEQ_LEN, dtype=torch.long)
    predict = guided_predictor(model, labels, np.array([2.0, 2.0]), torch.bfloat16, same_start=True)
    assert {predict(tokens, step).dtype for step in (0, 1)} == {torch.float32}


@pytest.mark.parametrize("roll", ["on", "off"])
@pytest.mark.parametrize("grid", [(2, 8), None])
def test_the_halton_sampler_gets_the_order_of_the_grid(model, grid, roll):
    sampling, indices = SamplingConfig(sampler="halton", halton_roll=roll), np.array([5, 3])
    start = prepare_decoding(model, np.zeros(2, np.int64), indices, sampling, 7, grid=grid)
    expected = halton_orders(7, indices, grid or (SEQ_LEN,), roll == "on")
    assert start.noise.order.tolist() == expected.tolist()


# --- What images begin with ---


@pytest.mark.parametrize("token", [None, 0, 5, -1])
def test_all_positions_begin_with_the_chosen_token_or_random_ones(model, token):
    sampling, labels = SamplingConfig(start_token=token), np.zeros(40, np.int64)
    tokens = prepare_decoding(model, labels, np.arange(40), sampling, 0).tokens
    chosen = range(12) if token == -1 else [12 if token is None else token]
    assert set(tokens.flatten().tolist()) == set(chosen)
    again = prepare_decoding(model, labels[:2], np.arange(7, 9), sampling, 0).tokens
    assert again.equal(tokens[7:9])


START = SamplingConfig(num_steps=1, guidance=0.0, start_share=0.25)


def test_a_share_of_the_positions_begins_with_a_token_and_all_are_hidden(model):
    labels = np.arange(6) % NUM_CLASSES
    start = prepare_decoding(model, labels, np.arange(6), START, 0)
    shown = start.tokens != model.config.mask_token
    assert shown.sum(1).tolist() == [SEQ_LEN // 4] * 6
    assert start.hidden.all()
    assert len({tuple(row) for row in shown.tolist()}) > 1  # at other positions in each image
    again = prepare_decoding(model, labels[2:4], np.arange(2, 4), START, 0)
    assert again.tokens.equal(start.tokens[2:4])
    for share in (0.3, 0.4):  # the nearest number of positions
        more = prepare_decoding(model, labels, np.arange(6), replace(START, start_share=share), 0)
        count = (more.tokens != model.config.mask_token).sum(1)
        assert (count - share * SEQ_LEN).abs().max() <= 0.5
    other = prepare_decoding(model, labels, np.arange(6), START, 1)
    assert not other.tokens.equal(start.tokens)


def test_the_tokens_to_begin_with_follow_the_prediction_of_an_empty_image(model):
    count = 3000
    labels = np.full(count, 1)
    start = prepare_decoding(model, labels, np.arange(count), replace(START, start_share=0.75), 0)
    empty = torch.full((1, SEQ_LEN), model.config.mask_token)
    with torch.no_grad():
        expected = model(empty, torch.tensor([1])).softmax(-1)[0]  # (L, K)
    often = torch.nn.functional.one_hot(start.tokens, 13)[..., :12].sum(0).float()
    found = often / often.sum(-1, keepdim=True)
    assert (found - expected).abs().max() < 0.05
    assert expected.max() > 0.2  # so that it is not the uniform one


def test_random_tokens_to_begin_with_do_not_depend_on_their_positions(model):
    count, sampling = 2000, replace(START, start_token=-1, start_share=0.5)
    labels = np.zeros(count, np.int64)
    tokens = prepare_decoding(model, labels, np.arange(count), sampling, 0).tokens
    shown = tokens != model.config.mask_token
    assert (shown.sum(1) == SEQ_LEN // 2).all()
    # The mean token at each position in the images with a token at each other position.
    sums = shown.T.float() @ torch.where(shown, tokens, 0).float()
    means = sums / (shown.T.float() @ shown.float())
    assert (means - 5.5).abs().max() < 0.9  # five standard deviations


@pytest.mark.parametrize(("count", "rows"), [(2, [2, 2]), (4, [4, 4]), (9, [4, 9])])
def test_the_empty_image_is_predicted_once_per_label(model, count, rows):
    found = rows_of(model)
    sample_tokens(model, np.zeros(count, np.int64), np.arange(count), START, 0)
    assert found == rows


def test_what_the_user_gave_stays_whatever_an_image_begins_with(model):
    hidden = torch.arange(SEQ_LEN) % 2 == 0
    known = KnownTokens(torch.full((SEQ_LEN,), 7), hidden)
    sampling = replace(START, start_share=1.0)
    labels, indices = np.zeros(5, np.int64), np.arange(5)
    start = prepare_decoding(model, labels, indices, sampling, 0, known=known)
    assert (start.tokens[:, ~hidden] == 7).all()
    assert (start.tokens[:, hidden] != model.config.mask_token).all()
    made = sample_tokens(model, labels, indices, sampling, 0, known=known)
    assert (made[:, ~hidden] == 7).all()


def test_a_family_without_a_null_class_has_its_own_labels_alone(model, monkeypatch):
    monkeypatch.setattr(TransformerConfig, "null_class", None)
    found = rows_of(model)
    sampling = SamplingConfig(num_steps=1, guidance=0.0)
    sample_tokens(model, np.zeros(9, np.int64), np.arange(9), sampling, 0)
    assert found == [3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"start_share": -0.1}, "start_share"),
        ({"start_share": 1.5}, "start_share"),
        ({"start_share": float("nan")}, "start_share"),
        ({"start_share": 0.5, "start_token": 3}, "start_token"),
    ],
)
def test_wrong_shares_are_refused(settings, said):
    with pytest.raises(FieldError, match=said):
        SamplingConfig(**settings).validate()
