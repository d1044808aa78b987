"""The training step of stage 2, against hand-written loops and by property."""

import itertools
import math

import numpy as np
import pytest
import torch
from tiny_stages import CLASSES, SHAPE, K, L, make_stage, token_set

from data.token_set import DeviceTokens, TokenSet, token_type, wrong_label
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.masking import hide
from models.open import new_transformer
from training import transformer_stage, validation
from training.config import TrainingConfig
from training.transformer_stage import MaskGITStage
from utils.errors import FieldError


def weights(stage):
    return {name: value.clone() for name, value in stage.model.state_dict().items()}


@pytest.mark.parametrize("bits", [16, 32])
def test_tokens_are_taken_by_view_and_index_whatever_their_size(bits):
    stored = np.arange(2**bits - 24, 2**bits, dtype=token_type(2**bits)).reshape(2, 4, 3)
    assert stored.itemsize == bits // 8
    tokens = DeviceTokens(TokenSet(stored, np.zeros(4, np.int64)), torch.device("cpu"))
    taken = tokens.take(np.array([3, 0, 3]), np.array([0, 1, 1]))
    assert taken.tolist() == stored[[0, 1, 1], [3, 0, 3]].tolist()
    assert tokens.take(np.array([2])).tolist() == [stored[0, 2].tolist()]


def test_hidden_tokens_are_replaced_and_are_the_targets():
    tokens = torch.arange(12).reshape(2, 6)
    masks = np.array([[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]], bool)
    batch = hide(tokens, np.array([0, 1]), masks, 99)
    assert batch.inputs.tolist() == [[99, 1, 2, 99, 4, 5], [6, 7, 8, 9, 10, 99]]
    assert batch.at.tolist() == [0, 3, 11]
    assert batch.targets.tolist() == [0, 3, 11]


def test_loss_is_the_mean_over_hidden_tokens_with_label_smoothing():
    stage = make_stage(label_smoothing=0.1)
    (batch,), num_hidden = list(stage.draw_batch(0)[0]), stage.draw_batch(0)[1]
    logits = stage.model.eval()(batch.inputs, batch.labels).double()
    expected = []
    for image in range(8):
        for position in range(L):
            if batch.inputs[image, position] != K:
                continue
            log_probs = logits[image, position].log_softmax(0)
            target = stage.train_tokens.source.tokens[0, stage._indices(0)][image, position].item()
            expected.append(-0.9 * log_probs[target] - 0.1 * log_probs.mean())
    loss = stage.train_step(0)["loss"].item()
    assert len(expected) == num_hidden
    assert loss == pytest.approx(sum(expected).item() / len(expected), abs=1e-5)


def gradients_of_a_step(stage):
    """Train one step and return the gradients that the optimizer saw, by name."""
    captured = {}

    def capture(*_):
        captured.update((n, p.grad.clone()) for n, p in stage.model.named_parameters())

    stage.optimizers["optimizer"].register_step_pre_hook(capture)
    stage.train_step(0)
    return captured


def test_gradient_accumulation_changes_nothing_but_memory():
    whole = gradients_of_a_step(make_stage())
    parts = gradients_of_a_step(make_stage(grad_accum=3))
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-6), name


