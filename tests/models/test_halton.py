"""Halton-MaskGIT's transformers load, compute what they compute there, and are written again.

golden/halton.npz comes from valeoai/Halton-MaskGIT at commit f61b0a1: the logits of
Network.transformer.Transformer with the weights of `fill_transformer`, the order of
HaltonSampler.build_halton_mask, and the counts of the loop in HaltonSampler.__call__.
"""

import numpy as np
import pytest
import torch
from golden_values import GOLDEN, fill_transformer, read_golden, transformer_inputs
from toy_families import GrayConfig, GrayNetwork

from models.decoding import make_plan, reveal_counts
from models.halton.foreign import to_foreign
from models.halton.transformer import HaltonConfig, HaltonTransformer
from models.halton_order import halton_order, halton_orders
from models.model import Model
from models.open import foreign_model, new_transformer
from models.sampling import SamplingConfig
from models.tokenizer import Tokenizer
from utils.errors import UserError
from utils.torch_file import read_torch_file

CASES = {
    "tiny": HaltonConfig(12, 5, 16, hidden_dim=32, depth=2, heads=4),
    "odd heads": HaltonConfig(20, 7, 9, hidden_dim=50, depth=3, heads=6, registers=2),
}


def golden_weights(name):
    weights, logits = read_golden("halton", name, "logits", fill=fill_transformer)
    return {**weights, "head.weight": weights["tok_emb.weight"]}, logits


def opened(stored, config, folder, **given) -> Model:
    torch.save(stored, folder / "model.pth")
    side = int(config.seq_len**0.5)
    shape = GrayConfig((2 * side, 2 * side), 1, (side, side), config.codebook_size)
    tokenizer = Tokenizer(GrayNetwork(shape))
    path = folder / "model.pth"
    return foreign_model(read_torch_file(path), path, tokenizer, given=given)


def wrapped(weights):
    """As their trainer saves it, with the state of Adam."""
    moments = {0: {"step": torch.ones(()), "exp_avg": weights["cls_emb.weight"]}}
    return {
        "iter": 7,
        "global_epoch": 1,
        "model_state_dict": {f"module._orig_mod.{name}": v for name, v in weights.items()},
        "optimizer_state_dict": {"state": moments, "param_groups": [{"lr": 1e-4}]},
    }


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_original_s(name, tmp_path):
    config = CASES[name]
    weights, expected = golden_weights(name)
    model = opened(wrapped(weights), config, tmp_path, heads=config.heads)
    assert model.transformer.config == config
    tokens, labels = transformer_inputs(config.codebook_size, config.seq_len, config.num_classes)
    with torch.no_grad():
        logits = model.transformer(tokens, labels)
        at = torch.tensor([0, 5, 5 + config.seq_len])
        some = model.transformer(tokens, labels, at)
    torch.testing.assert_close(logits, expected[..., : config.codebook_size], atol=1e-5, rtol=0)
    torch.testing.assert_close(some, logits.flatten(0, 1)[at], atol=1e-5, rtol=0)


def test_it_is_written_as_it_was(tmp_path):
    weights, _ = golden_weights("tiny")
    model = opened(wrapped(weights), CASES["tiny"], tmp_path, heads=4)
    written = to_foreign(model.transformer)
    assert written["model_state_dict"].keys() == weights.keys()
    assert all(written["model_state_dict"][name].equal(weights[name]) for name in weights)
    again = opened(written, CASES["tiny"], tmp_path, heads=4)
    assert again.fingerprint == model.fingerprint


def change(weights, **entries):
    return {**weights, **{name.replace("__", "."): value for name, value in entries.items()}}


@pytest.mark.parametrize(
    ("changed", "given", "said"),
    [
        (lambda w: change(w, in_proj__weight=torch.ones(1)), {"heads": 4}, "in_proj.weight is not"),
        (
            lambda w: change(w, head__weight=torch.ones(13, 32)),
            {"heads": 4},
            "differs from tok_emb",
        ),
        (lambda w: {k: v for k, v in w.items() if k != "head.bias"}, {"heads": 4}, "bias is miss"),
        (lambda w: w, {}, r"`transformer.heads` None: do not make 32 channels of 32"),
        (lambda w: w, {"heads": 5}, r"`transformer.heads` 5: do not make 32 channels of 32"),
    ],
)
def test_what_does_not_make_one_is_refused(changed, given, said, tmp_path):
    weights, _ = golden_weights("tiny")
    with pytest.raises(UserError, match=said):
        opened(changed(weights), CASES["tiny"], tmp_path, **given)


