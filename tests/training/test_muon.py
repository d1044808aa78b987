"""Muon against oracles: singular values by the scalar polynomial, steps by torch's own."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from conftest import TRAIN_TINY, stopped_at
from tiny_stages import make_stage, make_vqgan_stage
from torch import nn

from training import muon
from training.config import TrainingConfig
from training.muon import ITERATIONS, QUINTIC, Muon, orthogonalize
from training.optimizer import count_moments, linear_weights, make_optimizers
from training.run_folder import RunFolder
from training.run_record import read_config
from training.transformer_stage import MaskGITStage
from utils.checkpoint import load_checkpoint
from utils.errors import FieldError
from utils.records import write_record

LR, DECAY = 0.03, 0.2
SHAPES = {"square": (8, 8), "high": (24, 8), "wide": (8, 24), "other": (24, 8), "lone": (5, 9)}


def polynomial(values: np.ndarray) -> np.ndarray:
    """What the iterations make of singular values."""
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    return values


@pytest.fixture
def weights() -> dict[str, nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=random)) for name, shape in SHAPES.items()
    }


def give_gradients(weights: dict[str, nn.Parameter], step: int) -> None:
    random = torch.Generator().manual_seed(100 + step)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=random)


def after_steps(
    weights: dict[str, nn.Parameter], optimizers, count: int = 4
) -> dict[str, torch.Tensor]:
    for step in range(count):
        give_gradients(weights, step)
        for optimizer in optimizers:
            optimizer.step()
    return {name: weight.detach().clone() for name, weight in weights.items()}


def make_muon(weights, joined: int = 1) -> Muon:
    return Muon(dict.fromkeys(weights, joined), LR, DECAY)


def moments(optimizer: Muon) -> list[torch.Tensor]:
    return [entries["momentum"].clone() for entries in optimizer.state.values()]


# --- Orthogonal directions ---


@pytest.mark.parametrize("shape", [(3, 16, 16), (4, 6, 20), (1, 1, 5)], ids=str)
def test_singular_vectors_stay_and_values_follow_the_polynomial(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = orthogonalize(matrices, torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    shares = values / values.norm(dim=1, keepdim=True)
    made = torch.from_numpy(polynomial(shares.numpy()))
    torch.testing.assert_close(found, left @ torch.diag_embed(made) @ right)


@pytest.mark.parametrize(
    ("precision", "slack"), [(torch.float32, 0.001), (torch.bfloat16, 0.05)], ids=str
)
def test_singular_values_come_into_the_published_band(precision, slack):
    random = torch.Generator().manual_seed(2)
    left = torch.linalg.qr(torch.randn(32, 32, generator=random))[0]
    right = torch.linalg.qr(torch.randn(64, 32, generator=random))[0].T
    values = torch.logspace(-1.9, 0, 32) / torch.logspace(-1.9, 0, 32).norm()
    assert values.min() > 0.004
    matrix = left @ values.diag() @ right
    made = torch.linalg.svdvals(orthogonalize(1e3 * matrix[None], precision)[0])
    assert 0.68 - slack < made.min()
    assert made.max() < 1.14 + slack


def test_no_gradient_gives_no_direction():
    assert orthogonalize(torch.zeros(2, 3, 4)).equal(torch.zeros(2, 3, 4))


# --- Steps ---


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9")
def test_steps_are_those_of_torch(weights, monkeypatch):
    """Its products are bfloat16 always, so ours are here too."""
    theirs = copy.deepcopy(weights)
    of_torch = torch.optim.Muon(
        theirs.values(), LR, DECAY, momentum=muon.MOMENTUM, ns_coefficients=QUINTIC,
        ns_steps=ITERATIONS, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    ours = Muon(dict.fromkeys(weights.values(), 1), LR, DECAY, torch.bfloat16)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    expected, found = after_steps(theirs, [of_torch]), after_steps(weights, [ours])
    for name, value in expected.items():
        moved = (value - start[name]).norm()
        assert (found[name] - value).norm() < 0.02 * moved, name
        assert moved > LR


@pytest.mark.parametrize(("most", "batches"), [(2**22, 3), (2 * 8 * 24, 4), (1, 5)])
def test_matrices_of_one_shape_together_are_as_one_by_one(weights, monkeypatch, most, batches):
    alone, sizes = copy.deepcopy(weights), []
    expected = after_steps(alone, [make_muon([weight]) for weight in alone.values()])

    def counted(matrices, precision):
        sizes.append(len(matrices))
        return orthogonalize(matrices, precision)

    monkeypatch.setattr(muon, "MOST_AT_ONCE", most)
    monkeypatch.setattr(muon, "orthogonalize", counted)
    found = after_steps(weights, [make_muon(weights.values())], count=4)
    assert len(sizes) == 4 * batches
    assert sum(sizes) == 4 * len(SHAPES)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_joined_matrices_are_orthogonalized_one_by_one(weights):
    weights = {"high": weights["high"]}
    parts = {
        str(i): nn.Parameter(p.clone()) for i, p in enumerate(weights["high"].detach().chunk(3))
    }
    whole, separate = make_muon(weights.values(), joined=3), make_muon(parts.values())
    other = copy.deepcopy(weights)
    as_one = make_muon(other.values())
    for step in range(3):
        give_gradients(weights, step)
        other["high"].grad = weights["high"].grad.clone()
        for part, gradient in zip(parts.values(), weights["high"].grad.chunk(3), strict=True):
            part.grad = gradient.clone()
        for optimizer in (whole, separate, as_one):
            optimizer.step()
    torch.testing.assert_close(weights["high"].detach(), torch.cat([*parts.values()]).detach())
    assert not torch.allclose(weights["high"], other["high"], atol=0.1 * LR)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_skipped_step_changes_nothing(weights, bad):
    """Not the weights, not the moments, not what follows."""
    undisturbed = copy.deepcopy(weights)
    expected = after_steps(undisturbed, [make_muon(undisturbed.values())])
    optimizer = make_muon(weights.values())
    for step in range(4):
        give_gradients(weights, step)
        before, moments_before = copy.deepcopy(weights), moments(optimizer)
        kept = weights["high"].grad[3, 5].clone()
        weights["high"].grad[3, 5] = bad
        optimizer.found_inf = torch.ones(())
        optimizer.step()
        assert all(value.equal(before[name]) for name, value in weights.items())
        assert all(map(torch.equal, moments(optimizer), moments_before))
        weights["high"].grad[3, 5] = kept
        optimizer.found_inf = torch.zeros(())
        optimizer.step()
    assert all(value.equal(expected[name]) for name, value in weights.items())


def test_updates_have_the_size_of_those_of_adamw(weights):
    before = copy.deepcopy(weights)
    after = after_steps(
        weights, [Muon(dict.fromkeys(weights.values(), 1), LR, weight_decay=0)], count=1
    )
    for name, value in after.items():
        size = (value - before[name]).square().mean().sqrt() / LR
        assert 0.68 * 0.2 < size < 1.2 * 0.2, name


def test_weights_decay_without_a_gradient(weights):
    before = copy.deepcopy(weights)
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    optimizer = make_muon(weights.values())
    optimizer.step()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, before[name] * (1 - LR * DECAY))


# --- In the stage ---


def stage_of(**options):
    return make_stage(optimizer="muon", **options)


def all_of(stage) -> dict[str, torch.Tensor]:
    """Everything that a stage learns, by name."""
    state, found = stage.state_dict(), {}
    for part in ("model", "ema"):
        found |= {f"{part} {name}": value.clone() for name, value in state[part].items()}
    for part in ("optimizer", "muon"):
        for number, entries in state[part]["state"].items():
            found |= {f"{part} {number} {k}": value.clone() for k, value in entries.items()}
    return found


def test_linear_weights_are_muons_and_the_others_adamws():
    stage = stage_of()
    names = {id(p): name for name, p in stage.model.named_parameters()}
    linear = {names[id(p)] for p in linear_weights(stage.model)}
    (of_muon,), (of_adamw,) = (
        stage.optimizers[name].param_groups for name in ("muon", "optimizer")
    )
    assert {names[id(p)] for p in of_muon["params"]} == linear
    assert {names[id(p)] for p in of_adamw["params"]} == set(names.values()) - linear
    assert len(of_muon["params"]) + len(of_adamw["params"]) == len(names)
    assert (of_muon["weight_decay"], of_adamw["weight_decay"]) == (0.1, 0.0)
    assert list(make_stage().optimizers) == ["optimizer"]


def test_queries_keys_and_values_are_three_matrices(monkeypatch):
    shapes = []

    def seen(matrices, precision):
        shapes.append(tuple(matrices.shape))
        return orthogonalize(matrices, precision)

    monkeypatch.setattr(muon, "orthogonalize", seen)
    stage_of().train_step(0)
    # Squares: 3 of the whole, and 4 of each of two blocks. MLPs: 2 of each. The embedding's map.
    assert sorted(shapes) == [(1, 12, 32), (4, 32, 48), (11, 32, 32)]


def test_both_follow_the_schedule():
    stage = stage_of(epochs=20, warmup_epochs=10)
    for step in (0, 3):
        stage.train_step(step)
        groups = [group for one in stage.optimizers.values() for group in one.param_groups]
        assert {group["lr"] for group in groups} == {stage.learning_rate(step)}


@pytest.mark.parametrize("where", ["output_bias", "blocks.1.mlp.0.weight"])
def test_a_bad_gradient_of_either_skips_the_step_of_both(where):
    stage = stage_of(ema_decay=0)
    stage.train_step(0)
    before = all_of(stage)
    parameter = stage.model.get_parameter(where)
    hook = parameter.register_hook(lambda gradient: gradient * math.inf)
    assert stage.train_step(1)["skipped"] == 1
    hook.remove()
    assert all(value.equal(before[name]) for name, value in all_of(stage).items())
    assert stage.train_step(1)["skipped"] == 0
    assert not all_of(stage)[f"model {where}"].equal(before[f"model {where}"])


def test_it_learns():
    stage = stage_of(epochs=8, ema_decay=0.9)
    before = stage.validate()["loss"]
    for step in range(40):
        stage.train_step(step)
    assert stage.validate()["loss"] < 0.4 * before


def test_a_resumed_stage_continues_bit_for_bit():
    straight, first = stage_of(dropout=0.2), stage_of(dropout=0.2)
    for step in range(6):
        straight.train_step(step)
    for step in range(3):
        first.train_step(step)
    second = stage_of(dropout=0.2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(3, 6):
        second.train_step(step)
    expected = all_of(straight)
    assert all(value.equal(expected[name]) for name, value in all_of(second).items())


def entries(state) -> dict:
    return state["muon"]["state"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda state: state.pop("muon"),
            "was trained with `TrainingConfig.optimizer` adamw, not muon",
        ),
        (lambda state: entries(state).pop(1), "moments of"),
        (lambda state: entries(state)[0].pop("momentum"), "momentum is missing"),
        (lambda state: entries(state)[0]["momentum"].resize_(2, 3), "momentum is float32"),
        (lambda state: entries(state)[0]["momentum"].mul_(math.nan), "not finite"),
        (lambda state: entries(state)[0].update(step=torch.ones(())), "step is not part"),
    ],
    ids=["no muon", "too few", "no moment", "shape", "not a number", "more"],
)
def test_a_state_that_is_not_its_own_is_refused(spoil, said):
    stage = stage_of()
    stage.train_step(0)
    state = copy.deepcopy(stage.state_dict())
    spoil(state)
    with pytest.raises(ValueError, match=said):
        stage_of().load_state_dict(state)


def test_a_state_of_muon_is_refused_by_adamw():
    with pytest.raises(ValueError, match=r"with `TrainingConfig\.optimizer` muon, not adamw"):
        make_stage().load_state_dict(stage_of().state_dict())


@pytest.mark.parametrize("freeze", [(), ("blocks.*",)])
def test_moments_are_counted(freeze):
    stage = stage_of(freeze=freeze)
    stage.train_step(0)
    kept = sum(v.numel() for name, v in all_of(stage).items() if name.endswith(("avg", "sq", "um")))
    assert count_moments(stage.model, stage.training) == kept
    assert count_moments(stage.model, TrainingConfig()) > kept


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(
        FieldError, match=r"`TrainingConfig\.optimizer` sgd: unknown; choose from adamw, muon"
    ):
        make_stage(optimizer="sgd")


def test_a_network_without_layers_for_muon_is_refused():
    stage = stage_of()
    with pytest.raises(FieldError, match="muon: this network has no matrices for muon to train"):
        make_optimizers(nn.Embedding(3, 4), {}, stage.training, torch.float32)
    with pytest.raises(FieldError, match=r"`VQGANTrainingConfig\.optimizer` muon"):
        make_vqgan_stage(optimizer="muon", disc_weight=0, freeze=("encoder.*", "decoder.*"))


# --- On the command line ---


@pytest.fixture
def train(run, tokenizer_file):
    """Train six steps into a run folder of this name."""
    return lambda name, more="": run(
        f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --run_name {name} {more}"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_goes_on_bit_for_bit(train, tmp_path, precision):
    options = f"--optimizer muon --precision {precision} --dropout_t 0.2"
    train("straight", options)
    with stopped_at(MaskGITStage, 3):
        train("stopped", options)
    train("stopped", "--resume")  # the optimizer is the run's own
    states = [
        load_checkpoint(tmp_path / name / "resume_maskgit.pt", "maskgit-resume")
        for name in ("straight", "stopped")
    ]
    assert [state["position"]["step"] for state in states] == [6, 6]
    tensors = [dict(tensors_of(state["stage"])) for state in states]
    assert tensors[0].keys() == tensors[1].keys()
    assert sum("momentum" in name for name in tensors[0]) == len(
        states[0]["stage"]["muon"]["state"]
    )
    assert all(value.equal(tensors[1][name]) for name, value in tensors[0].items())


def tensors_of(nested, name=""):
    """Every tensor in nested dictionaries, with its path."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from tensors_of(value, f"{name} {key}")
        elif isinstance(value, torch.Tensor):
            yield f"{name} {key}", value


