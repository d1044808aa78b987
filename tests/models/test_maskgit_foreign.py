"""Transformers of other programs load and compute what they compute there.

The logits in golden/maskgit.npz come from caetas/GenerativeZoo at commit 100f5ff and from
valeoai/Maskgit-pytorch v1.0 at commit 674ef1d, whose MaskTransformer was filled with the weights
that `fill_transformer` makes and given those of `transformer_inputs`.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_values import GOLDEN, fill_transformer, read_golden, transformer_inputs
from safetensors.torch import save_file

from models.family import Expected
from models.foreign_file import ForeignFile
from models.maskgit.config import TransformerConfig
from models.maskgit.foreign import read, to_foreign
from models.maskgit.transformer import MaskedTransformer
from models.open import foreign_model, load_tokenizer, read_network
from models.vqgan.config import VQGANConfig
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.torch_file import read_torch_file

GOLDEN_CASES = {
    "genzoo": {"program": "genzoo", "side": 4, "codebook_size": 12, "nclass": 5, "hidden_dim": 32,
               "depth": 2, "heads": 8, "mlp_dim": 48},
    "valeoai": {"program": "valeoai", "side": 3, "codebook_size": 20, "nclass": 7, "hidden_dim": 64,
                "depth": 3, "heads": 16, "mlp_dim": 32},
}  # fmt: skip


def load(stored, codebook_size):
    expected = Expected(VQGANConfig(n_embed=codebook_size), None, {})
    return read_network("transformer", ForeignFile(stored, Path("model.pth")), expected)


def golden_weights(name):
    return read_golden("maskgit", name, "logits", fill=fill_transformer)


def wrapped(name, weights):
    if name == "genzoo":
        return weights
    return {"iter": 7, "global_epoch": 1, "model_state_dict": weights, "optimizer_state_dict": {}}


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_foreign_transformers_compute_the_same_logits(name, tmp_path):
    weights, expected = golden_weights(name)
    case = GOLDEN_CASES[name]
    path = tmp_path / "model.pth"
    torch.save(wrapped(name, weights), path)
    model = load(read_torch_file(path), case["codebook_size"])
    assert model.config == TransformerConfig(
        codebook_size=case["codebook_size"], num_classes=case["nclass"],
        seq_len=case["side"] ** 2, embed_dim=case["hidden_dim"], hidden_dim=case["hidden_dim"],
        depth=case["depth"], heads=case["heads"], mlp_dim=case["mlp_dim"],
    )  # fmt: skip
    with torch.no_grad():
        logits = model(
            *transformer_inputs(case["codebook_size"], case["side"] ** 2, case["nclass"])
        )
    # Theirs can predict the mask token too.
    torch.testing.assert_close(logits, expected[..., : case["codebook_size"]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.module._orig_mod."])
def test_wrapped_modules_and_safetensors_are_read_too(tmp_path, prefix, name):
    weights, _ = golden_weights("genzoo")
    path = tmp_path / name
    save_file({prefix + key: value for key, value in weights.items()}, path)
    assert load(read_torch_file(path), 12).config.depth == 2


@pytest.mark.parametrize(
    ("wrap", "heads"),
    [
        (lambda weights: {"state_dict": weights, "epoch": 3}, 8),
        (lambda weights: {"model": {"ema": weights}}, 8),
        (lambda weights: {"params": {"net": {"model_state_dict": weights}}}, 16),
        (lambda weights: {"ema": weights, "model": {k: v + 1 for k, v in weights.items()}}, 8),
    ],
)
def test_wrapped_dictionaries_are_read_too(tmp_path, wrap, heads):
    weights, _ = golden_weights("valeoai")
    torch.save(wrap(weights), tmp_path / "model.pth")
    model = load(read_torch_file(tmp_path / "model.pth"), 20)
    assert (model.config.depth, model.config.heads) == (3, heads)
    assert model.output_bias.equal(weights["bias"])


@pytest.mark.parametrize("num_classes", [10, 4])
def test_a_vocabulary_of_all_codes_of_a_remapped_tokenizer_is_cut(num_classes):
    """GenerativeZoo keeps K = n_embed with --remap; the ids of the codes in use come first."""
    whole = MaskedTransformer(
        TransformerConfig(
            12, num_classes, 4, embed_dim=8, hidden_dim=8, depth=1, heads=8, mlp_dim=8
        )
    ).eval()
    stored, path = to_foreign(whole), Path("model.pth")
    tokenizer = VQGANConfig(n_embed=12, remap=(3, 1, 4, 5, 9))
    expected = Expected(tokenizer, num_classes, {})
    cut = read_network("transformer", ForeignFile(stored, path), expected)
    assert (cut.config.codebook_size, cut.config.num_classes) == (5, num_classes)
    tokens = torch.tensor([[0, 4, 2, 1]])
    hidden = torch.tensor([[0, 4, -1, 1]])  # position 2 is hidden
    for label in (0, num_classes):  # num_classes is "no class"
        ours = cut(hidden.where(hidden >= 0, 5), torch.tensor([label]))
        theirs = whole(hidden.where(hidden >= 0, 12), torch.tensor([label]))
        torch.testing.assert_close(ours, theirs[..., :5])
    assert cut(tokens, torch.tensor([1])).shape == (1, 4, 5)
    # Our own files count the codes in use.
    own = read_network("transformer", ForeignFile(to_foreign(cut), path), expected)
    assert own.state_dict().keys() == cut.state_dict().keys()
    assert all(own.state_dict()[name].equal(value) for name, value in cut.state_dict().items())
    with pytest.raises(
        UserError, match=rf"{num_classes} classes if it counts all 12 .* `n_classes`"
    ):
        read(ForeignFile(stored, path), Expected(tokenizer, None, {}))


def ten_classes(trained, path, **changes):
    """A file of GenerativeZoo, trained with its default of ten classes."""
    config = load_checkpoint(trained / "MaskGIT_mnist.pt", "maskgit")["config"]
    model = MaskedTransformer(TransformerConfig(**{**config, "num_classes": 10, **changes}))
    torch.save({k: v.contiguous() for k, v in to_foreign(model).items()}, path)


@pytest.mark.parametrize(("labels", "dataset"), [("drusen", "octmnist"), ("9", "mnist")])
def test_ten_classes_on_a_set_of_another_number(
    run, trained, tokenizer_file, tmp_path, labels, dataset
):
    ten_classes(trained, tmp_path / "other.pth")
    said = run(
        f"--sample --checkpoint {tmp_path}/other.pth --dataset {dataset} --n_classes 10 --heads 2 "
        f"--checkpoint_vae {tokenizer_file} --labels {labels}"
    )
    is_warned = "has 10 classes and octmnist 4: the others were not trained" in said
    assert is_warned == (dataset == "octmnist")
    assert (tmp_path / dataset / "samples" / "samples.npz").is_file()


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (("cat", "dog"), ("cat", "dog", "2", "3", "4", "5", "6", "7", "8", "9")),
        ((), tuple("0123456789")),
        (tuple("abcdefghijklmnop"), tuple("abcdefghij")),
    ],
)
def test_the_classes_of_a_foreign_file_have_the_names_that_there_are(
    trained, tokenizer_file, tmp_path, known, names
):
    ten_classes(trained, tmp_path / "other.pth")
    tokenizer, path = load_tokenizer(tokenizer_file), tmp_path / "other.pth"
    model = foreign_model(read_torch_file(path), path, tokenizer, "any", known, num_classes=10)
    assert model.class_names == names


def test_a_remapped_file_is_sampled_by_the_command_line(run, trained, tokenizer_file, tmp_path):
    ten_classes(trained, tmp_path / "other.pth")
    np.save(tmp_path / "used.npy", np.arange(13))
    run(
        f"--sample --checkpoint {tmp_path}/other.pth --dataset mnist --heads 2 --num_samples 4 "
        f"--checkpoint_vae {tokenizer_file} --remap {tmp_path}/used.npy"
    )
    with np.load(tmp_path / "mnist" / "samples" / "samples.npz") as stored:
        assert stored["arr_0"].shape[0] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tok_emb.weight": torch.ones(())}, "token_embedding.weight has the shape ()"),
        ({"tok_emb.weight": torch.ones(19, 0)}, "token_embedding.weight has the shape (19, 0)"),
        ({"pos_emb": torch.ones(())}, "position_embedding has the shape ()"),
        ({"pos_emb": torch.ones(1, 0, 32)}, "position_embedding has the shape (0, 32)"),
        ({"transformer.layers.0.1.fn.net.0.bias": torch.ones(())}, "mlp.0.bias has the shape ()"),
        ({"bias": torch.ones(())}, "output_bias is float32 ()"),
        ({"bias": [torch.ones(())]}, "output_bias is missing"),
        ({"bias": torch.ones(17, 19, dtype=torch.int64)}, "output_bias is int64 (17, 19)"),
    ],
)
def test_weights_of_impossible_shapes_are_named(tmp_path, change, said):
    weights, _ = golden_weights("genzoo")
    torch.save({**weights, **change}, tmp_path / "model.pth")
    with pytest.raises(UserError) as refused:
        load(read_torch_file(tmp_path / "model.pth"), 12)
    assert "do not make a transformer" in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("embed_dim", [16, 8])
def test_exported_weights_compute_the_same(embed_dim):
    torch.manual_seed(0)
    config = TransformerConfig(
        codebook_size=9, num_classes=3, seq_len=16, embed_dim=embed_dim, hidden_dim=16, heads=8,
        depth=2, mlp_dim=24,
    )  # fmt: skip
    model = MaskedTransformer(config).eval()
    again = load(to_foreign(model), 9)
    tokens, labels = torch.randint(0, 10, (5, 16)), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        ours, theirs = model(tokens, labels), again(tokens, labels)
    if embed_dim == 16:
        assert ours.equal(theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_exported_names_and_shapes_are_theirs():
    with np.load(GOLDEN / "maskgit.npz") as stored:
        names = set(stored["genzoo/names"].tolist())
    case = GOLDEN_CASES["genzoo"]
    config = TransformerConfig(
        case["codebook_size"], case["nclass"], case["side"] ** 2, embed_dim=8,
        hidden_dim=case["hidden_dim"], depth=2, heads=8, mlp_dim=48,
    )  # fmt: skip
    exported = to_foreign(MaskedTransformer(config))
    assert {f"{k} {' '.join(map(str, v.shape))}" for k, v in exported.items()} == names


def test_export_and_sampling_of_a_foreign_file_by_the_command_line(
    run, trained, tokenizer_file, tmp_path
):
    exported = tmp_path / "exported.pth"
    run(f"--export {exported} --checkpoint {trained}/MaskGIT_mnist.pt")
    foreign = f"--checkpoint {exported} --dataset mnist --checkpoint_vae {tokenizer_file} --heads 2"
    made = []
    for name, source in (("foreign", foreign), ("own", f"--checkpoint {trained}/MaskGIT_mnist.pt")):
        run(f"--sample {source} --run_name {name} --num_samples 12 --precision fp32")
        with np.load(tmp_path / name / "samples" / "samples.npz") as stored:
            made.append(stored["arr_0"])
    assert (made[0] == made[1]).mean() > 0.99  # folding the map rounds


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--checkpoint_vae {vae}", "--dataset"),
        ("--checkpoint_vae {vae} --dataset mnist --heads 3", "must be divisible by --heads 3"),
        ("--checkpoint_vae {vae} --dataset mnist --heads 2 --depth 3", "--depth 3"),
        (
            "--checkpoint_vae {vae} --dataset octmnist --heads 2",
            "is for 10 classes if the tokenizer has 16 codes, and not for 4: if it was trained "
            "with --n_classes 10, give that too",
        ),
        (
            "--checkpoint_vae {vae} --dataset octmnist --heads 2 --n_classes 11",
            "is for 10 classes if the tokenizer has 16 codes, and not for 11",
        ),
        (
            "--checkpoint_vae {vae} --dataset octmnist --heads 2 --remap {folder}/used.npy",
            "is for 10 classes if it counts all 16 codes of the tokenizer, and for 13 if it counts "
            "the 13 in use: give the right one as --n_classes",
        ),
        ("--checkpoint_vae {folder}/other.pth --dataset mnist", "no VQ-GAN"),
    ],
)
def test_what_does_not_fit_a_foreign_file_is_named(
    run, trained, tokenizer_file, tmp_path, capsys, options, said
):
    stored = load_checkpoint(trained / "MaskGIT_mnist.pt", "maskgit")
    model = MaskedTransformer(TransformerConfig(**{**stored["config"], "heads": 2}))
    torch.save({k: v.contiguous() for k, v in to_foreign(model).items()}, tmp_path / "other.pth")
    np.save(tmp_path / "used.npy", np.arange(13))
    given = options.format(vae=tokenizer_file, folder=tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(f"--sample --checkpoint {tmp_path}/other.pth {given}")
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_nothing_is_overwritten_by_an_export(run, trained, tmp_path, capsys):
    (tmp_path / "exported.pth").write_text("precious")
    with pytest.raises(SystemExit):
        run(f"--export {tmp_path}/exported.pth --checkpoint {trained}/MaskGIT_mnist.pt")
    assert (tmp_path / "exported.pth").read_text() == "precious"


def test_a_tokenizer_is_no_transformer():
    with pytest.raises(UserError, match="no transformer"):
        load({"encoder.conv_in.weight": torch.ones(1)}, 16)


def test_positions_of_one_dimension_are_refused():
    weights, _ = golden_weights("genzoo")
    with pytest.raises(UserError, match="do not make a transformer"):
        load({**weights, "pos_emb": torch.ones(17)}, 12)


def without(name):
    return lambda contents: contents["ema"].pop(name)


def instead(name, change):
    return lambda contents: contents["ema"].update({name: change(contents["ema"][name])})


@pytest.mark.parametrize(
    "spoil",
    [
        without("output_bias"),
        instead("output_bias", lambda weight: weight[1:]),
        instead("output_bias", lambda weight: weight * math.nan),
        instead("output_bias", lambda weight: "text"),
        lambda contents: contents["ema"].update(extra=torch.ones(1)),
        lambda contents: contents["config"].update(heads=5),
        lambda contents: contents["config"].update(color="red"),
        lambda contents: contents.update(config=3),
        lambda contents: contents.pop("ema"),
        lambda contents: contents["tokenizer"]["weights"].popitem(),
        lambda contents: contents["tokenizer"].update(fingerprint="other"),
        lambda contents: contents.pop("tokenizer"),
        lambda contents: contents.pop("class_names"),
    ],
)
def test_whole_files_whose_contents_do_not_fit_are_refused(run, trained, tmp_path, capsys, spoil):
    contents = load_checkpoint(trained / "MaskGIT_mnist.pt", "maskgit")
    spoil(contents)
    save_checkpoint(tmp_path / "spoilt.pt", "maskgit", contents)
    with pytest.raises(SystemExit) as stop:
        run(f"--sample --checkpoint {tmp_path}/spoilt.pt")
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_sampling_of_a_foreign_file_starts_afresh_with_other_heads(
    run, trained, tokenizer_file, tmp_path, monkeypatch
):
    exported = tmp_path / "exported.pth"
    run(f"--export {exported} --checkpoint {trained}/MaskGIT_mnist.pt")
    foreign = f"--sample --checkpoint {exported} --dataset mnist --checkpoint_vae {tokenizer_file}"
    with monkeypatch.context() as patch:
        # All blocks are made, and the results are not published.
        patch.setattr("data.publish.publish_blocks", lambda *_: None)
        run(f"{foreign} --heads 2 --num_samples 8")
    partial = tmp_path / "mnist" / "samples" / "partial"
    with_two = {block.name for block in partial.glob("block_*")}
    with monkeypatch.context() as patch:
        patch.setattr("data.publish.publish_blocks", lambda *_: None)
        run(f"{foreign} --heads 4 --num_samples 8")
    assert with_two.isdisjoint(block.name for block in partial.glob("block_*"))


@pytest.mark.parametrize("entry", ["reg_tokens.weight", "transformer.layers.0.0.gate", "head.bias"])
def test_a_file_with_an_entry_that_nothing_computes_is_refused(tmp_path, entry):
    weights, _ = golden_weights("genzoo")
    torch.save({**weights, entry: torch.ones(2)}, tmp_path / "model.pth")
    with pytest.raises(UserError, match=f"do not make a transformer: {entry} is not part of it"):
        load(read_torch_file(tmp_path / "model.pth"), 12)


def test_a_file_with_two_entries_for_one_weight_is_refused(tmp_path):
    weights, _ = golden_weights("genzoo")
    torch.save({**weights, "output_bias": weights["bias"]}, tmp_path / "model.pth")
    with pytest.raises(UserError, match="two of its entries are for the same weight"):
        load(read_torch_file(tmp_path / "model.pth"), 12)