def test_another_tokenizer_is_refused(tmp_path):
    weights, _ = golden_weights("tiny")
    with pytest.raises(UserError, match=r"for a tokenizer of 12 codes, but .* has 13"):
        opened(weights, HaltonConfig(13, 5, 16), tmp_path, heads=4)


def test_order_and_counts_are_the_original_s():
    with np.load(GOLDEN / "halton.npz") as stored:
        for name in stored:
            kind, *numbers = name.split("/")
            if kind == "order":
                side = int(numbers[0])
                assert halton_order((side, side)).argsort().tolist() == stored[name].tolist()
            if kind == "counts":
                found = reveal_counts(*map(int, numbers), "arccos-halton")
                assert found.tolist() == stored[name].tolist()


def test_without_a_roll_all_images_have_one_order():
    orders = halton_orders(0, np.arange(3), (4, 4), roll=False)
    assert (orders == halton_order((4, 4))).all()


def test_the_published_sampling_is_the_usual_one():
    usual = SamplingConfig.usual_for(CASES["tiny"])
    plan = make_plan(256, usual)
    assert (plan.num_steps, plan.sampler, usual.halton_roll) == (32, "halton", "off")
    assert plan.logit_scales.tolist() == [0.5, *[1.0] * 31]
    assert plan.guidance.tolist() == [1.0] * 32
    assert plan.counts[[0, 1, -2, -1]].tolist() == [5, 5, 17, 41]


@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions"),
    [(384, 6, 6, 23.0), (512, 12, 6, 69.3), (768, 12, 12, 142.2), (1024, 24, 16, 480.0)],
)
def test_sizes_are_the_published_ones(width, depth, heads, millions):
    with torch.device("meta"):
        model = HaltonTransformer(
            HaltonConfig(16384, 1000, 256, hidden_dim=width, depth=depth, heads=heads)
        )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.4)


def test_it_begins_with_even_predictions_and_learns_the_class():
    torch.manual_seed(0)
    model = new_transformer(HaltonConfig(16, 3, 4, hidden_dim=48, depth=2, heads=4, dropout=0.0))
    tokens, labels = torch.full((3, 4), 16), torch.arange(3)
    loss = torch.nn.functional.cross_entropy(model(tokens, labels).flatten(0, 1), torch.arange(12))
    assert loss.item() == pytest.approx(np.log(16), abs=0.3)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_state_of_the_optimizer_is_not_read(tmp_path):
    weights, _ = golden_weights("tiny")
    stored = wrapped(weights)
    stored["optimizer_state_dict"]["state"][0]["exp_avg_sq"] = torch.full((64,), 7.25)
    torch.save(stored, tmp_path / "model.pth")
    damaged = (tmp_path / "model.pth").read_bytes()
    assert damaged.count(torch.full((64,), 7.25).numpy().tobytes()) == 1
    damaged = damaged.replace(torch.full((64,), 7.25).numpy().tobytes(), bytes(256))
    (tmp_path / "model.pth").write_bytes(damaged)  # its checksum is wrong now
    read = read_torch_file(tmp_path / "model.pth")
    assert read.keys() == stored.keys() - {"optimizer_state_dict"}
    found = read["model_state_dict"]
    assert all(v.equal(found[f"module._orig_mod.{name}"]) for name, v in weights.items())
    bias = weights["last_norm.mlp.1.bias"].numpy().tobytes()
    (tmp_path / "model.pth").write_bytes(damaged.replace(bias, bytes(len(bias))))
    with pytest.raises(UserError, match=r"model\.pth"):
        read_torch_file(tmp_path / "model.pth")


def test_a_block_with_very_many_logits_is_decoded_in_parts(tmp_path, monkeypatch):
    weights, _ = golden_weights("tiny")
    model = opened(weights, CASES["tiny"], tmp_path, heads=4)
    labels = [0, 1, 2, 3, 4, 0, 1, 2]  # four parts of two
    expected = model.sample(labels, block_size=2, seed=3, guidance=0)
    seen = []
    forward = HaltonTransformer.forward

    def counted(self, tokens, *more):
        seen.append(len(tokens))
        return forward(self, tokens, *more)

    monkeypatch.setattr(HaltonTransformer, "forward", counted)
    monkeypatch.setattr("models.generator.MOST_LOGITS", 2.7 * 16 * 12)
    found = model.sample(labels, block_size=8, seed=3, guidance=0)
    assert max(seen) == 2
    assert np.array_equal(found, expected)
