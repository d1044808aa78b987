"""The modern transformer computes what it says, and begins where it should."""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from models.fine_tuning import Change
from models.modern.config import ModernConfig
from models.modern.transformer import ModernTransformer
from models.open import new_transformer
from utils.errors import FieldError


def model_for(grid: tuple[int, ...], **more):
    torch.manual_seed(0)
    shape = {"hidden_dim": 24, "depth": 2, "heads": 2, "mlp_dim": 20, **more}
    return new_transformer(ModernConfig(16, 3, grid, **shape)).eval()


def shaken(model):
    """Give every weight a value of its own, so that a forgotten one is noticed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


def turned(x, place):
    """Turn the pairs (i, i + d/2) of a vector, each axis of the place its own pairs."""
    half, pairs = len(x) // 2, len(x) // 2 // len(place)
    result = x.clone()
    for axis, steps in enumerate(place):
        for pair in range(pairs):
            first = axis * pairs + pair
            turn = cmath.exp(1j * steps * math.pi / 2 * 0.01 ** (pair / pairs))
            both = complex(x[first], x[first + half]) * turn
            result[first], result[first + half] = both.real, both.imag
    return result


def written_out(model, tokens, label):
    """The transformer for one image, position by position and head by head."""
    w, config = model.state_dict(), model.config

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, False, True) + 1e-5).sqrt()

    places = torch.cartesian_prod(*map(torch.arange, config.grid)).reshape(config.seq_len, -1)
    x = w["token_embedding.weight"][tokens] + w["class_embedding.weight"][label]
    x = x + w["position_embedding.weight"]
    for i in range(config.depth):
        layer = {n.split(".", 2)[2]: v for n, v in w.items() if n.startswith(f"blocks.{i}.")}
        inside, mixed = norm(x), []
        q, k = (inside @ layer["attention.queries_keys.weight"].T).chunk(2, -1)
        v = inside @ layer["attention.values.weight"].T
        for head in torch.arange(config.hidden_dim).chunk(config.heads):
            queries, keys = (
                torch.stack(list(map(turned, norm(each[:, head]), places.tolist())))
                for each in (q, k)
            )
            mixed.append((queries @ keys.T / len(head) ** 0.5).softmax(-1) @ v[:, head])
        x = x + torch.cat(mixed, -1) @ layer["attention.out.weight"].T
        x = x + F.gelu(norm(x) @ layer["mlp.0.weight"].T) @ layer["mlp.2.weight"].T
    return norm(x) @ w["token_embedding.weight"][: config.codebook_size].T


@pytest.mark.parametrize("grid", [(2, 4), (5,)], ids=str)
def test_logits_equal_the_written_out_model(grid):
    model = shaken(model_for(grid))
    length = model.config.seq_len
    tokens, labels = torch.randint(0, 17, (3, length)), torch.tensor([0, 3, 1])
    with torch.no_grad():
        expected = torch.stack([*map(written_out, [model] * 3, tokens, labels)])
        torch.testing.assert_close(model(tokens, labels), expected, atol=1e-4, rtol=1e-4)
        at = torch.tensor([0, length + 1, 3 * length - 1])
        some = model(tokens, labels, at)
    torch.testing.assert_close(some, expected.flatten(0, 1)[at], atol=1e-4, rtol=1e-4)


def test_bfloat16_is_close_to_float32_and_stays_between_the_blocks():
    model, seen = shaken(model_for((2, 4))), []
    tokens, labels = torch.randint(0, 17, (3, 8)), torch.tensor([0, 3, 1])
    exact = model(tokens, labels)
    model.blocks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        low = model(tokens, labels).float()
    assert seen == [torch.bfloat16]
    assert ((low - exact).norm() / exact.norm()).item() < 0.05


def test_it_begins_with_even_predictions_and_all_of_it_learns():
    model = model_for((2, 2)).train()
    for block in model.blocks:  # the identity
        assert not block.attention.out.weight.any()
        assert not block.mlp[2].weight.any()
        assert block.mlp[0].weight.std().item() == pytest.approx(24**-0.5, rel=0.1)
    tokens, labels = torch.full((3, 4), 16), torch.arange(3)
    for step in range(2):  # the first layers of a block learn once its last ones are not 0
        loss = F.cross_entropy(model(tokens, labels).flatten(0, 1), torch.arange(12))
        if step == 0:
            assert loss.item() == pytest.approx(math.log(16), abs=0.1)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert all(p.grad.any() for n, p in model.named_parameters() if "queries" not in n)


def test_classes_and_positions_are_carried():
    old, new = (ModernConfig(16, 3, grid) for grid in ((2, 2), (4, 4)))
    change = Change(old, new, (2, None, 0), (old.grid, new.grid))
    classes = ModernTransformer.carry("class_embedding.weight", torch.eye(4), change)
    assert classes[[0, 2, 3]].equal(torch.eye(4)[[2, 0, 3]])
    positions = ModernTransformer.carry("position_embedding.weight", torch.ones(4, 5), change)
    assert positions.shape == (16, 5)


def test_odd_heads_are_refused():
    with pytest.raises(FieldError, match="twice"):
        ModernConfig(16, 3, (2, 2), hidden_dim=9, heads=3).validate()
