"""TiTok's transformers load, and compute and plan what they do there.

golden/titok.npz comes from bytedance/1d-tokenizer at commit 942a96f, with transformers 5.24: the
logits of modeling.maskgit.{ImageBert,UViTBert} with the weights of `fill_transformer`, the tokens
that `generate` reveals at each step, and what tests/models/test_tokenizer_families.py says.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_values import GOLDEN, fill_transformer, read_golden, transformer_inputs
from toy_families import RowConfig

from models.decoding import make_plan, reveal_counts
from models.family import Expected
from models.foreign_file import ForeignFile
from models.open import family_of_file, new_transformer, read_network
from models.sampling import SamplingConfig
from models.titok.generators import to_foreign
from models.titok.transformer import TitokTransformer
from models.titok.transformer import TitokTransformerConfig as Config
from utils.errors import UserError

CASES = {
    "bert": Config(12, 5, 16, hidden_dim=32, depth=2, heads=4, mlp_dim=48),
    "bert 2": Config(20, 7, 9, hidden_dim=48, depth=3, heads=6, mlp_dim=40),
    "uvit": Config(12, 5, 16, hidden_dim=32, depth=4, heads=4, mlp_dim=64, long_skips=True),
    "uvit 2": Config(20, 7, 9, hidden_dim=48, depth=2, heads=6, mlp_dim=96, long_skips=True),
}


def golden_weights(name):
    return read_golden("titok", name, "logits", fill=fill_transformer)


def opened(weights, config: Config, codes: int | None = None) -> TitokTransformer:
    tokenizer = RowConfig(codebook_size=codes or config.codebook_size)
    return read_network(
        "transformer",
        ForeignFile(weights, Path("a.bin")),
        Expected(tokenizer, None, {"heads": config.heads}),
    )


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_original_s(name):
    config = CASES[name]
    weights, expected = golden_weights(name)
    assert family_of_file("transformer", ForeignFile(weights, Path("a.bin"))).name == "titok"
    network = opened(weights, config).eval()
    assert network.config == config
    tokens, labels = transformer_inputs(config.codebook_size, config.seq_len, config.num_classes)
    with torch.no_grad():
        logits = network(tokens, labels)
        at = torch.tensor([0, 5, 5 + config.seq_len])
        some = network(tokens, labels, at)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(some, logits.flatten(0, 1)[at], atol=1e-5, rtol=0)
    # It is written with the same names and shapes, and computes the same.
    written = to_foreign(network)
    assert {name: v.shape for name, v in written.items()} == {
        n: v.shape for n, v in weights.items()
    }
    with torch.no_grad():
        assert opened(written, config).eval()(tokens, labels).equal(logits)


@pytest.mark.parametrize(
    ("case", "changed", "said"),
    [
        (
            "bert",
            lambda w: {**w, "model.pooler.weight": torch.ones(1)},
            "pooler.weight is not part",
        ),
        ("uvit", lambda w: {**w, "time_embed.weight": torch.ones(1)}, "time_embed.weight is not"),
        ("bert", lambda w: {n: v for n, v in w.items() if "token_type" not in n}, "is missing"),
        (
            "bert",
            lambda w: {n: v for n, v in w.items() if "self.key.b" not in n},
            "no key or value",
        ),
        (
            "uvit",
            lambda w: {n: v for n, v in w.items() if n != "pos_embed"},
            "position_embedding has",
        ),
    ],
)
def test_what_does_not_make_one_is_refused(case, changed, said):
    weights, _ = golden_weights(case)
    with pytest.raises(UserError, match=said):
        opened(changed(weights), CASES[case])


def test_another_tokenizer_is_refused():
    weights, _ = golden_weights("bert")
    with pytest.raises(UserError, match="predicts 12 codes, but those of the tokenizer are 6"):
        opened(weights, CASES["bert"], codes=6)


def test_plans_are_the_original_s():
    with np.load(GOLDEN / "titok.npz") as stored:
        for name in stored:
            kind, *numbers = name.split("/")
            if kind == "counts":
                found = reveal_counts(*map(int, numbers), "arccos-cumulative")
                assert found.tolist() == stored[name].tolist()
    plan = make_plan(32, SamplingConfig.usual_for(Config(4096, 1000, 32)))
    step = np.arange(8)
    assert plan.temperatures == pytest.approx(9.5 * (1 - (step + 1) / 8))
    assert plan.guidance == pytest.approx(4.5 * step / 8)
    settings = SamplingConfig(num_steps=64, guidance_schedule="power-cosine", guidance=5.9)
    # Theirs is u + (c - u) s, where s rises from 1 to 6.9.
    share = (1 - np.cos(np.pi * (np.arange(64) / 64) ** 3)) / 2
    assert 1 + make_plan(128, settings).guidance == pytest.approx(1 + (6.9 - 1) * share)


def test_it_learns_the_class_and_its_size_is_the_published_one():
    torch.manual_seed(0)
    for long_skips in (False, True):
        shape = Config(
            16, 3, 4, hidden_dim=48, depth=2, heads=4, dropout=0.0, long_skips=long_skips
        )
        model = new_transformer(shape)
        tokens, labels = torch.full((3, 4), 16), torch.arange(3)
        at = torch.arange(12)
        loss = torch.nn.functional.cross_entropy(model(tokens, labels, at), at)
        assert loss.item() == pytest.approx(np.log(16), abs=0.3)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.device("meta"):
        whole = TitokTransformer(
            Config(4096, 1000, 32, hidden_dim=768, depth=24, heads=16, mlp_dim=3072)
        )
    assert sum(p.numel() for p in whole.parameters()) / 1e6 == pytest.approx(177, abs=1)
