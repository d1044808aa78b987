"""What a new network takes from a trained one: rows of classes, positions, equal entries."""

from dataclasses import replace

import pytest
import torch

from models.fine_tuning import Change, same_classes, start_from
from models.halton.transformer import HaltonConfig, HaltonTransformer
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer

SHAPE = TransformerConfig(
    codebook_size=5,
    num_classes=3,
    seq_len=16,
    embed_dim=4,
    hidden_dim=8,
    depth=1,
    heads=2,
    mlp_dim=8,
)


def change(old=SHAPE, labels=(0, 1, 2), grids=((4, 4), (4, 4)), **new) -> Change:
    return Change(old, replace(old, num_classes=len(labels), **new), labels, grids)


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (12, 20)])
def test_a_linear_field_of_positions_stays_linear_where_the_edge_is_far(size):
    """Bicubic interpolation keeps planes; at the edge pixels repeat."""
    height = width = 16
    plane = torch.arange(height)[:, None] * 2.0 + torch.arange(width) * 3.0
    rows = plane.reshape(-1, 1)
    new = change(grids=((height, width), size)).positions(rows).reshape(size)
    y, x = ((torch.arange(n) + 0.5) * 16 / n - 0.5 for n in size)
    expected = y[:, None] * 2 + x * 3
    inner = slice(3, -3)
    assert torch.allclose(new[inner, inner], expected[inner, inner], atol=0.1)


def test_equal_positions_stay_equal_in_every_grid():
    rows = torch.tensor([1.5, -2.0]).expand(16, 2)
    for grids in (((4, 4), (7, 3)), ((16,), (9,))):
        new = change(grids=grids).positions(rows)
        assert torch.allclose(new, rows[:1].expand(len(new), 2), atol=1e-5)


def test_the_same_classes_and_grid_change_nothing():
    weights = MaskedTransformer(SHAPE).state_dict()
    same = change()
    kept = start_from(weights, weights, lambda name, w: MaskedTransformer.carry(name, w, same))
    assert kept.fitted == ()


def test_every_weight_fits_another_grid_and_other_classes():
    torch.manual_seed(0)
    old = MaskedTransformer(SHAPE)
    torch.nn.init.normal_(old.output_bias)
    new = change(labels=(2, None, 0, None), grids=((4, 4), (8, 8)), seq_len=64)
    expected = MaskedTransformer(new.new).state_dict()
    start = start_from(old.state_dict(), expected, lambda name, w: old.carry(name, w, new))
    assert (start.new, start.left_out, start.share) == ((), (), 1.0)
    rows = start.weights["token_embedding.weight"]
    before = old.token_embedding.weight
    assert torch.equal(rows[:6], before[:6])  # image tokens and the mask
    assert torch.equal(rows[[6, 8, 10]], before[[8, 6, 9]])  # classes 2 and 0, and "no class"
    assert torch.allclose(rows[[7, 9]], before[6:9].mean(0).expand(2, 4))
    # The class is the last position, which is not of the grid.
    assert torch.equal(start.weights["position_embedding"][64], old.position_embedding[16])


def test_another_family_fits_its_own_rows():
    torch.manual_seed(0)
    old = HaltonTransformer(HaltonConfig(5, 3, 16, hidden_dim=12, depth=1, heads=2))
    new = change(old.config, labels=(2, None), grids=((4, 4), (8, 8)), seq_len=64)
    expected = HaltonTransformer(new.new).state_dict()
    start = start_from(old.state_dict(), expected, lambda name, w: old.carry(name, w, new))
    assert (start.new, start.left_out) == ((), ())
    before = old.cls_emb.weight
    mean = before[:3].mean(0)
    assert torch.allclose(
        start.weights["cls_emb.weight"], torch.stack([before[2], mean, before[3]])
    )


def test_an_untrained_no_class_becomes_the_mean():
    old = replace(SHAPE, null_trained=False)
    table = MaskedTransformer(old).token_embedding.weight
    new = MaskedTransformer.carry("token_embedding.weight", table, change(old, null_trained=True))
    assert torch.allclose(new[-1], table[6:9].mean(0))
    assert torch.equal(new[:-1], table[:-1])


def test_names_say_which_class_is_which():
    assert same_classes(("cat", "dog"), ("ant", "dog", "cat")) == (None, 1, 0)
    assert same_classes((), ("cat",)) == (None,)


def test_what_does_not_fit_is_named():
    found = {"same": torch.ones(2), "wider": torch.ones(3), "gone": torch.ones(1)}
    expected = {"same": torch.zeros(2), "wider": torch.zeros(6)}
    start = start_from(found, expected)
    assert start.weights == {"same": found["same"]}
    assert (start.new, start.left_out, start.share) == (("wider",), ("wider", "gone"), 0.25)
    assert start.table().splitlines() == [
        "  taken     1 weights, 25.0% of the new network",
        "  new       wider",
        "  left out  wider, gone",
    ]
