"""MaskBit's transformers load, and compute and plan what they compute and plan there.

golden/maskbit.npz comes from markweberdev/maskbit at commit 5ea3d73: the logits of
modeling.bert.LFQBert with the weights of `fill_transformer`, the tokens revealed at each step of
modeling.modules.sampling.sample, and what tests/models/test_tokenizer_families.py says.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_values import GOLDEN, fill_transformer, read_golden, transformer_inputs

from models.decoding import make_plan, reveal_counts
from models.family import Expected
from models.foreign_file import ForeignFile
from models.maskbit.config import BitTokenizerConfig, BitTransformerConfig
from models.maskbit.foreign import read, to_foreign
from models.maskbit.transformer import BitTransformer
from models.open import foreign_model, load_tokenizer, new_transformer, read_network
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from utils.errors import UserError
from utils.torch_file import read_torch_file

CASES = {
    "two halves": BitTransformerConfig(8, 5, 32, 2, hidden_dim=32, depth=2, heads=4, mlp_dim=48),
    "three parts": BitTransformerConfig(16, 7, 27, 3, hidden_dim=48, depth=3, heads=6, mlp_dim=40),
}


def golden_weights(name):
    weights, logits = read_golden("maskbit", name, "logits", fill=fill_transformer)
    return {**weights, "bits_to_indices": torch.ones(3, dtype=torch.int32)}, logits


def opened(weights, config: BitTransformerConfig) -> BitTransformer:
    bits = config.bits * config.splits
    tokenizer = BitTokenizerConfig(n_embed=2**bits, embed_dim=bits)
    return read_network(
        "transformer",
        ForeignFile(weights, Path("a.bin")),
        Expected(tokenizer, None, {"heads": config.heads}),
    )


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_original_s(name):
    config = CASES[name]
    weights, expected = golden_weights(name)
    network = opened(weights, config).eval()
    assert network.config == config
    tokens, labels = transformer_inputs(config.codebook_size, config.seq_len, config.num_classes)
    with torch.no_grad():
        logits = network(tokens, labels)
        at = torch.tensor([0, 5, 5 + config.seq_len])
        some = network(tokens, labels, at)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(some, logits.flatten(0, 1)[at], atol=1e-5, rtol=0)
    # It is written as it was.
    written = to_foreign(network)
    weights["bits_to_indices"] = 2 ** torch.arange(config.bits)
    assert written.keys() == weights.keys()
    assert all(value.equal(weights[name].to(value.dtype)) for name, value in written.items())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda w: {**w, "norm_after_transformer.weight": w["pos_emb"]}, "transformer.weight is"),
        (lambda w: {n: v for n, v in w.items() if n != "last_layer.0.bias"}, "0.bias is missing"),
        (lambda w: {**w, "prediction_layer.weight": torch.ones(17, 32)}, "17 outputs are not"),
    ],
)
def test_what_does_not_make_one_is_refused(changed, said):
    weights, _ = golden_weights("two halves")
    with pytest.raises(UserError, match=said):
        opened(changed(weights), CASES["two halves"])


def test_plans_are_the_original_s():
    with np.load(GOLDEN / "maskbit.npz") as stored:
        for name in stored:
            kind, *numbers = name.split("/")
            if kind == "counts":
                found = reveal_counts(*map(int, numbers), "arccos-cumulative")
                assert found.tolist() == stored[name].tolist()
    plan = make_plan(512, SamplingConfig.usual_for(CASES["two halves"]))
    step = np.arange(64)
    assert plan.temperatures == pytest.approx(7.8 * (1 - (step + 1) / 64))
    assert plan.guidance == pytest.approx(7.1 * (1 - np.cos(np.pi * (step / 64) ** 3)) / 2)


def test_the_tokens_of_a_cell_are_joined_for_the_tokenizer(tmp_path):
    weights, _ = golden_weights("two halves")
    theirs = {name.replace("input_proj", "token_emb"): value for name, value in weights.items()}
    torch.save(theirs, tmp_path / "generator.bin")
    stored, codes = read_golden("maskbit", "6 bits", "tokens")
    torch.save(stored, tmp_path / "tokenizer.bin")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.bin", 32)
    path = tmp_path / "generator.bin"
    given = {"heads": 4}
    model = foreign_model(read_torch_file(path), path, tokenizer, given=given)
    assert (model.tokenizer.grid, model.tokenizer.codebook_size) == ((4, 8), 8)
    np.save(tmp_path / "used.npy", np.arange(5))
    with pytest.raises(UserError, match="`remap` 5: no code of bits can be left out"):
        load_tokenizer(tmp_path / "tokenizer.bin", 32, given={"remap": tmp_path / "used.npy"})
    # The low bits of a code stand before the high ones.
    parts = torch.stack([codes % 8, codes // 8], -1).flatten(2)
    images = tokenizer.decode(codes)
    assert model.tokenizer.decode(parts).equal(images)
    assert model.tokenizer.encode(images).shape == parts.shape
    made = model.sample([0, 4, "none"], num_steps=3)
    # Both tokens of a cell are regenerated, even if the mask touches half of it.
    mask = np.zeros((32, 32), bool)
    mask[9:12, 17:18] = True
    known, _ = model.known_tokens(made[0], mask)
    assert np.flatnonzero(known.hidden).tolist() == [8 + 4, 8 + 5]
    assert (model.edit(made[0], mask, num_steps=2)[0] == made[0])[~mask].all()


def test_another_tokenizer_is_refused():
    weights, _ = golden_weights("two halves")
    for shape in (BitTokenizerConfig(n_embed=32, embed_dim=5), VQGANConfig(n_embed=64)):
        with pytest.raises(UserError, match="needs MaskBit's tokenizer of 6 bits, but `checkpo"):
            read(ForeignFile(weights, Path("a.bin")), Expected(shape, None, {"heads": 4}))


def test_it_learns_the_class_and_its_size_is_the_published_one():
    torch.manual_seed(0)
    model = new_transformer(
        BitTransformerConfig(16, 3, 8, 2, hidden_dim=48, depth=2, heads=4, dropout=0.0)
    )
    tokens, labels = torch.full((3, 8), 16), torch.arange(3)
    at = torch.arange(24)
    loss = torch.nn.functional.cross_entropy(model(tokens, labels, at), at % 16)
    assert loss.item() == pytest.approx(np.log(16), abs=0.3)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.device("meta"):
        whole = BitTransformer(
            BitTransformerConfig(128, 1000, 512, 2, 4096, hidden_dim=1024, depth=24, heads=16)
        )
    assert sum(p.numel() for p in whole.parameters()) / 1e6 == pytest.approx(305, abs=1)
