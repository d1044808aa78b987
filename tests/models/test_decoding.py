import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from models.decoding import (
    Decoding,
    draw_noise,
    make_plan,
    reveal_counts,
)
from models.halton_order import halton_order, halton_orders
from models.predictors import guided_logits
from models.samplers import SAMPLERS, Noise, draw_tokens, propose_by_moment
from models.sampling import SamplingConfig
from models.schedules import CUMULATIVE_SCHEDULES, GUIDANCE_SCHEDULES, MASK_SCHEDULES
from utils.errors import FieldError

CPU = torch.device("cpu")
K = 7


@pytest.mark.parametrize(
    ("schedule", "num_hidden", "counts"),
    [
        # Figures of valeoai/Maskgit-pytorch v1.0 (increments) and google-research/maskgit.
        ("arccos", 256, [1, 18, 26, 32, 38, 43, 48, 50]),
        ("arccos", 64, [1, 5, 6, 8, 9, 11, 12, 12]),
        ("cosine", 256, [1, 12, 22, 32, 41, 47, 51, 50]),
        ("linear", 256, [1, 9, 18, 27, 37, 46, 55, 63]),
        ("cosine-cumulative", 256, [5, 15, 24, 31, 39, 45, 48, 49]),
        ("cosine-cumulative", 64, [2, 3, 6, 8, 10, 11, 12, 12]),
        ("arccos-cumulative", 256, [21, 21, 21, 23, 25, 28, 35, 82]),
        ("arccos-halton", 256, [20, 21, 21, 23, 25, 28, 35, 83]),
    ],
)
def test_plans_equal_the_published_ones(schedule, num_hidden, counts):
    assert reveal_counts(num_hidden, 8, schedule).tolist() == counts


@pytest.mark.parametrize("side", [8, 16, 24])
@pytest.mark.parametrize("num_steps", [8, 16, 32])
def test_the_halton_plan_is_that_of_its_authors(side, num_steps):
    """After step i of valeoai/Halton-MaskGIT, max(i + 1, int((1 - gamma) * N)) are revealed."""
    progress = torch.linspace(1, num_steps, num_steps) / num_steps  # theirs is float32
    shares = 1 - torch.arccos(progress) / (math.pi / 2)
    revealed = [max(i + 1, int(share * side**2)) for i, share in enumerate(shares)]
    revealed[-1] = side**2
    assert (
        reveal_counts(side**2, num_steps, "arccos-halton").tolist()
        == np.diff([0, *revealed]).tolist()
    )


@pytest.mark.parametrize("power", [1, 2], ids=["linear", "square"])
@pytest.mark.parametrize("num_hidden", [16, 36, 64, 81, 121, 225, 256, 1024])
def test_shares_are_rounded_half_to_even_in_exact_fractions(num_hidden, power):
    for num_steps in range(2, min(40, num_hidden) + 1):
        shares = [1 - (1 - Fraction(t, num_steps - 1)) ** power for t in range(num_steps)]
        exact = [max(1, round(share / sum(shares) * num_hidden)) for share in shares[:-1]]
        if sum(exact) < num_hidden:  # otherwise some tokens are given back
            found = reveal_counts(num_hidden, num_steps, ("linear", "square")[power - 1])
            assert found.tolist() == [*exact, num_hidden - sum(exact)]


def test_the_two_cumulative_plans_differ_in_what_they_round():
    assert reveal_counts(64, 4, "arccos-halton").tolist() == [10, 11, 13, 30]
    assert reveal_counts(64, 4, "arccos-cumulative").tolist() == [11, 11, 13, 29]


@pytest.mark.parametrize("schedule", [*MASK_SCHEDULES, *CUMULATIVE_SCHEDULES])
def test_every_plan_reveals_everything_and_at_least_one_per_step(schedule):
    for num_hidden in (1, 2, 7, 16, 64, 100):
        for num_steps in range(1, min(num_hidden, 40) + 1):
            counts = reveal_counts(num_hidden, num_steps, schedule)
            assert len(counts) == num_steps
            assert counts.sum() == num_hidden
            assert counts.min() >= 1