def test_padded_rows_change_neither_the_loss_nor_a_gradient(monkeypatch):
    exact, more = make_stage(label_smoothing=0.1), make_stage(label_smoothing=0.1)
    (batch,), num_hidden = exact.draw_batch(0)
    assert len(batch.at) == num_hidden
    (in_bfloat16,), _ = make_stage(precision=torch.bfloat16).draw_batch(0)
    assert len(in_bfloat16.at) == transformer_stage.CPU_ROWS
    loss, gradients = exact._loss(batch), gradients_of_a_step(exact)
    monkeypatch.setattr(transformer_stage, "row_multiple", lambda *_: num_hidden + 7)
    (padded,), _ = more.draw_batch(0)
    assert len(padded.at) == num_hidden + 7
    torch.testing.assert_close(more._loss(padded), loss)
    torch.testing.assert_close(gradients_of_a_step(more), gradients)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own():
    stage = make_stage()
    epochs = [
        np.concatenate([stage._indices(5 * epoch + step) for step in range(5)]) for epoch in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_fewer_images_than_a_batch_make_one_step():
    stage = make_stage(train=token_set(count=5))
    assert stage.steps_per_epoch == 1
    assert len(stage._indices(0)) == 5


def test_every_view_is_trained_on():
    stage = make_stage(train=token_set(views=4))
    stage.train_tokens.source.tokens[:] = np.arange(4)[:, None, None]
    seen = set()
    for step in range(20):
        (batch,) = stage.draw_batch(step)[0]
        seen |= set(batch.targets.tolist())
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)])
def test_labels_are_dropped_at_the_given_rate(rate, share):
    stage = make_stage(label_drop=rate)
    labels = torch.cat([b.labels for step in range(60) for b in stage.draw_batch(step)[0]])
    assert (labels == CLASSES).double().mean().item() == pytest.approx(share, abs=0.1)


def test_the_mask_schedule_of_the_options_is_used():
    shares = {}
    for schedule in ("root", "arccos", "square"):
        stage = make_stage(schedule=schedule)
        shares[schedule] = np.mean([stage.draw_batch(step)[1] for step in range(40)])
    assert shares["root"] < shares["arccos"] < shares["square"]


def test_weight_decay_is_on_linear_weights_alone():
    stage = make_stage()
    decayed, others = stage.optimizers["optimizer"].param_groups
    names = {id(p): name for name, p in stage.model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        f"{layer}.weight"
        for layer in [
            "embedding_map", "first.2", "first.6", "last.2",
            *(f"blocks.{i}.{part}" for i in range(2)
              for part in ("attention.qkv", "attention.out", "mlp.0", "mlp.2")),
        ]
    }  # fmt: skip
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_optimizer_takes_rate_and_betas():
    optimizer = make_stage(lr=3e-4, betas=(0.5, 0.6)).optimizers["optimizer"]
    assert all(g["lr"] == 3e-4 and g["betas"] == (0.5, 0.6) for g in optimizer.param_groups)