def test_another_optimizer_is_refused_where_a_run_goes_on(train, tmp_path, refusal):
    train("run", "--n_epochs 1")
    config = (tmp_path / "run" / "config.json").read_bytes()
    said = refusal(lambda: train("run", "--resume --optimizer muon"))
    assert "--optimizer muon: the run in" in said
    assert "was started with adamw" in said
    # A run before the option has no such entry.
    run = RunFolder(tmp_path / "run", "mnist")
    stored = read_config(run)
    del stored["maskgit"]["optimizer"]
    write_record(run.config, stored)
    said = refusal(lambda: train("run", "--resume --optimizer muon"))
    assert "was started with adamw" in said
    train("run", "--resume")
    assert read_config(run)["maskgit"]["optimizer"] == "adamw"
    assert "optimizer" in config.decode()


def test_dry_run_counts_one_moment_instead_of_two(train):
    said = {}
    for optimizer in ("adamw", "muon"):
        output = train("run", f"--dry_run --hidden_dim 512 --optimizer {optimizer}")
        (said[optimizer],) = re.findall(r"tokens, (\d+) MB of checkpoints", output)
    assert int(said["adamw"]) - int(said["muon"]) == pytest.approx(4 * 1.88, abs=1)


def test_dry_run_counts_every_file_of_the_run(train, tmp_path):
    options = "--hidden_dim 512 --depth 1 --n_epochs 1 --publish both --keep_checkpoints 1"
    (said,) = re.findall(r"tokens, (\d+) MB of checkpoints", train("run", f"--dry_run {options}"))
    train("run", options)
    sizes = [file.stat().st_size for file in (tmp_path / "run").rglob("*.pt")]
    assert len(sizes) == 4
    assert int(said) == pytest.approx(sum(sizes) / 1e6, abs=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_trained_as_a_matrix(layout):
    random = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(6, 4, 3, 3, generator=random) for _ in range(5))
    convolution = nn.Parameter(start.to(memory_format=torch.channels_last))
    matrix = nn.Parameter(start.flatten(1).clone())
    by_kernel, by_matrix = (Muon({weight: 1}, LR, DECAY) for weight in (convolution, matrix))
    for gradient in gradients:
        convolution.grad = gradient.to(memory_format=layout)
        matrix.grad = gradient.flatten(1)
        # As after loading: the momentum in any layout.
        state = by_kernel.state[convolution]
        state |= {name: value.contiguous() for name, value in state.items()}
        by_kernel.step()
        by_matrix.step()
    torch.testing.assert_close(convolution.detach().flatten(1), matrix.detach())