@pytest.mark.parametrize("steps", [2, 5])
def test_ramps_start_and_end_where_they_should(steps):
    plan = make_plan(64, SamplingConfig(num_steps=steps, guidance=3, choice_temperature=4))
    assert plan.guidance.tolist() == np.linspace(0, 3, steps).tolist()
    assert plan.temperatures.tolist() == np.linspace(4, 0, steps).tolist()


def test_one_step_reveals_all_at_full_guidance_and_without_noise():
    plan = make_plan(64, SamplingConfig(num_steps=1, guidance=3))
    assert plan.counts.tolist() == [64]
    assert plan.guidance.tolist() == [3]
    assert plan.temperatures.tolist() == [0]


@pytest.mark.parametrize("schedule", [*MASK_SCHEDULES, *CUMULATIVE_SCHEDULES])
@pytest.mark.parametrize("num_hidden", [0, 1, 3])
def test_steps_are_capped_at_the_hidden_tokens(schedule, num_hidden):
    plan = make_plan(num_hidden, SamplingConfig(num_steps=50, schedule=schedule))
    assert plan.num_steps == num_hidden
    assert plan.counts.tolist() == [1] * num_hidden


def random_case(seed, batch=5, length=12, num_hidden=8, num_steps=4, **sampling):
    """A predictor that depends on the tokens, with noise and a partly hidden start."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(K + 1, length, K, generator=generator) * 2
    hidden = torch.rand(batch, length, generator=generator).argsort(1) < num_hidden
    known = torch.randint(0, K, (batch, length), generator=generator)
    tokens = torch.where(hidden, K, known)

    def logits_fn(tokens, step):
        seen = torch.nn.functional.one_hot(tokens, K + 1).float()  # (B, L, K+1)
        mixed = seen.mean(1) @ table.flatten(1)
        return mixed.view(batch, length, K) * (1 + step)

    plan = make_plan(num_hidden, SamplingConfig(num_steps=num_steps, **sampling))
    noise = draw_noise(seed, np.arange(batch), plan.num_steps, length, CPU)
    if SAMPLERS[plan.sampler].uses_order:
        order = np.random.default_rng(seed).permuted(np.tile(np.arange(length), (batch, 1)), axis=1)
        noise = noise._replace(order=torch.from_numpy(order.astype(np.float32)))
    return logits_fn, plan, noise, tokens, hidden


def slow_draw(weights, uniform):
    running = 0.0
    for token, weight in enumerate(weights):  # noqa: B007, the loop variable is the result
        running += weight
        if uniform * sum(weights) < running:
            break
    return token


def slow_proposal(sampler, weights, uniform, gumbel, place, temperature):
    """Token and score of one position, as the samplers are explained in words."""
    if sampler == "halton":
        return slow_draw(weights, uniform), -place
    if sampler == "random":
        return slow_draw(weights, uniform), gumbel
    if sampler == "moment" and temperature == 0:
        return slow_draw(weights, uniform), max(weights) / sum(weights)
    if sampler == "moment":
        power = 1 + 1 / temperature
        powered = [(weight / sum(weights)) ** power for weight in weights]
        return slow_draw(powered, uniform), math.log(sum(powered)) + gumbel
    if sampler == "annealed" and temperature == 0:
        return max(range(len(weights)), key=weights.__getitem__), math.log(max(weights))
    if sampler == "annealed":
        token = slow_draw([weight ** (1 / temperature) for weight in weights], uniform)
        return token, math.log(weights[token]) + temperature * gumbel
    token = slow_draw(weights, uniform)
    return token, math.log(weights[token] / sum(weights)) + temperature * gumbel


def slow_decode(logits_fn, plan, noise, tokens, hidden):
    """The algorithm as one would explain it: one image, one position, one token at a time."""
    tokens, hidden = tokens.clone(), hidden.clone()
    for step in range(plan.num_steps):
        logits = logits_fn(tokens, step).double() * plan.logit_scales[step]
        for b in range(len(tokens)):
            candidates = []
            for position in range(tokens.shape[1]):
                if not hidden[b, position]:
                    continue
                token, score = slow_proposal(
                    plan.sampler,
                    [math.exp(value) for value in logits[b, position].tolist()],
                    noise.uniform[step, b, position].item(),
                    noise.gumbel[step, b, position].item(),
                    None if noise.order is None else noise.order[b, position].item(),
                    plan.temperatures[step],
                )
                candidates.append((-score, position, token))
            for _, position, token in sorted(candidates)[: plan.counts[step]]:
                tokens[b, position] = token
                hidden[b, position] = False
    return tokens


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "sampling",
    [{}, {"choice_temperature": 0.0}, {"logit_scale": 2.5}]
    + [{"sampler": sampler} for sampler in SAMPLERS if sampler != "confidence"]
    + [{"sampler": sampler, "choice_temperature": 0.0} for sampler in ("moment", "annealed")],
    ids=str,
)
def test_decoding_equals_the_slow_reference(seed, sampling):
    case = random_case(seed, **sampling)
    assert Decoding(*case).result().equal(slow_decode(*case))


def test_the_moment_sampler_chooses_and_draws_as_its_law_says():
    """One of two positions at temperature 1: weight sum p^2, token from p^2 (Hayakawa et al.)."""
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]])
    count = 20_000
    noise = draw_noise(0, np.arange(count), 1, 2, CPU)
    log_probs = probabilities.log().expand(count, 2, 3)
    tokens, score = propose_by_moment(log_probs, Noise(noise.uniform[0], noise.gumbel[0]), 1.0)
    squares = probabilities.square()
    first = (score[:, 0] > score[:, 1]).float().mean().item()
    assert first == pytest.approx((squares[0].sum() / squares.sum()).item(), abs=0.02)
    shares = torch.bincount(tokens[:, 0], minlength=3) / count
    assert shares.tolist() == pytest.approx((squares[0] / squares[0].sum()).tolist(), abs=0.01)


@pytest.mark.parametrize(
    "grid", [(2, 2), (7, 7), (8, 8), (16, 16), (32, 32), (8, 16), (9, 4), (12,)]
)
def test_the_halton_order_visits_every_cell_once_and_spreads(grid):
    order = halton_order(grid)
    assert sorted(order.tolist()) == list(range(math.prod(grid)))
    if min(grid) >= 8 and len(grid) == 2:  # the first quarter lies evenly in the four quadrants
        quarter = order.reshape(grid) < len(order) // 4
        for rows in np.array_split(quarter, 2):
            for quadrant in np.array_split(rows, 2, axis=1):
                assert abs(quadrant.mean() - 0.25) < 0.1


def mirrored(number, base):
    """The digits of a number behind the point, as an exact fraction."""
    result, scale = Fraction(0), Fraction(1, base)
    while number:
        number, digit = divmod(number, base)
        result += digit * scale
        scale /= base
    return result


@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (8, 8), (9, 9), (18, 18), (9, 4), (6, 27), (12,)])
def test_the_halton_order_is_that_of_exact_fractions_with_base_2_down(grid):
    visited = {}
    for number in range(1, 64 * math.prod(grid) + 1):
        if len(visited) == math.prod(grid):
            break
        point = [mirrored(number, base) for base in (2, 3)[: len(grid)]]
        cell = tuple(int(side * value) for side, value in zip(grid, point, strict=True))
        visited.setdefault(cell, len(visited))
    order = halton_order(grid).reshape(grid)
    assert all(order[cell] == place for cell, place in visited.items())


def test_the_halton_order_is_rolled_per_image():
    orders = halton_orders(0, np.arange(50), (4, 4))
    starts = {int(row.argmin()) for row in orders}
    assert len(starts) > 8
    assert all(sorted(row.tolist()) == list(range(16)) for row in orders)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_that_do_not_look_at_confidence_have_no_temperature(sampler):
    temperatures = make_plan(64, SamplingConfig(sampler=sampler)).temperatures
    assert temperatures.any() == (sampler not in ("halton", "random"))


def test_constant_guidance_is_the_same_at_every_step():
    plan = make_plan(64, SamplingConfig(num_steps=3, guidance=2, guidance_schedule="constant"))
    assert plan.guidance.tolist() == [2, 2, 2]


def test_power_cosine_guidance_is_its_formula():
    for power in (3.0, 2.5):
        sampling = SamplingConfig(
            num_steps=5, guidance=2, guidance_schedule="power-cosine", guidance_power=power
        )
        expected = [2 * (1 - math.cos(math.pi * (step / 5) ** power)) / 2 for step in range(5)]
        found = make_plan(64, sampling).guidance.tolist()
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("interval", [(0.39, 0.78), (0.2, 0.7), (1.0, 1.0), (0.0, 0.1)])
@pytest.mark.parametrize("num_hidden", [64, 40, 5])
def test_guidance_is_on_where_the_hidden_share_is_inside_the_interval(num_hidden, interval):
    sampling = SamplingConfig(
        num_steps=8, guidance=3, guidance_schedule="interval", guidance_interval=interval
    )
    plan = make_plan(num_hidden, sampling)
    left = num_hidden
    for step in range(plan.num_steps):
        share = left / num_hidden
        assert plan.guidance[step] == (3 if interval[0] <= share <= interval[1] else 0)
        left -= plan.counts[step]


def test_the_default_interval_guides_the_steps_of_the_table():
    # 64 tokens in 8 steps: 64, 63, 58, 52, 44, 35, 24 and 12 are hidden, of which 44 and 35 are
    # between 39 and 78 per cent.
    plan = make_plan(64, SamplingConfig(guidance=3, guidance_schedule="interval"))
    assert plan.guidance.tolist() == [0, 0, 0, 0, 3, 3, 0, 0]


def test_a_plan_without_hidden_tokens_has_no_steps_under_any_guidance():
    for schedule in GUIDANCE_SCHEDULES:
        plan = make_plan(0, SamplingConfig(guidance_schedule=schedule))
        assert plan.guidance.tolist() == []


@pytest.mark.parametrize(
    "interval", [(0.8, 0.2), (0.1,), (0.1, 0.2, 0.3), (-0.1, 0.5), (0.5, 1.5), (math.nan, 1.0), 0.5]
)
def test_a_wrong_interval_is_named(interval):
    with pytest.raises(FieldError, match=r"^`guidance_interval` .*: must be two shares"):
        SamplingConfig(guidance_interval=interval).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guidance", "3"),
        ("guidance", [3]),
        ("num_steps", "8"),
        ("start_token", "1"),
        ("sampler", ["halton"]),
        ("guidance_interval", ("0.1", "0.2")),
        ("guidance_interval", "0.39,0.78"),
    ],
)
def test_a_value_of_a_wrong_type_does_not_look_like_a_right_one(field, value):
    with pytest.raises(FieldError, match=rf"{field}` {re.escape(repr(value))}: "):
        SamplingConfig(**{field: value}).validate()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_exact_counts_and_known_tokens_at_every_step(sampler):
    logits_fn, plan, noise, tokens, hidden = random_case(1, num_steps=5, sampler=sampler)
    seen = []

    def spy(tokens, step):
        seen.append(tokens.clone())
        return logits_fn(tokens, step)

    result = Decoding(spy, plan, noise, tokens, hidden).result()
    for step, (before, after) in enumerate(zip(seen, [*seen[1:], result], strict=True)):
        newly = (before == K) & (after != K)
        assert newly.sum(1).tolist() == [plan.counts[step]] * len(tokens)
        assert after[before != K].equal(before[before != K])
    assert result[~hidden].equal(tokens[~hidden])
    assert (result < K).all()


def test_ties_do_not_reveal_more_than_planned():
    length = 16
    plan = make_plan(length, SamplingConfig(num_steps=4, choice_temperature=0))
    noise = draw_noise(0, np.array([0]), 4, length, CPU)
    hidden_before = []

    def uniform_logits(tokens, step):
        hidden_before.append(int((tokens == K).sum()))
        return torch.zeros(1, length, K)

    start = torch.full((1, length), K)
    Decoding(uniform_logits, plan, noise, start, start == K).result()
    assert hidden_before == (length - np.cumsum([0, *plan.counts[:-1]])).tolist()


def test_a_predictor_that_knows_the_answer_is_decoded_exactly():
    answer = torch.randint(0, K, (3, 20), generator=torch.Generator().manual_seed(0))
    sure = torch.nn.functional.one_hot(answer, K).float() * 100
    plan = make_plan(20, SamplingConfig(num_steps=6))
    noise = draw_noise(0, np.arange(3), 6, 20, CPU)
    start = torch.full_like(answer, K)
    result = Decoding(lambda tokens, step: sure, plan, noise, start, start == K).result()
    assert result.equal(answer)


def test_nothing_hidden_is_nothing_done():
    tokens = torch.zeros(2, 4, dtype=torch.long)
    plan = make_plan(0, SamplingConfig())
    noise = draw_noise(0, np.arange(2), 0, 4, CPU)

    def never(tokens, step):
        raise AssertionError("nothing to predict")

    assert Decoding(never, plan, noise, tokens, tokens > 0).result().equal(tokens)


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    uniform = (torch.arange(10_000) + 0.5)[None] / 10_000
    tokens = draw_tokens(logits.log_softmax(0).expand(1, 10_000, 4), uniform)
    shares = torch.bincount(tokens[0], minlength=4) / 10_000
    assert shares.tolist() == pytest.approx(logits.softmax(0).tolist(), abs=2e-4)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
@pytest.mark.parametrize("least", [0.0, 1e-30])
def test_no_draw_takes_a_token_that_is_impossible_or_all_but(uniform, least):
    probabilities = torch.tensor([least, 0.3, 0.7, least])
    token = draw_tokens(probabilities.log().view(1, 1, 4), torch.tensor([[uniform]]))
    assert token.item() == (2 if uniform else 0 if least else 1)


def test_a_prediction_that_is_not_finite_gives_tokens_of_the_codebook():
    assert draw_tokens(torch.full((1, 2, K), math.nan), torch.ones(1, 2)).max() < K


@pytest.mark.parametrize("sampler", ["moment", "annealed"])
def test_at_a_low_temperature_the_likeliest_token_is_drawn(sampler):
    """Powers of the probabilities are far outside the range of float32."""
    logits = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).view(1, 1, -1) / 10
    seen = logits if SAMPLERS[sampler].sees_logits else logits.log_softmax(-1)
    proposal = SAMPLERS[sampler].propose(seen, Noise(torch.ones(1, 1), torch.zeros(1, 1)), 0.005)
    assert proposal.tokens.equal(logits.argmax(-1))


def test_noise_belongs_to_the_image_and_the_step():
    whole = draw_noise(3, np.arange(6), 4, 9, CPU)
    part = draw_noise(3, np.array([4, 2]), 2, 9, CPU)
    assert whole.uniform.dtype == whole.gumbel.dtype == torch.float32  # MPS has no float64
    assert part.uniform.equal(whole.uniform[:2, [4, 2]])
    assert part.gumbel.equal(whole.gumbel[:2, [4, 2]])
    assert not draw_noise(4, np.arange(6), 4, 9, CPU).uniform.equal(whole.uniform)


def test_noise_has_its_distribution():
    noise = draw_noise(0, np.arange(400), 5, 50, CPU)
    assert noise.uniform.mean().item() == pytest.approx(0.5, abs=0.005)
    assert noise.gumbel.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.gumbel.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)
    both = torch.stack([noise.uniform.flatten(), noise.gumbel.flatten()])
    assert both.corrcoef()[0, 1].abs().item() < 0.01


def test_guidance_zero_is_the_conditional_prediction():
    conditional, unconditional = torch.randn(2, 3, 4, K)
    extrapolated = conditional + 2 * (conditional - unconditional)
    for guidance, expected in ((0.0, conditional.clone()), (2.0, extrapolated)):
        found = guided_logits(conditional.clone(), unconditional.clone(), guidance)
        assert torch.allclose(found, expected, atol=1e-5 * guidance, rtol=0)


def test_a_step_says_what_was_predicted_proposed_and_revealed():
    in_float32, plan, noise, tokens, hidden = random_case(4, logit_scale=2.0)

    def logits_fn(tokens, step):
        logits = in_float32(tokens, step).bfloat16()  # as a network returns them under autocast
        return logits.requires_grad_()  # as the weights of a student do

    for number, step in enumerate(Decoding(logits_fn, plan, noise, tokens, hidden).steps()):
        predicted = (logits_fn(tokens, number).float() * 2).log_softmax(-1)
        assert step.log_probs.equal(predicted)
        assert not step.log_probs.requires_grad  # no memory for gradients is kept
        revealed = hidden & ~step.hidden
        assert step.tokens.equal(torch.where(revealed, step.proposal.tokens, tokens))
        lowest = step.proposal.score.masked_fill(~revealed, math.inf).amin(1)
        highest = step.proposal.score.masked_fill(~step.hidden, -math.inf).amax(1)
        assert (lowest >= highest).all()
        tokens, hidden = step.tokens, step.hidden
    assert not hidden.any()