def test_learning_rate_warms_up_and_decays():
    stage = make_stage(epochs=20, warmup_epochs=10, lr=1.0)  # capped: 2 epochs of 5 steps
    rates = [stage.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert np.argmax(rates) == 10
    assert rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001
    assert make_stage(warmup_epochs=0, lr=1.0).learning_rate(0) == 1.0


def test_a_trapezoid_holds_the_rate_for_half_of_the_steps_after_warm_up():
    stage = make_stage(epochs=22, warmup_epochs=2, lr=1.0, decay="trapezoid")
    rates = [stage.learning_rate(step) for step in range(110)]
    assert rates[10:61] == [1.0] * 51
    assert rates[61:] == pytest.approx([1 - part / 50 for part in range(1, 50)])


def test_clipping_bounds_the_gradient():
    def norm(stage):
        return torch.cat([g.flatten() for g in gradients_of_a_step(stage).values()]).norm().item()

    free = norm(make_stage(grad_clip=0))
    assert free > 0.01
    assert norm(make_stage(grad_clip=1e-3)) == pytest.approx(1e-3, rel=0.01)
    assert norm(make_stage(grad_clip=1e9)) == pytest.approx(free)


def test_averaged_weights_follow_the_formula():
    stage = make_stage(ema_decay=0.5)
    expected = weights(stage)
    for step in range(12):
        stage.train_step(step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in stage.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in stage.ema.module.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_a_non_finite_loss_leaves_weights_and_moments_alone():
    stage = make_stage()
    stage.train_step(0)
    before, moments = weights(stage), str(stage.optimizers["optimizer"].state_dict()["state"])
    with torch.no_grad():
        kept = stage.model.output_bias[0, 0].clone()
        stage.model.output_bias[0, 0] = math.nan
    loss = stage.train_step(1)["loss"]
    assert not loss.isfinite()
    with torch.no_grad():
        stage.model.output_bias[0, 0] = kept
    for name, value in stage.model.state_dict().items():
        assert value.equal(before[name]), name
    assert str(stage.optimizers["optimizer"].state_dict()["state"]) == moments


def test_a_gradient_that_is_not_finite_is_skipped_and_told():
    stage = make_stage()
    assert stage.train_step(0)["skipped"] == 0
    before = weights(stage)
    hook = stage.model.output_bias.register_hook(lambda gradient: gradient * math.inf)
    metrics = stage.train_step(1)
    hook.remove()
    assert metrics["loss"].isfinite()
    assert (metrics["skipped"], metrics["gradient_norm"]) == (1, 0)
    for name, value in stage.model.state_dict().items():
        assert value.equal(before[name]), name


def test_it_learns_and_validation_shows_it():
    stage = make_stage(epochs=12, ema_decay=0.9)
    before = stage.validate()
    for step in range(60):
        stage.train_step(step)
    after = stage.validate()
    # Labels and neighbors leave one bit per token: ln 2 is the floor, ln 16 the start.
    assert before["loss"] == pytest.approx(math.log(K), abs=0.1)
    assert after["loss"] < 0.4 * before["loss"]
    assert before["accuracy"] < 0.2
    assert after["accuracy"] > 0.4


def test_validation_takes_no_more_at_once_than_training():
    stage, rows = make_stage(batch_size=16, grad_accum=8), []
    for model in (stage.model, stage.ema.module):
        model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    stage.train_step(0)
    assert max(rows) == 2
    stage.validate()
    assert max(rows) == 2


@pytest.mark.parametrize(
    ("most", "images"), [(4096, [*range(40)]), (7, [0, 6, 13, 19, 26, 32, 39])], ids=["all", "some"]
)
def test_validation_counts_the_hidden_tokens_of_its_images(monkeypatch, most, images):
    monkeypatch.setattr(validation, "MOST_IMAGES", most)
    stage, seen = make_stage(), []
    stage.ema.module.register_forward_hook(lambda _, inputs, output: seen.append(inputs))
    found = stage.validate()
    inputs, labels = (torch.cat([call[i] for call in seen]) for i in (0, 1))
    hidden, tokens = inputs == K, stage.validation_tokens.take(np.array(images))
    assert labels.tolist() == stage.validation_tokens.source.labels[images].tolist()
    assert inputs[~hidden].equal(tokens[~hidden])
    with torch.no_grad():
        logits = stage.ema.module(inputs, labels).double()
    right, shares = (logits.argmax(-1) == tokens).double(), hidden.double().mean(1)
    assert shares.mean() > 0.6  # as in training
    assert len(hidden.unique(dim=0)) > len(images) / 2
    expected = {
        "loss": torch.nn.functional.cross_entropy(logits[hidden], tokens[hidden]).item(),
        "accuracy": right[hidden].mean().item(),
    }
    for low in (0, 25, 50, 75):
        rows = (100 * shares > low) & (100 * shares <= low + 25)
        if rows.any():
            expected[f"accuracy_{low}_{low + 25}"] = right[rows][hidden[rows]].mean().item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_validation_repeats_exactly():
    stage = make_stage()
    first = stage.validate()
    stage.train_step(0)
    assert make_stage(seed=7).validate().keys() == first.keys()
    assert stage.validate() != first
    other = make_stage(batch_size=16)  # equal weights, other batches: equal numbers
    assert other.validate() == pytest.approx(first, rel=1e-5)


def test_a_resumed_stage_continues_bit_for_bit():
    straight = make_stage(dropout=0.2)
    for step in range(6):
        straight.train_step(step)
    first = make_stage(dropout=0.2)
    for step in range(3):
        first.train_step(step)
    second = make_stage(dropout=0.2, seed=0)
    torch.rand(5)  # the global generator's state must not matter
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second.train_step(step)
    for name, value in straight.model.state_dict().items():
        assert value.equal(second.model.state_dict()[name]), name
    for name, value in straight.ema.module.state_dict().items():
        assert value.equal(second.ema.module.state_dict()[name]), name


def test_what_a_family_does_not_fit_to_more_classes_starts_again(monkeypatch):
    """Its weights are random then, with moments of 0; the others go on."""
    monkeypatch.delattr(MaskedTransformer, "carry")
    old, new = make_stage(), make_stage(classes="abcd", seed=1)
    old.train_step(0)
    random = weights(new)
    new.load_state_dict(old.state_dict())
    for (name, before), after in zip(
        old.model.named_parameters(), new.model.parameters(), strict=True
    ):
        fits = name not in ("token_embedding.weight", "output_bias")
        assert after.equal(before if fits else random[name])
        for moment in ("exp_avg", "exp_avg_sq"):
            kept = old.optimizers["optimizer"].state[before][moment]
            found = new.optimizers["optimizer"].state[after][moment]
            assert found.equal(kept if fits else torch.zeros_like(after))


def test_another_seed_is_another_run():
    a, b = make_stage(seed=0), make_stage(seed=1)
    assert not a.model.token_embedding.weight.equal(b.model.token_embedding.weight)
    assert a._indices(0).tolist() != b._indices(0).tolist()


def test_several_findings_are_drawn_in_turn_and_none_is_a_class_of_its_own():
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.uint8)
    tokens = TokenSet(np.zeros((1, 3, L), np.uint16), labels)
    generator = np.random.default_rng(0)
    drawn = np.stack([tokens.classes(np.arange(3), generator) for _ in range(200)])
    assert set(drawn[:, 0]) == {0, 2}
    assert 60 < (drawn[:, 0] == 0).sum() < 140
    assert set(drawn[:, 1]) == {3}
    assert set(drawn[:, 2]) == {1}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 2], None),
        ([0, 3], "the label 3, but the classes are 0 to 2"),
        ([-1, 0], "the label -1, but the classes are 0 to 2"),
        ([[0, 1], [1, 1]], None),
        ([[0, 1], [2, 1]], "2 marks for each image, among them 2, not 2 that are 0 or 1"),
        ([[0, 1, 1]], "3 marks for each image, not 2 that are 0 or 1"),
    ],
)
def test_a_label_outside_the_classes_is_named(labels, said):
    assert wrong_label(np.array(labels), CLASSES) == said


