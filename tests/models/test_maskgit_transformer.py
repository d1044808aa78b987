import math

import pytest
import torch
import torch.nn.functional as F

from models import layers
from models.layers import Attention, Dropout, PostNormBlock, PreNormBlock, attend
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer

SMALL = {"embed_dim": 12, "hidden_dim": 32, "depth": 2, "heads": 4, "mlp_dim": 48}


def small_model(**changes):
    torch.manual_seed(0)
    config = TransformerConfig(codebook_size=16, num_classes=3, seq_len=9, **{**SMALL, **changes})
    return MaskedTransformer(config).eval()


def inputs(batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 17, (batch, 9), generator=generator), torch.arange(batch)


def shake(model):
    """Give biases and norms values of their own, so that a forgotten one is noticed."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def reference_logits(model, tokens, labels):
    """The transformer written out: one image, explicit heads, explicit softmax."""
    w = model.state_dict()
    config = model.config
    width, heads = config.hidden_dim, config.heads

    def norm(x, name, eps):
        mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (var + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    results = []
    for row, label in zip(tokens, labels, strict=True):
        ids = [*row.tolist(), config.codebook_size + 1 + int(label)]
        x = w["token_embedding.weight"][ids]
        if "embedding_map.weight" in w:
            x = x @ w["embedding_map.weight"].T
        x = x + w["position_embedding"]
        x = linear(norm(x, "first.0", 1e-12), "first.2")
        x = linear(norm(gelu(x), "first.4", 1e-12), "first.6")
        for i in range(config.depth):
            block = f"blocks.{i}"
            qkv = linear(norm(x, f"{block}.attention_norm", 1e-5), f"{block}.attention.qkv")
            q, k, v = qkv.split(width, dim=-1)
            mixed = []
            for h in range(heads):
                part = slice(h * width // heads, (h + 1) * width // heads)
                scores = q[:, part] @ k[:, part].T / math.sqrt(width // heads)
                mixed.append(scores.softmax(-1) @ v[:, part])
            x = x + linear(torch.cat(mixed, -1), f"{block}.attention.out")
            inner = gelu(linear(norm(x, f"{block}.mlp_norm", 1e-5), f"{block}.mlp.0"))
            x = x + linear(inner, f"{block}.mlp.2")
        x = norm(gelu(linear(norm(x, "last.0", 1e-12), "last.2")), "last.4", 1e-12)
        if "embedding_map.weight" in w:
            x = x @ w["embedding_map.weight"]
        logits = x @ w["token_embedding.weight"].T + w["output_bias"]
        results.append(logits[:-1, : config.codebook_size])
    return torch.stack(results)


@pytest.mark.parametrize("embed_dim", [12, 32])
def test_logits_equal_the_written_out_model(embed_dim):
    model = shake(small_model(embed_dim=embed_dim))
    tokens, labels = inputs()
    expected = reference_logits(model, tokens, labels)
    assert torch.allclose(model(tokens, labels), expected, atol=1e-4)


def test_shapes_follow_the_vocabulary():
    model = small_model()
    assert model.token_embedding.weight.shape == (16 + 1 + 3 + 1, 12)
    assert model.output_bias.shape == (10, 21)
    assert model.embedding_map.weight.shape == (32, 12)
    assert small_model(embed_dim=32).embedding_map is None
    assert model(*inputs()).shape == (2, 9, 16)


def test_wanted_positions_get_the_same_logits():
    model = shake(small_model())
    tokens, labels = inputs()
    at = torch.tensor([0, 3, 9, 17])
    whole = model(tokens, labels).flatten(0, 1)
    assert torch.allclose(model(tokens, labels, at), whole[at], atol=1e-6)


def test_every_position_sees_every_other_and_the_class():
    model = shake(small_model())
    tokens, labels = inputs(1)
    before = model(tokens, labels)
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 16
    assert not torch.allclose(model(changed, labels)[0, 0], before[0, 0])
    assert not torch.allclose(model(tokens, labels + 1), before)


def test_weights_begin_with_their_law():
    model = small_model(embed_dim=32, hidden_dim=64, mlp_dim=128)
    for weight in (model.token_embedding.weight, model.position_embedding):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    linear = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(layer.in_features**-0.5, rel=0.1)
    assert not any(one.any() for one in [model.output_bias, *(m.bias for m in linear[1:])])
    # The norms of these parts divide by tiny numbers too, as in the programs whose files it reads.
    assert {part[i].eps for part in (model.first, model.last) for i in (0, 4)} == {1e-12}
    norms = [norm for block in model.blocks for norm in (block.attention_norm, block.mlp_norm)]
    assert {norm.eps for norm in norms} == {1e-5}


def test_first_loss_is_about_ln_k():
    torch.manual_seed(0)
    model = MaskedTransformer(TransformerConfig(codebook_size=512, num_classes=10, seq_len=64))
    tokens = torch.randint(0, 512, (8, 64))
    logits = model.eval()(torch.full_like(tokens, 512), torch.zeros(8, dtype=torch.long))
    loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(512), abs=0.5)


def test_no_randomness_in_evaluation_and_dropout_in_training():
    model = small_model(dropout=0.5)
    tokens, labels = inputs()
    assert model(tokens, labels).equal(model(tokens, labels))
    model.train()
    assert not model(tokens, labels).equal(model(tokens, labels))
    without = small_model(dropout=0.0).train()
    assert without(tokens, labels).equal(without(tokens, labels))


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.004)])
def test_dropout_keeps_the_expectation_and_the_dtype(rate, dtype, error):
    torch.manual_seed(0)
    output = Dropout(rate).train()(torch.ones(200_001, dtype=dtype))
    assert output.dtype == dtype
    assert (output == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert output.float().mean().item() == pytest.approx(1, abs=0.02)
    dropped = round(256 * rate) / 256
    assert output.unique().tolist() == pytest.approx([0, 1 / (1 - dropped)], rel=error)


def test_the_highest_dropout_leaves_something():
    kept = Dropout(0.999).train()(torch.ones(100_000))
    assert kept.isfinite().all()
    assert kept.unique().tolist() == [0, 256]


def test_dropout_masks_the_gradient_as_the_output():
    torch.manual_seed(0)
    x = torch.ones(1000, requires_grad=True)
    output = Dropout(0.3).train()(x)
    output.sum().backward()
    assert x.grad is not None
    assert x.grad.equal(output.detach())


def test_dropout_masks_are_independent_between_elements():
    torch.manual_seed(0)
    kept = (Dropout(0.5).train()(torch.ones(4000, 64)) > 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(64)
    assert correlation.abs().max().item() < 0.15


def test_bfloat16_is_close_to_float32():
    model = shake(small_model())
    tokens, labels = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(tokens, labels).float()
    exact = model(tokens, labels)
    assert ((low - exact).norm() / exact.norm()).item() < 0.05


@pytest.mark.parametrize("length", [6, layers.SHORT_SEQUENCE + 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_and_its_gradient_are_the_formula(length, dtype):
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(5, length, 3, 2, 4, generator=generator).to(dtype).requires_grad_()
    mixed = attend(qkv)
    mixed.double().square().sum().backward()

    exact = qkv.detach().double().requires_grad_()
    q, k, v = exact.unbind(2)  # (B, L, H, d)
    weights = (torch.einsum("bihd,bjhd->bhij", q, k) / 2).softmax(-1)
    expected = torch.einsum("bhij,bjhd->bihd", weights, v)
    expected.square().sum().backward()

    error = 0.02 if dtype == torch.bfloat16 else 1e-5
    for found, wanted in ((mixed, expected), (qkv.grad, exact.grad)):
        assert (found.double() - wanted).norm() < error * wanted.norm()


@pytest.mark.parametrize("cached", [2, 0.5])  # images: parts of 2, 2 and 1; single images
def test_attention_in_parts_of_the_batch_has_the_same_bits(monkeypatch, cached):
    qkv = torch.randn(5, 6, 3, 2, 4, generator=torch.Generator().manual_seed(4)).bfloat16()
    at_once = attend(qkv)
    monkeypatch.setattr(layers, "CACHED_WEIGHTS", int(cached * 2 * 6 * 6))
    assert torch.equal(attend(qkv), at_once)


@pytest.mark.parametrize(
    ("length", "dtype"),
    [(layers.SHORT_SEQUENCE, torch.bfloat16), (layers.SHORT_SEQUENCE + 1, torch.float32)],
)
def test_autocast_does_not_choose_the_precision_of_attention(length, dtype):
    attention, mixed = Attention(8, 2), []
    attention.out.register_forward_pre_hook(lambda _, inputs: mixed.append(inputs[0]))
    x = torch.randn(2, length, 8, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", torch.bfloat16):
        attention(x)
        qkv = attention.qkv(x)
    assert mixed[0].dtype == dtype
    assert mixed[0].equal(attend(qkv.unflatten(-1, (3, 2, 4))).flatten(-2))


@pytest.mark.parametrize("kind", [PreNormBlock, PostNormBlock])
def test_dropout_is_on_all_that_a_block_adds(kind):
    block, x = kind(8, 2, 16, dropout=0.5), torch.randn(2, 6, 8)
    assert not block(x).equal(block(x))
    block.dropout.register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    is_normed = kind is PostNormBlock
    expected = block.mlp_norm(block.attention_norm(x)) if is_normed else x
    assert block(x).equal(expected)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"`hidden_dim` 30: .* `heads` 4"):
        TransformerConfig(16, 3, 9, hidden_dim=30, heads=4).validate()
