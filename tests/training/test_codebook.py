import numpy as np
import pytest
import torch
from torch import Tensor

from models.codes import codebook_usage, count_codes
from models.vqgan.config import VQGANConfig
from models.vqgan.quantizer import COMMITMENT, VectorQuantizer, codebook_loss, nearest_codes
from training.codebook import CodebookCare, draw_order


def make_quantizer(n_embed: int = 16, remap: tuple[int, ...] | None = None) -> VectorQuantizer:
    quantizer = VectorQuantizer(VQGANConfig(n_embed=n_embed, embed_dim=4, remap=remap))
    torch.nn.init.normal_(quantizer.embedding.weight)
    return quantizer


def make_care(quantizer: VectorQuantizer) -> CodebookCare:
    """With an optimizer that has made a step, so that it has moments."""
    averaged = make_quantizer(len(quantizer.embedding.weight), quantizer_remap(quantizer))
    optimizer = torch.optim.AdamW(quantizer.parameters(), fused=True)
    quantizer.embedding.weight.square().sum().backward()
    optimizer.step()
    return CodebookCare(quantizer, averaged, optimizer, revive_below=0.1)


def quantizer_remap(quantizer: VectorQuantizer) -> tuple[int, ...] | None:
    return None if quantizer.used is None else tuple(quantizer.used.tolist())


def vectors_like(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_nearest_code_is_the_nearest() -> None:
    vectors, codes = vectors_like(50, 4), vectors_like(7, 4)
    by_hand = [min(range(7), key=lambda k: (v - codes[k]).norm().item()) for v in vectors]
    assert nearest_codes(vectors, codes).tolist() == by_hand


def test_the_gradient_passes_straight_through() -> None:
    vectors = vectors_like(2, 4, 3, 3).requires_grad_()
    gradient = vectors_like(2, 4, 3, 3)
    quantized = make_quantizer()(vectors)
    (found,) = torch.autograd.grad(quantized.vectors, vectors, gradient)
    assert torch.equal(found, gradient)


def test_the_output_is_made_of_codes() -> None:
    quantizer = make_quantizer()
    quantized = quantizer(vectors_like(2, 4, 3, 3))
    rows = quantized.vectors.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows, quantizer.codes[quantized.tokens])


def test_the_codebook_loss_pulls_both_sides() -> None:
    codes = vectors_like(5, 4).requires_grad_()
    vectors = (2 * vectors_like(5, 4)).requires_grad_()
    codebook_loss(codes, vectors).backward()
    apart = 2 * (codes - vectors).detach() / codes.numel()
    torch.testing.assert_close(codes.grad, apart)
    torch.testing.assert_close(vectors.grad, -COMMITMENT * apart)


def test_half_precision_is_quantized_in_float32() -> None:
    quantizer = make_quantizer()
    vectors = vectors_like(2, 4, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(vectors)
    assert quantized.vectors.dtype == torch.float32
    assert torch.equal(quantized.tokens, quantizer(vectors).tokens)


@pytest.mark.parametrize(("sane", "shape"), [(False, (18,)), (True, (2, 3, 3))])
def test_sane_index_shape(sane: bool, shape: tuple[int, ...]) -> None:
    quantizer = VectorQuantizer(VQGANConfig(embed_dim=4, sane_index_shape=sane))
    assert quantizer(vectors_like(2, 4, 3, 3)).tokens.shape == shape


def test_an_unused_code_gives_way_to_the_nearest_used_one() -> None:
    remap = (9, 2, 5)
    quantizer = make_quantizer(remap=remap)
    codes = quantizer.embedding.weight.detach()
    tokens = quantizer.tokens(codes[None, None])[0, 0]  # of every code itself
    assert tokens[list(remap)].tolist() == [0, 1, 2]
    assert tokens.tolist() == nearest_codes(codes, codes[list(remap)]).tolist()
    assert torch.equal(quantizer.lookup(tokens)[list(remap)], codes[list(remap)])


def test_usage_and_perplexity() -> None:
    assert codebook_usage(torch.tensor([5.0, 5.0, 0.0, 0.0])) == pytest.approx((0.5, 2.0))
    assert codebook_usage(torch.ones(8)) == pytest.approx((1.0, 8.0))


def test_codes_are_counted() -> None:
    assert count_codes(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]


def test_a_draw_follows_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    uniform = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0))
    orders = torch.stack([draw_order(weights, row) for row in uniform])
    assert set(orders[:, 0].tolist()) == {1, 2}
    assert (orders[:, 0] == 2).float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(4000, 4))


def test_the_first_codes_are_encoder_outputs_and_in_use() -> None:
    quantizer = make_quantizer()
    care = make_care(quantizer)
    # Many vectors are equal, as the encoder outputs of empty background are.
    vectors = torch.cat([torch.zeros(500, 4), vectors_like(60, 4)])
    care.initialize(vectors, np.random.default_rng(0))
    assert all(code in vectors.tolist() for code in quantizer.codes.tolist())
    assert len(nearest_codes(vectors, quantizer.codes).unique()) == 16
    assert torch.equal(quantizer.codes, care.averaged.codes)


@pytest.mark.parametrize("remap", [None, (7, 3, 12, 0, 1, 5)])
def test_dead_codes_are_revived(remap: tuple[int, ...] | None) -> None:
    quantizer = make_quantizer(remap=remap)
    care = make_care(quantizer)
    rows = list(remap or range(16))
    alive = torch.arange(len(rows)) < 2
    care.usage.copy_(torch.where(alive, 1.0, 0.05))
    before = quantizer.embedding.weight.detach().clone()
    averaged_before = care.averaged.embedding.weight.detach().clone()
    vectors = 3 * vectors_like(40, 4)
    tokens = nearest_codes(vectors, quantizer.codes)
    care.revive(vectors, tokens, np.random.default_rng(0), allowed=torch.tensor(True))

    revived = [row for row, lives in zip(rows, alive, strict=True) if not lives]
    kept = [row for row in range(16) if row not in revived]
    after, averaged = quantizer.embedding.weight.detach(), care.averaged.embedding.weight.detach()
    assert all(code in vectors.tolist() for code in after[revived].tolist())
    assert torch.equal(averaged[revived], after[revived])
    assert torch.equal(after[kept], before[kept])
    assert torch.equal(averaged[kept], averaged_before[kept])
    assert torch.equal(care.usage, torch.ones(len(rows)))
    state = care.optimizer.state[quantizer.embedding.weight]
    for moment in (state["exp_avg"], state["exp_avg_sq"]):
        assert not moment[revived].any()
        assert moment[kept].all()


def test_nothing_is_revived_from_broken_numbers() -> None:
    quantizer = make_quantizer()
    care = make_care(quantizer)
    care.usage.zero_()
    before = quantizer.codes.clone()
    broken, tokens = torch.full((9, 4), torch.nan), torch.zeros(9, dtype=torch.long)
    care.revive(broken, tokens, np.random.default_rng(0), allowed=torch.tensor(False))
    assert torch.equal(quantizer.codes, before)


def test_usage_is_relative_to_the_average_code() -> None:
    care = make_care(make_quantizer(n_embed=4))
    for _ in range(2000):
        care.count(torch.tensor([0, 0, 0, 1]))
    assert care.usage.tolist() == pytest.approx([3, 1, 0, 0], abs=1e-3)