class Unguided(TransformerConfig):
    """A shape without a null class."""

    null_class = None


def test_without_a_null_class_no_label_is_dropped(monkeypatch):
    def build(**training):
        return MaskGITStage(
            Unguided(K, CLASSES, L, **SHAPE), TrainingConfig(batch_size=8, **training),
            token_set(), token_set(seed=1), device=torch.device("cpu"), precision=torch.float32,
            checkpoint_entries={}, preview=print,
        )  # fmt: skip

    with pytest.raises(FieldError, match=r"`label_drop` 0\.1: this transformer has no null class"):
        build()
    shape = TransformerConfig(K, CLASSES, L, **SHAPE)
    monkeypatch.setattr(transformer_stage, "new_transformer", lambda config: new_transformer(shape))
    stage = build(label_drop=0)
    labels = torch.cat([b.labels for step in range(20) for b in stage.draw_batch(step)[0]])
    assert labels.max() < CLASSES


def test_a_checkpoint_names_its_family():
    assert make_stage().checkpoint(3)["family"] == "maskgit"


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_deterministic_backward_pass_raises_rather_than_warns(monkeypatch, deterministic):
    """Fused attention on CUDA is deterministic only then."""
    backward, seen = torch.Tensor.backward, []

    def watched(loss):
        seen.append(torch.get_deterministic_debug_mode())
        backward(loss)

    monkeypatch.setattr(torch.Tensor, "backward", watched)
    stage = make_stage()
    warn, raise_error, off = 1, 2, 0
    torch.set_deterministic_debug_mode(warn if deterministic else off)
    try:
        stage.train_step(0)
        assert set(seen) == {raise_error if deterministic else off}
        assert torch.get_deterministic_debug_mode() == (warn if deterministic else off)
    finally:
        torch.set_deterministic_debug_mode(off)
