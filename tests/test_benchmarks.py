"""The benchmarks' baseline computes what our path computes; a record is trained and printed."""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import record
from benchmarks.baseline import PlainTransformer, Trainer, sample
from benchmarks.speed import forward_flops
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel

CONFIG = TransformerConfig(
    codebook_size=16, num_classes=3, seq_len=16, embed_dim=8, hidden_dim=32, heads=4, depth=2,
    mlp_dim=48,
)  # fmt: skip


@pytest.fixture
def plain():
    torch.manual_seed(0)
    ours = MaskedTransformer(CONFIG).eval()
    plain = PlainTransformer(CONFIG).eval()
    plain.load_ours(ours)
    return ours, plain


@pytest.fixture
def vqgan():
    config = VQGANConfig(
        image_size=16, channels=32, z_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1,
        attn_resolutions=(), n_embed=16, embed_dim=8,
    )  # fmt: skip
    return VQModel(config).eval().requires_grad_(False)


def test_the_baseline_has_the_same_logits(plain):
    ours, plain = plain
    tokens, labels = torch.randint(0, 17, (5, 16)), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(plain(tokens, labels), ours(tokens, labels), atol=1e-5, rtol=0)


def test_the_baseline_learns_and_samples(plain, vqgan):
    _, plain = plain
    trainer = Trainer(plain, vqgan)
    images, labels = torch.randn(8, 1, 16, 16).tanh(), torch.arange(8) % 3
    losses = [trainer.step(images, labels) for _ in range(200)]
    assert sum(losses[-20:]) < sum(losses[:20])
    made = sample(plain, vqgan, labels, SamplingConfig(num_steps=4), [1, 3, 5, 7])
    assert made.shape == images.shape
    assert made.std() > 0


def test_operations_are_those_that_torch_counts(plain):
    ours, _ = plain
    tokens, labels = torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    math_attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math_attention, FlopCounterMode(display=False) as counter:
        ours(tokens, labels)
    assert forward_flops(CONFIG, 16) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_record_is_a_row(monkeypatch, data_dir, tokenizer_file, tmp_path, capsys):
    own = f"--checkpoint_vae {tokenizer_file} --data_dir {data_dir} --output_dir {tmp_path}"
    monkeypatch.setattr(record, "TASK", f"--train --dataset mnist --batch_size 16 {own}")
    options = "--transformer modern --hidden_dim 8 --heads 2 --depth 1 --mlp_dim 8"
    monkeypatch.setattr(sys, "argv", ["record.py", "--steps", "2", *options.split()])
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as in an archive of the source, without git
    record.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    titles, _, row = ([*map(str.strip, line.split("|"))] for line in printed)
    found = dict(zip(titles, row, strict=True))
    assert (found["family"], found["steps"], found["options"]) == ("modern", "2", f"`{options}`")
    assert found["commit"] == "unknown"
    assert float(found["loss"].split(",")[0]) > 0
    assert not (tmp_path / "mnist").exists()  # it is not a run
