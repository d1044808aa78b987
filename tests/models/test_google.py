"""google-research's files of flax open, and compute what they compute there.

golden/google.npz comes from google-research/maskgit at commit 1db2359, with flax 0.12.8 and matrix
products in float32: the results of maskgit.nets.vqgan_tokenizer.VQVAE for `pictures`, and the
logits of maskgit.nets.maskgit_transformer.Transformer, with the weights of `fill_flax`.
"""

import numpy as np
import pytest
import torch
from flax_files import nested, packed
from golden_values import fill_flax, pictures, read_golden, transformer_inputs
from toy_families import GrayConfig, GrayNetwork

from models.google.transformer import BertConfig
from models.model import Model
from models.open import load_model, load_tokenizer, new_transformer
from models.tokenizer import Tokenizer
from utils.errors import UserError


def write(weights, path):
    path.write_bytes(packed({"params": nested(weights)}))
    return path


@pytest.mark.parametrize(("case", "size", "blocks"), [("flax", 32, 2), ("flax f2", 12, 1)])
def test_tokens_and_images_are_the_original_s(case, size, blocks, tmp_path):
    weights, tokens, images = read_golden("google", case, "tokens", "images", fill=fill_flax)
    tokenizer = load_tokenizer(write(weights, tmp_path / "tokenizer_checkpoint"), size, 3)
    assert (tokenizer.config.family, tokenizer.config.num_res_blocks) == ("maskgit_vqgan", blocks)
    found = tokenizer.encode(pictures(size))
    assert found.equal(tokens.long())
    with torch.no_grad():
        made = tokenizer.network.decode_tokens(found)
    torch.testing.assert_close(made, images, atol=1e-5 * images.abs().max().item(), rtol=0)
    for changed in (
        {**weights, "encoder.ResBlock_0.Conv_9.kernel": torch.ones(1)},
        {name: value for name, value in weights.items() if name != "decoder.Conv_0.bias"},
    ):
        with pytest.raises(UserError, match=r"Conv_9.weight is not part of it|conv_in.bias is mis"):
            load_tokenizer(write(changed, tmp_path / "tokenizer_checkpoint"), size)


CASES = {
    "two blocks": BertConfig(12, 5, 16, hidden_dim=32, depth=2, heads=4, mlp_dim=48),
    "three blocks": BertConfig(20, 7, 9, hidden_dim=48, depth=3, heads=6, mlp_dim=40),
}


def opened(case, folder, change=lambda weights: weights) -> tuple[Model, torch.Tensor]:
    weights, logits = read_golden("google", case, "logits", fill=fill_flax)
    side = int(CASES[case].seq_len ** 0.5)
    shape = GrayConfig((2 * side, 2 * side), 3, (side, side), CASES[case].codebook_size)
    path = write(change(weights), folder / "maskgit_checkpoint")
    tokenizer = Tokenizer(GrayNetwork(shape))
    return load_model(path, tokenizer=tokenizer, device="cpu", precision="fp32"), logits


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_original_s(case, tmp_path):
    config = CASES[case]
    model, expected = opened(case, tmp_path)
    assert model.transformer.config == config
    tokens, labels = transformer_inputs(config.codebook_size, config.seq_len, config.num_classes)
    labels %= config.num_classes
    with torch.no_grad():
        logits = model.transformer(tokens, labels)
        some = model.transformer(tokens, labels, torch.tensor([0, 5, 5 + config.seq_len]))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(some[2], logits[1, 5], atol=1e-5, rtol=0)
    # It has no null class, so it is sampled and edited without guidance.
    image = model.sample([0, 4], num_steps=3)[0]
    mask = np.zeros(image.shape[:2], bool)
    mask[:4] = True
    assert (model.edit(image, mask, [1], num_steps=2)[0] == image)[~mask].all()
    with pytest.raises(UserError, match="no trained null class"):
        model.sample([0], guidance=1.0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("TransformerLayer_1.Attention_0.self_attention.key.kernel", "query.* has no key or value"),
        ("MlmLayer_0.mlm_ln.scale", r"last\.2\.weight is missing"),
    ],
)
def test_an_entry_more_or_less_is_refused(name, said, tmp_path):
    with pytest.raises(UserError, match=said):
        opened("two blocks", tmp_path, lambda w: {n: v for n, v in w.items() if n != name})
    with pytest.raises(UserError, match=r"Embed_1\.weight is not part of it"):
        opened("two blocks", tmp_path, lambda w: {**w, "Embed_1.scale": torch.ones(1)})


def test_it_learns_the_class():
    torch.manual_seed(0)
    model = new_transformer(BertConfig(16, 3, 4, hidden_dim=48, depth=2, heads=4, dropout=0.0))
    tokens, labels = torch.full((3, 4), 16), torch.arange(3)
    loss = torch.nn.functional.cross_entropy(model(tokens, labels).flatten(0, 1), torch.arange(12))
    assert loss.item() == pytest.approx(np.log(16), abs=0.3)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
