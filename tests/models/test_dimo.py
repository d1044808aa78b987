"""Di[M]O's one-step student computes what it computes there, and starts as it starts there.

golden/dimo.npz comes from yuanzhi-zhu/DiMO at commit 2461374: the logits of
MaskGit_src.Network.transformer.MaskTransformer with noise_emb_perturb 0.1, the weights of
`fill_transformer`, and the noise of `noise` in the place of random numbers.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_values import fill_transformer, read_golden, transformer_inputs, uniform

from models.dimo.student import DimoConfig, DimoTransformer, noise_of, read, recognizes
from models.family import Expected
from models.foreign_file import ForeignFile
from models.maskgit.foreign import to_foreign
from models.open import family_of_file, new_transformer
from models.predictors import prepare_decoding
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from utils.checkpoint import build_with_weights


@pytest.mark.parametrize(
    ("case", "codes", "classes", "side", "heads"), [("small", 12, 5, 4, 8), ("odd", 20, 7, 3, None)]
)
def test_logits_are_the_original_s(case, codes, classes, side, heads, monkeypatch):
    weights, expected = read_golden("dimo", case, "logits", fill=fill_transformer)
    file = ForeignFile(weights, Path("a.bin"))
    given = {} if heads is None else {"heads": heads}
    config, theirs = read(file, Expected(VQGANConfig(n_embed=codes), None, given))
    network = build_with_weights(lambda: DimoTransformer(config), theirs)
    assert network.config.null_class is None
    monkeypatch.setattr("models.dimo.student.noise_of", lambda tokens, width: noise(tokens, width))
    with torch.no_grad():
        logits = network(*transformer_inputs(codes, side**2, classes))
    # Theirs can predict the mask token too.
    torch.testing.assert_close(logits, expected[..., :codes], atol=1e-5, rtol=0)
    written = to_foreign(network)
    assert written.keys() == weights.keys()
    assert all(value.equal(weights[name]) for name, value in written.items())


def noise(tokens, width):
    return torch.from_numpy(uniform("noise", (*tokens.shape, width)).astype(np.float32))


def test_it_is_recognized_by_the_size_of_its_teacher_without_a_training_state():
    with torch.device("meta"):
        like = {"tok_emb.weight": torch.empty(2026, 768), "pos_emb": torch.empty(1, 257, 768)}
        last = {"transformer.layers.23.0.norm.weight": torch.empty(768)}
    path = Path("pytorch_model.bin")
    assert recognizes(ForeignFile(like | last, path))
    assert not recognizes(ForeignFile(like, path))
    files = [ForeignFile(s, path) for s in (like | last, {"model_state_dict": like | last})]
    assert [family_of_file("transformer", one).name for one in files] == ["dimo", "maskgit"]


def test_it_samples_in_one_step_from_random_tokens_and_noise():
    shape = DimoConfig(1024, 10, 256, hidden_dim=16, heads=2, depth=1, null_trained=False)
    network = new_transformer(shape).eval()
    assert isinstance(network, DimoTransformer)
    settings = SamplingConfig.usual_for(shape)
    settings.validate_for(shape)
    labels, indices = np.arange(4), np.arange(4)
    decoding = prepare_decoding(network, labels, indices, settings, seed=0)
    random = decoding.tokens[decoding.tokens != 1024]
    assert (decoding.tokens == 1024).sum(1).tolist() == [154] * 4  # round(0.6 * 256)
    assert random.float().mean().item() == pytest.approx(512, abs=60)
    assert decoding.hidden.all()
    assert decoding.plan.counts.tolist() == [256]
    drawn = noise_of(decoding.tokens, 64)
    assert (drawn.mean().item(), drawn.std().item()) == pytest.approx((0, 1), abs=0.01)
    assert np.abs(np.corrcoef(drawn.flatten(1).numpy()) - np.eye(4)).max() < 0.03
    alone = prepare_decoding(network, labels[2:], indices[2:], settings, seed=0)
    assert alone.result().equal(decoding.result()[2:])
